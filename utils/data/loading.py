"""Load the clips of a run: find or download the corpora, decode them, check them, choose the emotions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from utils.data.corpora import CORPORA
from utils.data.custom_corpus import find_training_corpora
from utils.data.demo import make_demo_corpus
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.options import DataOptions
from utils.data.splits import PROTOCOL_WORDS, Plan, check_protocol, select_emotions, split_models
from utils.data.table import check_table, read_table
from utils.runtime import PROJECT_ROOT, logger

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class LoadedClips:
    """The clips of a run.

    Attributes:
        table: a row per usable clip of the chosen emotions, see `table.read_table`, with its integer `label`;
            the index points into `waveforms`.
        waveforms: Dataset with a `waveform` (float32, 16 kHz) per row, usable or not.
        digests: of the file of each row of `waveforms`.
        emotions: label i is `emotions[i]`.
        findings: what was found of each corpus, see `table.check_table`.
    """

    table: pd.DataFrame
    waveforms: "Dataset"
    digests: list[str]
    emotions: tuple[str, ...]
    findings: list[dict]


def load_clips(options: DataOptions, evaluate_on: Sequence[str] = ()) -> LoadedClips:
    """Load the clips that the options ask for; what is not on this machine is downloaded.

    Args:
        evaluate_on: folders of recordings to score later. They are checked now, and must not be trained on.

    Raises:
        InputError: a corpus cannot be found, or clips are missing or unusable and not `allow_partial`.
    """
    custom_files, custom_clips = find_training_corpora(
        options.train_on, evaluate_on, options.distinct_speakers
    )
    check_protocol(options.protocol, ["demo"] if options.demo else [*options.corpora, *custom_files])
    if options.demo:
        logger.info("DEMO: synthetic voices. These are not real results.")
        files = find_corpora(["demo"], [make_demo_corpus(PROJECT_ROOT / "data" / "demo")])
    else:
        files = find_corpora(options.corpora, [Path(folder) for folder in options.data_dir])
    files |= custom_files
    table, waveforms = read_table(files, options.cache_folder(), custom_clips)
    digests = table["digest"].tolist()
    table, findings = check_table(table, options.allow_partial)
    emotions = choose_emotions({name: CORPORA[name].emotions for name in files}, options.emotions or None)
    table = select_emotions(table, emotions)
    table["label"] = table["emotion"].map(emotions.index)
    return LoadedClips(table, waveforms, digests, emotions, findings)


def plan_models(clips: LoadedClips, protocol: str, seed: int, validates: bool = True) -> Plan:
    """Return the `split_models` of loaded clips, and log the protocol.

    Args:
        validates: whether the models need validation clips. Otherwise these train as well.
    """
    plan = split_models(clips.table, protocol, clips.emotions, seed)
    plan = plan if validates else plan.without_validation()
    logger.info("Split %s: %s", protocol, PROTOCOL_WORDS[protocol])
    return plan
