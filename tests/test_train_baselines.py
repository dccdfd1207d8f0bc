"""train_baselines.py as a user runs it: complete runs, cards, folds, resuming after a kill, options.

Run: python -m pytest tests/test_train_baselines.py
"""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
from conftest import PROJECT
from scripts import command_of, error_of
from scripts import train as train_script

import train_baselines
from utils.compare import read_run, results_table

train = functools.partial(train_script, "train_baselines.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def demo_runs(finished_runs) -> Path:
    assert "not real results" in finished_runs.log("demo/baselines")
    return finished_runs / "demo/baselines"


@pytest.mark.parametrize("name", train_baselines.MODELS)
def test_each_baseline_is_better_than_chance_and_has_a_complete_run_folder(demo_runs, name):
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
        *(f"figures/explained_{emotion}.png" for emotion in ("sad", "angry", "happy")),
    }  # fmt: skip
    assert code <= files
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert test["clips"] == 48 and test["intervals"]["uar"][0] > 1 / 3
    card = (folder / "README.md").read_text()
    version = ".".join(metadata.version("scikit-learn").split(".")[:2])
    assert "**Not a real model.**" in card and f"The file was written with scikit-learn {version}" in card
    assert f"\nscikit-learn>={version},<2\n" in (folder / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["svm_rbf", "rf"])
def test_the_code_example_of_the_card_gives_the_probabilities_of_the_report(demo_runs, name, tmp_path):
    folder = demo_runs / name
    snippet = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    row = pd.read_csv(folder / "predictions.csv").iloc[17]
    shutil.copytree(folder, tmp_path / "runs" / name)
    shutil.copytree(PROJECT / "utils", tmp_path / "utils")
    clip = PROJECT / "data" / "demo" / f"Actor_{row['clip'][-2:]}" / f"{row['clip']}.wav"
    shutil.copy(clip, tmp_path / "speech.wav")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    probabilities = dict(line.split() for line in done.stdout.splitlines())
    assert len(probabilities) == 3
    for emotion, probability in probabilities.items():
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


def kill_when_file_exists(file: Path, command: list[str]) -> None:
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


def test_with_folds_each_clip_is_tested_once_by_a_model_that_was_trained_without_its_speaker(folds_runs):
    metrics = json.loads((folds_runs / "lr" / "metrics.json").read_text())
    predictions = pd.read_csv(folds_runs / "lr" / "predictions.csv")
    assert len(predictions) == 128 and predictions["clip"].is_unique
    assert predictions.groupby("speaker")["fold"].nunique().max() == 1
    assert [fold["clips"] for fold in metrics["folds"]] == [32] * 4
    # The saved model is trained on all speakers: a baseline needs none for validation.
    assert list(metrics["split"]) == ["train"] and metrics["split"]["train"]["clips"] == 128
    card = (folds_runs / "lr" / "README.md").read_text()
    assert "models, one per fold" in card and "on all speakers; there are no clips left" in card


@pytest.mark.slow
def test_killed_and_resumed_baselines_equal_uninterrupted_ones(folds_runs, tmp_path, cache):
    checkpoints = tmp_path / "lr" / "checkpoints"
    # The description of the model of the last fold has to be kept, too.
    kill_when_file_exists(
        checkpoints / "fold_4.csv", command_of("train_baselines.py", tmp_path, cache, *FOLDS)
    )
    assert not (tmp_path / "lr" / "README.md").exists(), "a killed run must not look finished"
    card = (tmp_path / "knn" / "README.md").read_text()

    def error(*options: str) -> str:
        return error_of(*command_of("train_baselines.py", tmp_path, cache, *FOLDS, *options)[1:])

    assert "knn: holds a finished run" in error()
    assert "lr: holds an unfinished run" in error("--models=lr")
    assert "was started with seed 42, now it is 1" in error("--resume_from_checkpoint", "--seed=1")
    output = train(tmp_path, cache, *FOLDS, "--resume_from_checkpoint")
    assert "knn: the run is complete" in output and (tmp_path / "knn" / "README.md").read_text() == card
    assert output.count("was trained and tested before") == 4
    for name in ("knn", "lr"):
        run, uninterrupted = tmp_path / name, folds_runs / name
        assert (run / "predictions.csv").read_bytes() == (uninterrupted / "predictions.csv").read_bytes()
        resumed, expected = (json.loads((each / "metrics.json").read_text()) for each in (run, uninterrupted))
        for key in ("test", "importance", "folds", "calibration"):
            assert resumed[key] == expected[key]
        assert {path.name for path in run.iterdir()} == {path.name for path in uninterrupted.iterdir()}


@pytest.mark.slow
def test_old_models_that_will_be_overwritten_do_not_look_finished_after_a_kill(folds_runs, tmp_path, cache):
    shutil.copytree(folds_runs, tmp_path / "runs")
    command = command_of("train_baselines.py", tmp_path / "runs", cache, *FOLDS, "--seed=1", "--overwrite")
    kill_when_file_exists(tmp_path / "runs" / "knn" / "checkpoints" / "fold_1.csv", command)
    assert not (tmp_path / "runs" / "lr" / "README.md").exists()
    assert (tmp_path / "runs" / "lr" / "checkpoints" / "run.json").exists()  # for resuming


@pytest.mark.slow
def test_the_card_states_speaker_normalisation_and_its_code_example_classifies_all_clips_of_a_speaker(
    tmp_path, cache
):
    options = ("--demo", "--models", "lda", "--features", "mfcc", "--speaker_normalization")
    train(tmp_path / "runs", cache, *options)
    folder = tmp_path / "runs" / "lda"
    card = (folder / "README.md").read_text()
    assert "**It requires several clips of a speaker.**" in card
    assert "(speaker-normalised)" in results_table([read_run(folder)])["run"].item()

    predictions = pd.read_csv(folder / "predictions.csv")
    clips = predictions[predictions["speaker"] == predictions["speaker"][0]]
    shutil.copytree(PROJECT / "utils", tmp_path / "utils")
    (tmp_path / "clips of one speaker").mkdir()
    for clip in clips["clip"]:
        source = PROJECT / "data" / "demo" / f"Actor_{clip[-2:]}" / f"{clip}.wav"
        shutil.copy(source, tmp_path / "clips of one speaker")
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    classified = dict(reversed(line.split(" ", 1)) for line in done.stdout.splitlines())
    assert {Path(file).stem: emotion for file, emotion in classified.items()} == dict(
        zip(clips["clip"], clips["predicted"], strict=True)
    )


@pytest.mark.slow
def test_baselines_can_be_trained_on_opensmile_features(tmp_path, cache):
    train(tmp_path, cache, "--demo", "--models", "lda", "--features", "egemaps", "--emotions", "sad", "angry")
    metrics = json.loads((tmp_path / "lda" / "metrics.json").read_text())
    assert metrics["test"]["uar"] > 0.7 and "88 functionals" in metrics["model"]["description"]


@pytest.mark.slow
def test_the_same_command_gives_the_same_predictions(tmp_path, cache):
    predictions = []
    for name in ("first", "second"):
        train(tmp_path / name, cache, "--demo", "--models=rf", "--emotions", "sad", "angry", "happy")
        predictions.append((tmp_path / name / "rf" / "predictions.csv").read_text())
    assert predictions[0] == predictions[1]


def test_a_fault_in_the_figures_does_not_cost_the_scores(tmp_path, cache, monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("no fonts in /home/me")

    for step in ("figures.draw_figures", "finish.add_subgroups_and_errors"):
        monkeypatch.setattr(f"utils.report.{step}", fail)
    options = ["--demo", "--emotions", "sad", "angry", "--models=lda", "--features=mfcc"]
    command = command_of("train_baselines.py", tmp_path, cache, *options)
    train_baselines.main(*train_baselines.parse_arguments(command[2:]))
    run = tmp_path / "lda"
    assert json.loads((run / "metrics.json").read_text())["test"]["uar"] > 0.5
    assert len(pd.read_csv(run / "predictions.csv")) == 32 and (run / "model.skops").exists()
    card = (run / "README.md").read_text()
    for step in ("figures", "results by subgroup"):
        assert f"- Missing here because of an error: {step} (RuntimeError)." in card
    assert "/home/me" not in card and "no fonts in /home/me" in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--corpora=ravdes"], "ravdes"),
        (["--models=perceptron"], "perceptron"),
        (["--demo", "--protocol=cross-corpus"], "at least two corpora"),
        (["--demo", "--emotions", "hapy", "sad"], "did you mean 'happy'"),
    ],
)
def test_invalid_options_are_refused(options, expected, tmp_path):
    assert expected in error_of("train_baselines.py", *options, f"--output_dir={tmp_path}")


def test_a_finished_run_is_not_overwritten_without_the_option(demo_runs):
    assert "--overwrite" in error_of("train_baselines.py", "--demo", f"--output_dir={demo_runs}")
