"""The classical baselines, as a user runs them.

Run: python -m pytest tests/test_train_baselines.py
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import PROJECT

import train_baselines
from utils.compare import read_run, results_table
from utils.data.corpora import CORPORA
from utils.runtime import InputError


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command_of(folder: Path, cache: Path, *options: str) -> list[str]:
    places = [f"--output_dir={folder}", f"--cache_dir={cache}"]
    return [sys.executable, "train_baselines.py", *options, *places]


def train(folder: Path, cache: Path, *options: str, expect: int = 0) -> str:
    done = subprocess.run(
        command_of(folder, cache, *options), cwd=PROJECT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo_runs(tmp_path_factory, cache) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "baselines"
    assert "not real results" in train(folder, cache, "--demo", "--robustness=true")
    return folder


@pytest.mark.parametrize("name", train_baselines.MODELS)
def test_each_baseline_learns_and_leaves_a_whole_run(demo_runs, name):
    folder = demo_runs / name
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    code = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "utils").rglob("*.py")}
    assert files - code == {
        "README.md", "metrics.json", "predictions.csv", "unpublished/reference_predictions.npz",
        "train_baselines.py", "model_card.md", "requirements.txt", "model.skops",
        "figures/coverage.png", "figures/genders_demo.png", "figures/intensity_demo.png",
        "figures/speakers.png", "figures/reliability.png",
        "figures/confusion_matrix.png", "figures/per_emotion.png", "figures/importance.png",
        "figures/waveforms.png", "figures/robustness.png", "figures/perturbations.png",
        *(f"figures/explained_{emotion}.png" for emotion in CORPORA["demo"].emotions),
    }  # fmt: skip
    assert code <= files
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert test["clips"] == 120 and test["intervals"]["uar"][0] > 2 / 8
    assert "**Not a real model.**" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["svm_rbf", "rf"])
def test_the_cards_snippet_gives_the_reports_probabilities(demo_runs, name, tmp_path):
    folder = demo_runs / name
    snippet = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    row = pd.read_csv(folder / "predictions.csv").iloc[17]
    shutil.copytree(folder, tmp_path / "runs" / name)
    shutil.copytree(PROJECT / "utils", tmp_path / "utils")
    clip = PROJECT / "data" / "demo" / f"Actor_{row['clip'][-2:]}" / f"{row['clip']}.wav"
    shutil.copy(clip, tmp_path / "speech.wav")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = dict(line.split() for line in done.stdout.splitlines())
    assert len(answers) == 8
    for emotion, probability in answers.items():
        assert float(probability) == pytest.approx(row[f"p_{emotion}"], abs=2e-3)


FOLDS = (
    "--demo",
    "--models",
    "knn",
    "lr",
    "--features=mfcc",
    "--protocol=folds",
    "--emotions",
    "sad",
    "angry",
)


@pytest.fixture(scope="module")
def folds_runs(tmp_path_factory, cache) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    train(folder, cache, *FOLDS)
    return folder


def kill_when_there_is(file: Path, command: list[str]) -> None:
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not file.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_folds_test_every_clip_once_by_a_model_that_did_not_hear_its_speaker(folds_runs):
    metrics = json.loads((folds_runs / "lr" / "metrics.json").read_text())
    predictions = pd.read_csv(folds_runs / "lr" / "predictions.csv")
    assert len(predictions) == 128 and predictions["clip"].is_unique
    assert predictions.groupby("speaker")["fold"].nunique().max() == 1
    assert [fold["clips"] for fold in metrics["folds"]] == [32] * 4
    # The saved model trains on all but the validation speakers, and the card says so.
    assert metrics["split"]["train"]["clips"] == 112 and "test" not in metrics["split"]
    assert "models, one per fold" in (folds_runs / "lr" / "README.md").read_text()


def test_killed_and_resumed_the_baselines_end_like_those_that_were_not(
    folds_runs, tmp_path, cache, monkeypatch
):
    checkpoints = tmp_path / "lr" / "checkpoints"
    # What is said of the last fold's model has to be kept as well.
    kill_when_there_is(checkpoints / "fold_4.csv", command_of(tmp_path, cache, *FOLDS))
    assert not (tmp_path / "lr" / "README.md").exists(), "a killed run must not look finished"
    card = (tmp_path / "knn" / "README.md").read_text()

    def refused(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", command_of(tmp_path, cache, *FOLDS, *options)[1:])
        with pytest.raises(InputError) as error:
            train_baselines.main(*train_baselines.parse_arguments(sys.argv[1:]))
        return str(error.value)

    assert "knn: holds a finished run" in refused()
    assert "lr: holds an unfinished run" in refused("--models=lr")
    assert "was started with seed 42, now it is 1" in refused("--resume_from_checkpoint", "--seed=1")
    output = train(tmp_path, cache, *FOLDS, "--resume_from_checkpoint")
    assert "knn: the run is complete" in output and (tmp_path / "knn" / "README.md").read_text() == card
    assert output.count("was trained and tested before") == 4
    for name in ("knn", "lr"):
        run, whole = tmp_path / name, folds_runs / name
        assert (run / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
        resumed, expected = (json.loads((each / "metrics.json").read_text()) for each in (run, whole))
        for part in ("validation", "test", "importance", "folds"):
            assert resumed[part] == expected[part]
        assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_model_that_is_yet_to_be_trained_anew_does_not_look_finished(folds_runs, tmp_path, cache):
    shutil.copytree(folds_runs, tmp_path / "runs")
    command = command_of(tmp_path / "runs", cache, *FOLDS, "--seed=1", "--overwrite")
    kill_when_there_is(tmp_path / "runs" / "knn" / "checkpoints" / "fold_1.csv", command)
    assert not (tmp_path / "runs" / "lr" / "README.md").exists()
    assert (tmp_path / "runs" / "lr" / "checkpoints" / "run.json").exists()  # to go on with


def test_speaker_normalisation_is_marked_and_its_snippet_takes_all_clips_of_a_voice(tmp_path, cache):
    options = ("--demo", "--models", "lda", "--features", "mfcc", "--speaker_normalization")
    train(tmp_path / "runs", cache, *options)
    folder = tmp_path / "runs" / "lda"
    card = (folder / "README.md").read_text()
    assert "**It requires several clips of a speaker.**" in card
    assert "(speaker-normalised)" in results_table([read_run(folder)])["run"].item()

    predictions = pd.read_csv(folder / "predictions.csv")
    own = predictions[predictions["speaker"] == predictions["speaker"][0]]
    shutil.copytree(PROJECT / "utils", tmp_path / "utils")
    (tmp_path / "clips of one speaker").mkdir()
    for clip in own["clip"]:
        source = PROJECT / "data" / "demo" / f"Actor_{clip[-2:]}" / f"{clip}.wav"
        shutil.copy(source, tmp_path / "clips of one speaker")
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = dict(reversed(line.split(" ", 1)) for line in done.stdout.splitlines())
    assert {Path(file).stem: emotion for file, emotion in answers.items()} == dict(
        zip(own["clip"], own["predicted"], strict=True)
    )


def test_reference_features_come_from_opensmile(tmp_path, cache):
    train(tmp_path, cache, "--demo", "--models", "lda", "--features", "egemaps", "--emotions", "sad", "angry")
    metrics = json.loads((tmp_path / "lda" / "metrics.json").read_text())
    assert metrics["test"]["uar"] > 0.7 and "88 functionals" in metrics["model"]["description"]


def test_the_same_command_gives_the_same_predictions(demo_runs, tmp_path, cache):
    train(tmp_path, cache, "--demo", "--models", "rf")
    assert (tmp_path / "rf" / "predictions.csv").read_text() == (
        demo_runs / "rf" / "predictions.csv"
    ).read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--corpora=ravdes"], "ravdes"),
        (["--models=perceptron"], "perceptron"),
        (["--demo", "--protocol=cross-corpus"], "at least two --corpora"),
        (["--demo", "--emotions", "hapy", "sad"], "did you mean 'happy'"),
    ],
)
def test_a_users_mistake_is_named(options, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_baselines.py", *options, f"--output_dir={tmp_path}"])
    with pytest.raises(InputError, match=expected):
        train_baselines.main(*train_baselines.parse_arguments(sys.argv[1:]))


def test_a_finished_run_is_not_replaced_unless_asked(demo_runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_baselines.py", "--demo", f"--output_dir={demo_runs}"])
    with pytest.raises(InputError, match="--overwrite"):
        train_baselines.main(*train_baselines.parse_arguments(sys.argv[1:]))
