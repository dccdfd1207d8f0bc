"""Audio files to one table of labelled clips, split by speaker.

In: names of corpora, folders, zips. Out: a table with a row per clip, and a memory-mapped Dataset with the
waveform of each (float32, mono, 16 kHz).
"""

from utils.data.audio import SAMPLING_RATE
from utils.data.corpora import CORPORA
from utils.data.dataset import build_dataset
from utils.data.decoding import Waveforms
from utils.data.loading import LoadedClips, load_clips, plan_models
from utils.data.splits import (
    SINGLE_MODEL,
    SPLITS,
    Plan,
    selection_folds,
    selection_unit,
    training_parts,
)

__all__ = [
    "CORPORA",
    "SAMPLING_RATE",
    "SINGLE_MODEL",
    "SPLITS",
    "LoadedClips",
    "Plan",
    "Waveforms",
    "build_dataset",
    "load_clips",
    "plan_models",
    "selection_folds",
    "selection_unit",
    "training_parts",
]
