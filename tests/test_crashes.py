"""The program that kills scripts at random moments, with one kill of the cheapest one.

Run: python -m pytest tests/test_crashes.py
"""

import json
import shutil

import crashes
import pytest

OPTIONS = ["--models", "knn", "--features", "mfcc", "--emotions", "sad", "angry"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> crashes.Run:
    folder = tmp_path_factory.mktemp("crashes") / "reference"
    run = crashes.Run(folder, crashes.PROJECT, "train_baselines.py", OPTIONS)
    code, printed = run.go()
    assert code == 0, printed
    return run


def test_a_run_that_was_killed_ends_like_the_one_that_was_not(reference, tmp_path):
    run = crashes.Run(tmp_path / "run", reference.project, "train_baselines.py", OPTIONS)
    phase, found = crashes.kill_and_resume(run, reference, reference.seconds / 4)
    assert phase in ("importing", "reading", "embedding", "training") and not found
    assert not crashes.litter(run, reference)


def test_what_is_wrong_with_a_run_is_told(reference, tmp_path):
    shutil.copytree(reference.folder, tmp_path / "run")
    run = object.__new__(crashes.Run)
    run.__dict__ |= {"output": tmp_path / "run" / "runs" / "run"}
    assert not crashes.differences(run, reference) and not crashes.false_cards(run, reference)
    folder = run.output / "knn"
    (folder / "model.skops").unlink()
    (folder / "figures" / "waveforms.png").write_bytes(b"half")
    (folder / "predictions.csv").write_text((folder / "predictions.csv").read_text().replace("sad", "angry"))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["uar"] += 1e-9
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / ".metrics.json.0a1b2c3d.partial").touch()
    assert "knn: has a card but no model.skops" in crashes.false_cards(run, reference)
    assert any("waveforms.png cannot be read" in line for line in crashes.false_cards(run, reference))
    assert crashes.differences(run, reference) == [
        "knn/.metrics.json.0a1b2c3d.partial is left over",
        "knn/model.skops is missing",
        "knn: predictions.csv differs",
        "knn: test differs",
    ]
