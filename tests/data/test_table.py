"""The table of clips: copies, contradictions, unusable and missing files, as in real folders.

Run: python -m pytest tests/data/test_table.py
"""

import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from test_corpora import WHOLE_CORPORA

from utils.data.audio import read_waveform
from utils.data.table import MAX_LISTED, check_table, read_table
from utils.runtime import InputError

NEUTRAL, HAPPY, HAPPY_AGAIN, OTHER_MAN = (
    "03-01-01-01-01-01-01",
    "03-01-03-01-02-01-07",
    "03-01-03-01-02-02-07",  # byte-identical to the previous one in RAVDESS
    "03-01-01-01-01-01-03",
)


def write_clip(folder: Path, name: str, seed: int | None = None) -> Path:
    """Write at least a quarter of a second of noise, different for each name or seed."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(name.encode()) if seed is None else seed)
    soundfile.write(
        folder / f"{name}.wav", generator.uniform(-0.5, 0.5, 4000 + generator.integers(500)), 16_000
    )
    return folder / f"{name}.wav"


@pytest.fixture
def read(tmp_path):
    """`read_table` of the files below a folder."""

    def read(folder=tmp_path / "corpus", corpus="ravdess"):
        return read_table({corpus: list(folder.rglob("*.wav"))}, tmp_path / "cache")

    return read


@pytest.fixture
def corpus(tmp_path):
    """Three clips of RAVDESS."""
    for name in (NEUTRAL, HAPPY, OTHER_MAN):
        write_clip(tmp_path / "corpus" / f"Actor_{name[-2:]}", name)
    return tmp_path / "corpus"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete corpus of 480 very short clips, named as the demo voices."""
    folder = tmp_path_factory.mktemp("whole") / "corpus"
    for name in WHOLE_CORPORA["demo"]:
        write_clip(folder / f"Actor_{name[-2:]}", name)
    return folder


def problems(table) -> dict[str, str]:
    return {row.path: row.problem for row in table.itertuples() if row.problem}


def test_a_row_has_the_labels_of_the_name_and_the_length_of_the_audio(read, corpus):
    table, waveforms = read()
    assert table["clip"].tolist() == [NEUTRAL, OTHER_MAN, HAPPY] and len(waveforms) == 3
    row = table.iloc[2]
    assert (row.corpus, row.speaker, row.emotion, row.gender) == ("ravdess", "ravdess-07", "happy", "male")
    assert (row.num_copies, row.same_as, row.problem) == (1, "", "")
    assert row.num_samples == len(read_waveform(row.path))
    assert row.duration_seconds == row.num_samples / 16_000
    with pytest.raises(InputError, match="RAVDESS speech: only 3 of 1440 clips"):
        check_table(table, allow_partial=False)


def test_the_index_points_into_the_waveforms_after_rows_were_dropped(read, corpus):
    (corpus / f"{OTHER_MAN}.wav").write_bytes(b"")  # sorts between the others
    table, waveforms = read()
    usable, _ = check_table(table, allow_partial=True)
    assert len(table) == 4 and len(usable) == 3
    for index, row in usable.iterrows():
        assert np.array_equal(waveforms[index]["waveform"], read_waveform(row.path))


def test_a_complete_corpus_passes_and_its_nested_copy_counts_once(read, whole, tmp_path):
    once, _ = read(whole, "demo")
    twice = tmp_path / "twice"
    shutil.copytree(whole, twice)
    shutil.copytree(whole, twice / "0" / "corpus")  # sorts before Actor_01
    table, waveforms = read(twice, "demo")
    assert len(table) == len(waveforms) == 480
    assert (once["num_copies"] == 1).all() and (table["num_copies"] == 2).all()
    assert not table["path"].str.contains("/0/").any()
    assert table.drop(columns=["path", "num_copies"]).equals(once.drop(columns=["path", "num_copies"]))
    usable, [finding] = check_table(table, allow_partial=False)
    assert len(usable) == 480
    assert finding == {
        "name": "demo",
        "clips_expected": 480,
        "clips_found": 480,
        "identical": [],
        "unusable": [],
    }


@pytest.mark.parametrize(
    ("missing", "added", "message", "cure"),
    [
        (["03-03-05-01-01-01-09"], [], "only 479 of 480 clips", "Get the missing files"),
        ([], ["03-03-05-01-01-01-17"], "481 of 480 clips", "Correct or remove these files"),
    ],
    ids=["too-few", "too-many"],
)
def test_another_number_of_clips_stops_the_run_unless_allowed(whole, tmp_path, missing, added, message, cure):
    files = [path for path in whole.rglob("*.wav") if path.stem not in missing]
    files += [write_clip(tmp_path, name) for name in added]
    table, _ = read_table({"demo": files}, tmp_path / "cache")
    with pytest.raises(InputError, match=f"synthetic demo voices: {message}") as error:
        check_table(table, allow_partial=False)
    assert "--allow_partial" in str(error.value) and cure in str(error.value)
    usable, [finding] = check_table(table, allow_partial=True)
    assert len(usable) == finding["clips_found"] == len(files)
    assert finding["clips_expected"] == 480


def test_one_recording_with_two_names_counts_once_and_is_reported(read, corpus):
    shutil.copy(corpus / "Actor_07" / f"{HAPPY}.wav", corpus / f"{HAPPY_AGAIN}.wav")
    table, _ = read()
    usable, [finding] = check_table(table, allow_partial=True)
    assert finding["identical"] == [f"{HAPPY_AGAIN} = {HAPPY}"]
    assert finding["clips_found"] == 4 and finding["unusable"] == []
    assert usable["clip"].tolist() == [NEUTRAL, OTHER_MAN, HAPPY]


@pytest.mark.parametrize("name", ["03-01-05-01-02-01-07", "03-01-03-01-02-01-09"], ids=["emotion", "speaker"])
def test_one_recording_with_contradicting_labels_is_not_used(read, corpus, name):
    copy = shutil.copy(corpus / "Actor_07" / f"{HAPPY}.wav", corpus / f"{name}.wav")
    table, _ = read()
    reason = f"one recording under contradicting labels: {' = '.join(sorted([HAPPY, name]))}"
    assert problems(table) == dict.fromkeys([str(copy), str(corpus / "Actor_07" / f"{HAPPY}.wav")], reason)
    usable, [finding] = check_table(table, allow_partial=True)
    assert usable["clip"].tolist() == [NEUTRAL, OTHER_MAN]
    assert sorted(finding["unusable"]) == sorted(f"{clip}: {reason}" for clip in (HAPPY, name))
    assert finding["identical"] == []


def test_one_name_for_two_recordings_is_reported_and_the_outer_file_is_used(read, corpus):
    nested = write_clip(corpus / "0" / "b", NEUTRAL, seed=1)
    table, _ = read()
    assert problems(table) == {str(nested): "another recording has the same name"}
    with pytest.raises(InputError, match=f"{nested}: another recording has the same name"):
        check_table(table, allow_partial=False)
    usable, [finding] = check_table(table, allow_partial=True)
    assert finding["clips_found"] == len(usable) == 3
    assert usable["path"].iloc[0] == str(corpus / "Actor_01" / f"{NEUTRAL}.wav")


def test_an_intact_copy_is_used_if_the_outer_file_is_damaged(read, corpus):
    nested = write_clip(corpus / "0" / "b", NEUTRAL)
    outer = corpus / "Actor_01" / f"{NEUTRAL}.wav"
    outer.write_bytes(outer.read_bytes()[:-100])
    table, _ = read()
    assert problems(table) == {str(outer): "truncated: its last 100 bytes are missing"}
    usable, _ = check_table(table, allow_partial=True)
    assert str(nested) in set(usable["path"]) and len(usable) == 3


def test_empty_files_do_not_count_as_copies_of_each_other(read, corpus):
    paths = [corpus / f"03-01-0{emotion}-01-01-01-05.wav" for emotion in (3, 4, 5)]
    for path in paths:
        path.touch()
    table, _ = read()
    assert problems(table) == {str(path): "empty file" for path in paths}
    usable, [finding] = check_table(table, allow_partial=True)
    assert finding["identical"] == [] and len(finding["unusable"]) == len(usable) == 3


def test_unusable_files_are_listed_with_their_reasons(read, corpus):
    bad = {
        "03-01-02-01-01-01-05": (b"no audio", "not readable as audio"),
        "03-01-03-01-01-01-05": ((corpus / "Actor_01" / f"{NEUTRAL}.wav").read_bytes()[:-10], "truncated"),
        "03-01-04-01-01-01-05": (b"", "empty file"),
    }
    for name, (content, _) in bad.items():
        (corpus / f"{name}.wav").write_bytes(content)
    table, _ = read()
    with pytest.raises(InputError) as error:
        check_table(table, allow_partial=False)
    usable, [finding] = check_table(table, allow_partial=True)
    assert not set(usable["clip"]) & set(bad)
    for (name, (_, reason)), listed in zip(bad.items(), finding["unusable"], strict=True):
        assert f"{corpus / name}.wav: {reason}" in str(error.value)
        assert listed.startswith(f"{name}: {reason}")


def test_a_long_list_of_problems_is_shortened(read, corpus):
    for name in WHOLE_CORPORA["ravdess"][100:130]:
        (corpus / f"{name}.wav").touch()
    table, _ = read()
    with pytest.raises(InputError) as error:
        check_table(table, allow_partial=False)
    assert (
        str(error.value).count("empty file") == MAX_LISTED - 1
    )  # the first line is about the number of clips
    assert "... and 11 more" in str(error.value)
    _, [finding] = check_table(table, allow_partial=True)
    assert len(finding["unusable"]) == 30


def test_the_order_of_the_files_does_not_matter(tmp_path):
    files = [write_clip(tmp_path / folder, name) for name in WHOLE_CORPORA["ravdess"][:40] for folder in "ab"]
    files += [write_clip(tmp_path / "c", files[0].stem, seed=1)]
    table, waveforms = read_table({"ravdess": files}, tmp_path / "cache")
    assert table["clip"].is_monotonic_increasing
    for seed in range(3):
        shuffled = random.Random(seed).sample(files, len(files))
        again, waveforms_again = read_table({"ravdess": shuffled}, tmp_path / f"cache-{seed}")
        pd.testing.assert_frame_equal(again, table)
        assert waveforms_again["waveform"][:] == waveforms["waveform"][:]


def test_corpora_are_in_the_requested_order(tmp_path):
    files = {
        corpus: [write_clip(tmp_path, name) for name in WHOLE_CORPORA[corpus][:5]]
        for corpus in ("tess", "ravdess_song", "ravdess")
    }
    table, waveforms = read_table(files, tmp_path / "cache")
    assert table["corpus"].tolist() == ["tess"] * 5 + ["ravdess_song"] * 5 + ["ravdess"] * 5
    for index, row in table.iterrows():
        assert np.array_equal(waveforms[index]["waveform"], read_waveform(row.path))
    _, findings = check_table(table, allow_partial=True)
    assert [finding["name"] for finding in findings] == list(files)


def test_an_unreadable_file_is_reported_until_it_is_readable(read, corpus, tmp_path):
    broken_link = corpus / "Actor_02" / "03-01-05-01-01-01-02.wav"
    broken_link.parent.mkdir()
    broken_link.symlink_to(tmp_path / "gone.wav")
    reason = "cannot be read: no permission, a failing disk, or no regular file"
    assert problems(read()[0]) == {str(broken_link): reason}
    shutil.copy(write_clip(tmp_path / "elsewhere", "03-01-05-01-01-01-02"), tmp_path / "gone.wav")
    assert problems(read()[0]) == {}
