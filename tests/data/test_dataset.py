"""The DatasetDict: each row has the label and the waveform of its clip, and no other clips are included.

Run: python -m pytest tests/data/test_dataset.py
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, DatasetDict, List, Value

from utils.data.audio import read_waveform
from utils.data.corpora import parse_clip
from utils.data.dataset import METADATA, build_dataset
from utils.data.decoding import Waveforms
from utils.data.splits import SPLITS, split_table
from utils.data.table import check_table, read_table

EMOTIONS = ("sad", "neutral", "angry")  # not in the order of the vocabulary, which must not matter
BROKEN, ORIGINAL, COPY = "03-03-05-01-01-01-09", "03-03-04-01-01-01-01", "03-03-04-01-01-02-01"


@pytest.fixture(scope="module")
def built(demo_folder, tmp_path_factory):
    """Table, dataset and cache folder of the demo voices, with a damaged clip and a copy among them."""
    extra, cache_dir = tmp_path_factory.mktemp("extra"), tmp_path_factory.mktemp("cache")
    (extra / f"{BROKEN}.wav").write_bytes(b"broken")
    shutil.copy(next(demo_folder.rglob(f"{ORIGINAL}.wav")), extra / f"{COPY}.wav")
    table, waveforms = read_table({"demo": [*demo_folder.rglob("*.wav"), *extra.glob("*.wav")]}, cache_dir)
    assert len(table) == 122
    table, _ = check_table(table, allow_partial=True)
    table = split_table(table, "random", EMOTIONS)
    return table, build_dataset(table, waveforms, EMOTIONS), cache_dir


def test_splits_and_features(built):
    _, dataset, _ = built
    assert isinstance(dataset, DatasetDict) and tuple(dataset) == SPLITS
    for split in dataset.values():
        assert split.features["label"] == ClassLabel(names=list(EMOTIONS))
        assert split.features["waveform"] == List(Value("float32"))
        assert set(split.column_names) == {"waveform", "num_samples", "label", *METADATA}


def test_each_row_has_label_speaker_and_waveform_of_its_clip(built):
    table, dataset, _ = built
    paths = dict(zip(table["clip"], table["path"], strict=True))
    num_checked = 0
    for split in dataset.values():
        for row, waveform in zip(split.remove_columns("waveform"), Waveforms(split), strict=True):
            labels = parse_clip(paths[row["clip"]])
            assert split.features["label"].int2str(row["label"]) == labels.emotion
            assert {name: row[name] for name in METADATA} == {
                name: getattr(labels, name) for name in METADATA
            }
            assert waveform.dtype == np.float32
            assert np.array_equal(waveform, read_waveform(paths[row["clip"]]))
            assert row["num_samples"] == len(waveform)
            num_checked += 1
    assert num_checked == len(table) == 2 * 4 * (2 + 1 + 2)


def test_each_split_contains_its_clips_only(built):
    table, dataset, _ = built
    for split in SPLITS:
        clips = table["clip"][table["split"] == split].tolist()
        assert dataset[split]["clip"][:] == clips and clips
    clips_in_dataset = {clip for split in dataset.values() for clip in split["clip"]}
    assert ORIGINAL in clips_in_dataset
    assert not clips_in_dataset & {BROKEN, COPY}
    assert {parse_clip(f"{clip}.wav").emotion for clip in clips_in_dataset} == set(EMOTIONS)


def test_waveforms_are_memory_mapped(built):
    _, dataset, cache_dir = built
    assert len(list(cache_dir.iterdir())) == 2  # the waveforms and the digests of the files
    [entry] = cache_dir.glob("*.arrow")
    for split in dataset.values():
        assert {Path(used["filename"]) for used in split.cache_files} == {entry}
