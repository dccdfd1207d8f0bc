"""Comparison of runs: table, ensemble, paired tests, inflation by a random split, refused runs.

Run: python -m pytest tests/test_compare.py
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from sklearn.metrics import balanced_accuracy_score

from utils.compare import (
    ENSEMBLE,
    check_comparable,
    ensemble,
    inflation_by_random_split,
    paired_tests,
    read_run,
    results_table,
    update_between_markers,
)
from utils.report.predictions import score_predictions
from utils.runtime import InputError

EMOTIONS = ["sad", "angry", "happy"]


def write_run(folder: Path, skill: float, seed: int, **changes) -> Path:
    """Write a run of 90 clips by six speakers; `skill` is added to the probability of the true emotion."""
    generator = np.random.default_rng(seed)
    truth = np.tile(np.arange(3), 30)
    probabilities = generator.dirichlet(np.ones(3), 90) + skill * np.eye(3)[truth]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predictions = pd.DataFrame(
        {
            "clip": [f"clip-{number:02d}" for number in range(90)],
            "corpus": "ravdess",
            "speaker": [f"ravdess-{number // 15:02d}" for number in range(90)],
            "fold": "holdout",
            "emotion": np.asarray(EMOTIONS)[truth],
            "predicted": np.asarray(EMOTIONS)[probabilities.argmax(axis=1)],
        }
        | {f"p_{emotion}": probabilities[:, label] for label, emotion in enumerate(EMOTIONS)}
    )
    metrics = {
        "script": "train_baselines.py",
        "emotions": EMOTIONS,
        "protocol": "folds",
        "split_digest": "abc",
        "corpora": [{"name": "ravdess"}],
        "model": {"description": "a model", "feature_set": "full", "weights_mb": 1.5},
        "training": {"seconds": 12.0},
        "latency": {"p50_ms": 3.0},
        "test": score_predictions(predictions, EMOTIONS),
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics | changes))
    # The order of the rows is arbitrary: clips are matched by name.
    predictions.sample(frac=1, random_state=seed).to_csv(folder / "predictions.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        read_run(write_run(tmp_path / "runs" / name, skill, seed))
        for seed, (name, skill) in enumerate({"weak": 0.1, "strong": 0.8, "fair": 0.3}.items())
    ]


def test_the_table_has_the_best_run_first_and_the_ensemble_last(runs):
    table = results_table(runs)
    assert table["run"].tolist() == ["strong", "fair", "weak", "ensemble (mean of probabilities)"]
    strong = runs[1].metrics["test"]
    assert table["UAR %"].iloc[0] == round(100 * strong["uar"], 1)
    low, high = (100 * bound for bound in strong["intervals"]["uar"])
    assert table["95 % interval"].iloc[0] == f"{low:.1f} to {high:.1f}"


def test_the_ensemble_is_the_mean_of_the_probabilities(runs):
    rows = ensemble(runs)
    mean = np.mean([run.predictions.filter(regex="^p_").to_numpy() for run in runs], axis=0)
    np.testing.assert_allclose(rows.filter(regex="^p_").to_numpy(), mean)
    predicted = np.asarray(EMOTIONS)[mean.argmax(axis=1)]
    shown = results_table(runs)["UAR %"].iloc[-1]
    assert shown == round(100 * balanced_accuracy_score(rows["emotion"], predicted), 1)


def test_two_folds_have_a_column_each(runs):
    for run in runs:
        half = run.predictions["speaker"] < "ravdess-03"
        run.predictions["fold"] = np.where(half, "to ravdess", "to tess")
    table = results_table(runs).set_index("run")
    half = runs[1].predictions[runs[1].predictions["fold"] == "to tess"]
    expected = round(100 * balanced_accuracy_score(half["emotion"], half["predicted"]), 1)
    assert table.loc["strong", "UAR % to tess"] == expected
    assert table["UAR % to ravdess"].notna().all()


def test_pairs_are_tested_on_the_same_clips_with_holm_correction(runs):
    tests = paired_tests(runs).set_index("pair")
    assert len(tests) == 3
    # Each of the six speakers is classified better by the strong model: 2 of 64 assignments are as extreme.
    assert tests.loc["weak - strong", "permutation p"] == pytest.approx(2 / 64)
    assert tests.loc["weak - strong", "Holm p"] == pytest.approx(3 * tests["permutation p"].min())
    low, high = map(float, tests.loc["weak - strong", "95 % interval"].split(" to "))
    assert low <= tests.loc["weak - strong", "UAR points"] <= high < 0


@pytest.mark.parametrize(
    "change", [{"emotions": ["sad", "angry"]}, {"split_digest": "other"}, {"protocol": "holdout"}]
)
def test_runs_that_are_not_comparable_are_refused_with_the_reason(runs, change):
    other = copy.deepcopy(runs[0])
    other.metrics.update(change)
    with pytest.raises(InputError, match=str(next(iter(change.values()))[0])):
        check_comparable([runs[1], other])


def test_the_inflation_by_a_random_split_is_relative_to_folds_of_the_same_model(runs, tmp_path):
    random_run = read_run(
        write_run(tmp_path / "runs" / "random", 0.9, 5, protocol="random", split_digest="x")
    )
    [row] = inflation_by_random_split(runs[:1], [random_run]).to_dict("records")
    points = 100 * (random_run.metrics["test"]["uar"] - runs[0].metrics["test"]["uar"])
    assert row["inflation by the random split (points)"] == round(points, 1)
    assert row["run"] == random_run.name
    random_run.metrics["model"]["description"] = "another model"
    assert inflation_by_random_split(runs[:1], [random_run]).empty


def test_the_command_writes_table_and_figure_and_updates_a_page(runs, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    folders = [str(tmp_path / "runs" / run.name) for run in runs]
    options = ["--output_dir", str(tmp_path / "out"), "--update", str(page), "--marker", "results"]
    command = [sys.executable, "-m", "utils.compare", *folders, *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| strong |" in text and "old" not in text and "permutation" not in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.md", "table.csv", "bars.png"}
    assert pd.read_csv(tmp_path / "out" / "table.csv")["run"].iloc[-1] == ENSEMBLE


def test_a_page_without_markers_and_a_folder_without_a_run_are_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(InputError, match="has no markers <!-- results -->"):
        update_between_markers(page, "results", "text")
    with pytest.raises(InputError, match="expected the folder of a finished run"):
        read_run(tmp_path)
