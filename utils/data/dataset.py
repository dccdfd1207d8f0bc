"""Build a Hugging Face `DatasetDict` from a table with splits and the waveforms.

No waveform is copied: they stay memory-mapped in the file that `decoding.decode_files` wrote.
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
        waveforms: Dataset with a `waveform` column, as returned by `table.read_table`.
        emotions: label names; label i is `emotions[i]`.

    Returns:
        DatasetDict with train, validation and test: `waveform` (float32, 16 kHz), `num_samples`, `label`
        (ClassLabel) and the columns of `METADATA`.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets

    # Concatenating columns needs one metadata row per waveform, including the unused ones.
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
