"""Custom corpora: recordings of the user for training or evaluation, with no speaker on both sides.

Run: python -m pytest tests/data/test_custom_corpus.py
"""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from scripts import error_of

import train_baselines
from utils.data.corpora import CORPORA, parse_clip
from utils.data.custom_corpus import find_custom_corpora, find_training_corpora
from utils.data.demo import make_demo_corpus
from utils.data.labels import find_emotion
from utils.data.splits import split_models
from utils.data.table import check_table, read_table
from utils.runtime import InputError

COMMAND = ["train_baselines.py", "--demo", "--models=knn", "--features=mfcc"]


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> list[Path]:
    return sorted(make_demo_corpus(tmp_path_factory.mktemp("demo"), seed=7, num_speakers=6).rglob("*.wav"))


@pytest.fixture
def corpus_folder(tmp_path, voices) -> Path:
    """Recordings of six speakers with a CSV file."""
    return write_recordings(tmp_path / "My clips", voices)


def write_recordings(folder: Path, files: list[Path], columns=("file", "Emotion", "speaker")) -> Path:
    folder.mkdir()
    with (folder / "labels.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for path in files:
            clip = parse_clip(path)
            target = folder / clip.speaker / f"{path.stem[6:]}.wav"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
            names = {"fearful": "Fear", "surprised": "pleasant surprise"}
            row = [target.relative_to(folder), names.get(clip.emotion, clip.emotion.upper()), clip.speaker]
            writer.writerow(row[: len(columns)])
    return folder


def call(*command, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expect and "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_the_csv_file_gives_speakers_and_emotions(corpus_folder, voices):
    files, clips = find_custom_corpora("--train_on", [corpus_folder])
    assert files.keys() == {"custom-my-clips"} and len(clips) == len(voices) == 180
    corpus = CORPORA["custom-my-clips"]
    assert corpus.num_speakers == 6 and len(corpus.emotions) == 8
    assert {clip.emotion for path, clip in clips.items() if "-06-" in f"-{path.stem}"} == {"fearful"}


def test_splits_are_speaker_independent(corpus_folder, tmp_path):
    files, clips = find_custom_corpora("--train_on", [corpus_folder])
    table, _ = check_table(read_table(files, tmp_path / "cache", clips)[0], allow_partial=False)
    emotions = CORPORA["custom-my-clips"].emotions
    for protocol, num_folds in (("holdout", 1), ("folds", 5), ("loso", 6)):
        folds, _, _ = split_models(table, protocol, emotions)
        assert len(folds) == num_folds
        for fold in folds.values():
            voices = {part: set(rows["speaker"]) for part, rows in fold.groupby("split")}
            assert voices.keys() == {"train", "validation", "test"}
            assert not voices["test"] & (voices["train"] | voices["validation"])
            assert not voices["validation"] & voices["train"]


def test_a_folder_per_emotion_is_one_unknown_speaker_and_never_tested(tmp_path, voices):
    for path in voices:
        target = tmp_path / "clips" / parse_clip(path).emotion / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (tmp_path / "clips" / "read me.txt").write_text("not a clip")
    files, clips = find_custom_corpora("--train_on", [tmp_path / "clips"])
    table, _ = check_table(read_table(files, tmp_path / "cache", clips)[0], allow_partial=False)
    with pytest.raises(InputError, match=r"no clip is left for .* name the speakers of your recordings"):
        split_models(table, "holdout", CORPORA["custom-clips"].emotions)


def two_sessions(tmp_path: Path, voices: list[Path]) -> list[Path]:
    """Two folders with other clips of the same six people, whose names are written differently."""
    folders = []
    for number, spelling in enumerate(("demo-{}", " DEMO_{}")):
        folder = tmp_path / f"session{number + 1}"
        folder.mkdir()
        rows = ["file,emotion,speaker"]
        for path in voices[number::2]:
            shutil.copyfile(path, folder / path.name)
            rows.append(f"{path.name},{parse_clip(path).emotion},{spelling.format(path.stem[-2:])}")
        (folder / "labels.csv").write_text("\n".join(rows))
        folders.append(folder)
    return folders


@pytest.mark.parametrize("protocol", ["holdout", "folds", "loso"])
def test_a_person_in_two_folders_is_on_one_side_of_the_split(tmp_path, voices, protocol, caplog):
    with caplog.at_level("INFO"):
        files, clips = find_custom_corpora("--train_on", two_sessions(tmp_path, voices))
    assert "one person: 'demo-01' of custom-session1 and 'DEMO_01' of custom-session2" in caplog.text
    table, _ = check_table(read_table(files, tmp_path / "cache", clips)[0], allow_partial=False)
    assert table["speaker"].nunique() == 6
    folds, _, _ = split_models(table, protocol, CORPORA["custom-session1"].emotions)
    for fold in folds.values():
        assert (fold.groupby(fold["clip"].str[-2:])["split"].nunique() == 1).all()
        assert set(fold["split"]) == {"train", "validation", "test"}
    with pytest.raises(InputError, match="custom-session1 and custom-session2 have the same speakers"):
        split_models(table, "cross-corpus", CORPORA["custom-session1"].emotions)


def test_equal_names_in_two_folders_can_be_different_people(tmp_path, voices, caplog):
    folders = two_sessions(tmp_path, voices)
    _, clips = find_custom_corpora("--train_on", folders, distinct_speakers=True)
    assert len({clip.speaker for clip in clips.values()}) == 12 and "one person" not in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("Emotion", "mood"), "has no column 'emotion', only file, mood, speaker"),
        (lambda text: text.replace("demo-01/", "demo-99/"), "line 2: there is no file 'demo-99/"),
        (lambda text: text.replace("demo-01/", "../x/"), "line 2: there is no file '../x/"),
        (lambda text: text + text.splitlines()[1], "is listed twice"),
        (lambda text: text.replace(",demo-01", ","), "line 2: has no speaker, while other rows have one"),
        (lambda text: text.splitlines()[0], "lists no clip"),
        (lambda text: "", "has no column 'file', only nothing"),
    ],
)
def test_invalid_labels_are_a_one_line_error(change, message, corpus_folder):
    labels = corpus_folder / "labels.csv"
    labels.write_text(change(labels.read_text(encoding="utf-8-sig")), encoding="utf-8")
    with pytest.raises(InputError) as raised:
        find_custom_corpora("--train_on", [corpus_folder])
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith("--train_on")


def rewrite(corpus_folder: Path, name: str, change, encoding: str = "utf-8") -> None:
    """Replace the table of labels by one of another name, content or encoding."""
    old = corpus_folder / "labels.csv"
    text = old.read_text(encoding="utf-8-sig")
    old.unlink()
    (corpus_folder / name).write_bytes(change(text).encode(encoding))


def to_json_lines(text: str) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in csv.DictReader(text.splitlines()))


@pytest.mark.parametrize(
    ("name", "change", "encoding"),
    [
        ("LABELS.CSV", lambda text: text, "utf-8"),
        ("labels.csv", lambda text: text.replace(",", ";"), "utf-8-sig"),
        ("labels.tsv", lambda text: text.replace(",", "\t"), "utf-16"),
        ("labels.csv", lambda text: text + ",,\r\n,,\r\n", "utf-8"),
        ("labels.csv", lambda text: text.replace("/", "\\"), "utf-8"),
        ("metadata.jsonl", to_json_lines, "utf-8"),
    ],
)
def test_tables_are_read_as_usual_programs_write_them(name, change, encoding, corpus_folder):
    rewrite(corpus_folder, name, change, encoding)
    _, clips = find_custom_corpora("--train_on", [corpus_folder])
    assert len(clips) == 180 and all(path.is_file() for path in clips)
    assert CORPORA["custom-my-clips"].num_speakers == 6


def test_names_are_found_in_both_forms_of_unicode_and_behind_the_links_of_a_hub_cache(tmp_path, voices):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    shutil.copyfile(voices[0], tmp_path / "blobs" / "0")
    (tmp_path / "snapshot" / "fu\u0308r.wav").symlink_to("../blobs/0")
    (tmp_path / "snapshot" / "metadata.csv").write_text(
        "file_name,label\nf\u00fcr.wav,sad\n", encoding="utf-8"
    )
    _, clips = find_custom_corpora("--train_on", [tmp_path / "snapshot"])
    assert len(clips) == 1


def test_a_table_in_another_encoding_is_refused_with_the_cure(corpus_folder):
    rewrite(corpus_folder, "labels.csv", lambda text: text.replace("demo-01", "J\u00f6rg"), "cp1252")
    with pytest.raises(InputError, match="is not in UTF-8; save it as 'CSV UTF-8'"):
        find_custom_corpora("--train_on", [corpus_folder])


def test_recordings_alone_can_be_trained_on(corpus_folder, tmp_path):
    options = ["--corpora=none", "--models=lda", "--features=mfcc", f"--cache_dir={tmp_path / 'cache'}"]
    options += ["--robustness=false", f"--output_dir={tmp_path / 'runs'}"]
    message = error_of("train_baselines.py", *options)
    assert message == "--corpora none: expected --train_on with folders of your own recordings"
    options += ["--train_on", str(corpus_folder), "--emotions", "sad", "angry"]
    train_baselines.main(*train_baselines.parse_arguments(options))
    metrics = json.loads((tmp_path / "runs" / "lda" / "metrics.json").read_text())
    assert [corpus["name"] for corpus in metrics["corpora"]] == ["custom-my-clips"]
    assert metrics["test"]["speakers"] == 2


def test_clips_of_unknown_speakers_are_training_clips_only(tmp_path, voices):
    folder = write_recordings(tmp_path / "mine", voices, columns=("file", "emotion"))
    files, clips = find_custom_corpora("--train_on", [folder])
    files["demo"] = sorted(make_demo_corpus(tmp_path / "demo", seed=8, num_speakers=14).rglob("*.wav"))
    table, _ = check_table(read_table(files, tmp_path / "cache", clips)[0], allow_partial=True)
    for protocol in ("holdout", "loso"):
        for split in split_models(table, protocol, CORPORA["demo"].emotions).models.values():
            assert set(split[split["corpus"] == "custom-mine"]["split"]) == {"train"}


@pytest.mark.parametrize(
    ("label", "emotion"),
    [
        ("ANG", "angry"),
        ("01Neutral", "neutral"),
        ("3-HAP", "happy"),
        ("Pleasant Surprise", "surprised"),
        ("ps", "surprised"),
        ("wut", "angry"),
        ("A\u0308rger", "angry"),  # decomposed, as in names of folders on a Mac
        ("boredom", None),
        ("2", None),
    ],
)
def test_usual_codes_and_spellings_of_emotions_are_understood(label, emotion):
    assert find_emotion(label) == emotion


def test_clips_of_unknown_emotions_are_left_out_and_counted_once(corpus_folder, voices, tmp_path, caplog):
    caplog.set_level("INFO")
    labels = corpus_folder / "labels.csv"
    text = labels.read_text(encoding="utf-8-sig")
    labels.write_text(text.replace("ANGRY", "boredom").replace("SAD", "doubt"), encoding="utf-8")
    _, clips = find_custom_corpora("--train_on", [corpus_folder])
    assert len(clips) == 180 - 24 - 24 and "angry" not in CORPORA["custom-my-clips"].emotions
    assert caplog.text.count("left out are clips of unknown emotions: 24 'boredom', 24 'doubt'; known:") == 1

    for path in voices[:40]:
        emotion = parse_clip(path).emotion
        target = tmp_path / "folders" / {"happy": "amused"}.get(emotion, emotion) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    num_happy = len(list((tmp_path / "folders" / "amused").iterdir()))
    _, clips = find_custom_corpora("--train_on", [tmp_path / "folders"])
    assert len(clips) == 40 - num_happy and f"{num_happy} 'amused'" in caplog.text

    labels.write_text("file,emotion\n" + "".join(f"{path.relative_to(corpus_folder)},bored\n" for path in
                      sorted(corpus_folder.rglob("*.wav"))[:3]))  # fmt: skip
    with pytest.raises(InputError, match="unknown emotions: 3 'bored'; known: neutral calm"):
        find_custom_corpora("--train_on", [corpus_folder])


def test_files_that_are_not_used_are_counted_in_one_line(corpus_folder, tmp_path, voices, caplog):
    find_custom_corpora("--train_on", [corpus_folder])
    assert "not used" not in caplog.text
    for name in ("new.wav", "a.m4a", "b.M4A", ".hidden.m4a", "notes.txt", "__MACOSX/._a.m4a", "clips.7z"):
        (corpus_folder / name).parent.mkdir(exist_ok=True)
        (corpus_folder / name).touch()
    find_custom_corpora("--train_on", [corpus_folder])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"{corpus_folder}: not used: 2 .m4a, 1 .7z, 1 .wav files, such as {corpus_folder / 'a.m4a'}; convert "
        "them to WAV, or list them in the table of labels"
    )
    caplog.clear()
    (tmp_path / "folders" / "angry").mkdir(parents=True)
    (tmp_path / "folders" / "angry" / "1.amr").touch()
    with pytest.raises(InputError, match=r"no clip was found \(not used: 1 .amr file, such as .*; convert"):
        find_custom_corpora("--evaluate_on", [tmp_path / "folders"])
    shutil.copyfile(voices[0], tmp_path / "folders" / "angry" / "1.wav")
    _, clips = find_custom_corpora("--evaluate_on", [tmp_path / "folders"])
    assert len(clips) == 1 and "folders: not used: 1 .amr file" in caplog.text


def test_two_folders_whose_names_become_one_are_refused(tmp_path, corpus_folder):
    folders = [shutil.copytree(corpus_folder, tmp_path / name) for name in ("録音", "записи")]
    with pytest.raises(InputError, match=r"two folders have the name custom-clips, .* rename one of them"):
        find_custom_corpora("--train_on", folders)


def test_folders_without_labels_are_rejected(corpus_folder, tmp_path, voices):
    (tmp_path / "empty").mkdir()
    shutil.copyfile(voices[0], tmp_path / "lonely.wav")
    (tmp_path / "flat").mkdir()
    shutil.copyfile(voices[0], tmp_path / "flat" / "1.wav")
    for folder, message in (
        ("nowhere", "expected a folder that exists"),
        ("lonely.wav", "expected a folder that exists"),
        ("empty", "no clip was found"),
        ("flat", "1.wav has no label"),
    ):
        with pytest.raises(InputError, match=message):
            find_custom_corpora("--evaluate_on", [tmp_path / folder])
    with pytest.raises(InputError, match="is among the clips of --train_on"):
        find_training_corpora([corpus_folder], [corpus_folder])
    (corpus_folder / "more.csv").write_text("file,emotion\n")
    with pytest.raises(InputError, match=r"expected one table .* found labels.csv, more.csv"):
        find_custom_corpora("--train_on", [corpus_folder])


@pytest.mark.slow
def test_a_run_trains_on_recordings_and_is_scored_on_others(tmp_path, voices):
    mine = write_recordings(tmp_path / "mine", voices[:120])
    yours = write_recordings(tmp_path / "yours", voices[120:150], columns=("file", "emotion"))
    options = [f"--output_dir={tmp_path / 'run'}", f"--cache_dir={tmp_path / 'cache'}"]
    call(*COMMAND, *options, "--train_on", mine, "--evaluate_on", yours)
    run = tmp_path / "run" / "knn"
    metrics = json.loads((run / "metrics.json").read_text())
    assert [corpus["name"] for corpus in metrics["corpora"]] == ["demo", "custom-mine"]
    tested = set(metrics["split"]["test"]["speakers"])
    assert "custom-mine-demo-01" in tested and not tested & set(metrics["split"]["train"]["speakers"])
    scores = metrics["out_of_domain"]["custom-yours"]["scores"]
    assert scores["clips"] == 30 and scores["uar"] > 1.5 / 8
    card = (run / "README.md").read_text()
    assert "- custom-yours: with clips of neutral, calm, happy" in card and "chance is 12.5 %" in card
    assert "| custom-yours | 30 | 1 |" in card and "recordings 'mine'" in card
    assert "### Results by subgroup" in card
    assert all(sentence in card for sentence in metrics["subgroups"]["limitations"])
    assert not [blank for blank in ("None", " nan", "{{", "\n\n\n") if blank in card.split("```")[-1]]
    assert (run / "out_of_domain" / "custom-yours.png").stat().st_size > 10_000
    assert str(tmp_path) not in card

    # The finished run is scored on further recordings and not trained again.
    weights = (run / "model.skops").read_bytes()
    (yours / "labels.csv").write_text("")
    output = call("-m", "utils.score", run, "--evaluate_on", yours, expect=2)
    assert "has no column 'file'" in output and (run / "README.md").read_text() == card
    theirs = write_recordings(tmp_path / "theirs", voices[150:165])
    output = call(*COMMAND, *options, "--evaluate_on", theirs)
    assert "replaces the earlier results" not in output
    assert "the run is complete" in output and (run / "model.skops").read_bytes() == weights
    assert json.loads((run / "metrics.json").read_text())["out_of_domain"].keys() == {
        "custom-yours",
        "custom-theirs",
    }


def test_two_evaluations_of_one_run_at_the_same_time_both_stay_in_its_card(finished_runs, tmp_path, voices):
    run = tmp_path / "run"
    shutil.copytree(finished_runs / "baselines/lda", run)
    names = ("first", "second")
    folders = [write_recordings(tmp_path / name, voices[:30]) for name in names]
    command = [sys.executable, "-m", "utils.score", str(run), "--cache_dir", str(tmp_path / "cache")]
    processes = [
        subprocess.Popen([*command, "--evaluate_on", str(folder)], cwd=PROJECT) for folder in folders
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    evaluated = json.loads((run / "metrics.json").read_text())["out_of_domain"]
    assert evaluated.keys() == {"custom-first", "custom-second"}
    output = call(*command[1:], "--evaluate_on", folders[0])
    assert "custom-first: replaces the earlier results of a folder with this name" in output
