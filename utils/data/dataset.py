"""A table with splits and its waveforms come in; a Hugging Face `DatasetDict` goes out.

Nothing is copied: the waveforms stay memory-mapped where `audio.decode_files` put them.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.splits import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

METADATA = ("clip", "corpus", "speaker", "gender", "intensity", "text")


def build_dataset(table: pd.DataFrame, waveforms: "Dataset", emotions: tuple[str, ...]) -> "DatasetDict":
    """Join labels and waveforms.

    Args:
        table: the clips to use, with `split`; its index holds their rows in `waveforms`.
        waveforms: Dataset with a `waveform` column, as from `table.read_table`.
        emotions: the label names; label i is `emotions[i]`.

    Returns:
        DatasetDict with train, validation and test: `waveform` (float32, 16 kHz), `num_samples`,
        `label` (ClassLabel) and the columns of `METADATA`.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets

    # One metadata row per waveform, used or not, so that the columns can stand side by side.
    aligned = table.reindex(range(len(waveforms)))
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    columns = {name: aligned[name].fillna("") for name in METADATA}
    columns["num_samples"] = aligned["num_samples"].fillna(0).astype(int)
    columns["label"] = aligned["emotion"].map(labels).fillna(-1).astype(int)
    features = Features(
        {name: Value("string") for name in METADATA}
        | {"num_samples": Value("int64"), "label": ClassLabel(names=list(emotions))}
    )
    metadata = Dataset.from_pandas(pd.DataFrame(columns), features, preserve_index=False)
    clips = concatenate_datasets([waveforms.select_columns("waveform"), metadata], axis=1)
    return DatasetDict(
        {
            split: clips.select(np.flatnonzero(aligned["split"] == split), keep_in_memory=True)
            for split in SPLITS
        }
    )
