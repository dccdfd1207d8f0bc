"""A killed and resumed run equals an uninterrupted run; `crashes.py` reports missing and wrong files.

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
    code, printed = run.execute()
    assert code == 0, printed
    return run


@pytest.mark.slow
def test_a_killed_and_resumed_run_equals_an_uninterrupted_run(reference, tmp_path):
    run = crashes.Run(tmp_path / "run", reference.project, "train_baselines.py", OPTIONS)
    phase, problems = crashes.kill_and_resume(run, reference, reference.seconds / 4)
    assert phase in ("importing", "reading", "embedding", "training") and not problems
    assert not crashes.find_leftover_files(run, reference)


@pytest.mark.slow
def test_missing_damaged_and_different_files_of_a_run_are_reported(reference, tmp_path):
    shutil.copytree(reference.folder, tmp_path / "run")
    run = object.__new__(crashes.Run)
    run.__dict__ |= {"output": tmp_path / "run" / "runs" / "run"}
    assert not crashes.find_differences(run, reference)
    assert not crashes.find_incomplete_folders(run, reference)
    folder = run.output / "knn"
    (folder / "model.skops").unlink()
    (folder / "figures" / "waveforms.png").write_bytes(b"half")
    (folder / "predictions.csv").write_text((folder / "predictions.csv").read_text().replace("sad", "angry"))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["uar"] += 1e-9
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / ".metrics.json.0a1b2c3d.partial").touch()
    assert "knn: has a card but no model.skops" in crashes.find_incomplete_folders(run, reference)
    assert any(
        "waveforms.png cannot be read" in line for line in crashes.find_incomplete_folders(run, reference)
    )
    assert crashes.find_differences(run, reference) == [
        "knn/.metrics.json.0a1b2c3d.partial is left over",
        "knn/model.skops is missing",
        "knn: predictions.csv differs",
        "knn: test differs",
    ]
