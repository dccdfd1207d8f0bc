"""The measurement of a GPU runs on a CPU too, leaves a line for each step, and outlives steps that fail.

Run: python -m pytest tests/test_gpu_benchmark.py
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT

from benchmarks import gpu
from utils.runtime import InputError

ACTORS = {1: 1, 2: 2, 3: 19, 4: 21}
"""Speaker of the demo -> actor of RAVDESS: two train, one validates, one tests."""


@pytest.fixture(scope="module")
def bundle(demo_folder, tmp_path_factory) -> Path:
    """Synthetic voices under the names of RAVDESS, and no encoder."""
    folder = tmp_path_factory.mktemp("ravdess")
    for path in demo_folder.rglob("*.wav"):
        *_, emotion, intensity, sentence, repetition, speaker = path.stem.split("-")
        name = f"03-01-{emotion}-{intensity}-{sentence}-{repetition}-{ACTORS[int(speaker)]:02d}.wav"
        shutil.copyfile(path, folder / name)
    made = tmp_path_factory.mktemp("made") / "bundle"
    gpu.make_bundle(made, [folder], None)
    return made


def test_each_step_runs_without_a_gpu_and_leaves_its_figures(bundle):
    command = [sys.executable, "-m", "benchmarks.gpu", "--bundled", str(bundle)]
    done = subprocess.run(command, cwd=bundle / "code", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (bundle / "results.jsonl").read_text().splitlines()]
    ended = {line["step"]: line["error"] for line in lines if "error" in line}
    assert ended == dict.fromkeys(gpu.STEPS), done.stdout
    [compared] = [line for line in lines if "same_answer" in line]
    assert compared["same_answer"] == 1 and compared["largest_difference"] < 1e-4  # the same device
    for step in ("recipe", "recipe, --augment"):
        sizes = [line["batch_size"] for line in lines if line["step"] == step and "batch_size" in line]
        assert sizes == [8, 32]
    ratios = [line["times_the_usual"] for line in lines if "times_the_usual" in line]
    assert len(ratios) == 2 and min(ratios) > 0

    text = gpu.table(bundle / "results.jsonl")
    assert all(f"| {name} |" in text for name in gpu.STEPS) and "CPU cores" in text


def test_a_step_that_hangs_is_ended_with_all_that_it_started():
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    begun = time.monotonic()
    error = gpu.run_limited([sys.executable, "-c", code], 2)
    assert error == "took longer than 2 s\nbegun\n" and time.monotonic() - begun < 10


def test_a_step_that_fails_stops_no_other(bundle, tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()  # none
    monkeypatch.setattr(gpu, "STEPS", {name: gpu.STEPS[name] for name in ("pass", "LoRA, large")})
    gpu.run_steps(tmp_path, tmp_path / "results.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == ["pass", "LoRA, large"]
    assert all("no clip of RAVDESS" in line["error"] for line in lines)
    with pytest.raises(InputError, match="holds no figure"):
        gpu.table(tmp_path / "results.jsonl")


def test_a_bundle_is_a_new_folder(tmp_path):
    with pytest.raises(InputError, match=f"--bundle {tmp_path}: exists"):
        gpu.make_bundle(tmp_path, [PROJECT], None)
