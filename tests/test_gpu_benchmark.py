"""The GPU benchmark also runs on a CPU, writes the results of each step, and continues after failed steps.

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
"""Speaker of the demo -> RAVDESS actor: two of the training split, one of validation and one of test."""


@pytest.fixture(scope="module")
def bundle(demo_folder, tmp_path_factory) -> Path:
    """A bundle of synthetic clips with the names of RAVDESS clips, without an encoder."""
    folder = tmp_path_factory.mktemp("ravdess")
    for path in demo_folder.rglob("*.wav"):
        *_, emotion, intensity, sentence, repetition, speaker = path.stem.split("-")
        name = f"03-01-{emotion}-{intensity}-{sentence}-{repetition}-{ACTORS[int(speaker)]:02d}.wav"
        shutil.copyfile(path, folder / name)
    bundle = tmp_path_factory.mktemp("new") / "bundle"
    gpu.make_bundle(bundle, [folder], [])
    return bundle


@pytest.mark.slow
def test_all_steps_run_without_a_gpu_and_their_results_are_in_the_table(bundle):
    command = [sys.executable, "-m", "benchmarks.gpu", "--bundled", str(bundle)]
    done = subprocess.run(command, cwd=bundle / "code", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (bundle / "results.jsonl").read_text().splitlines()]
    errors = {line["step"]: line["error"] for line in lines if "error" in line}
    assert errors == dict.fromkeys(gpu.STEPS), done.stdout
    [comparison] = [line for line in lines if "same_answer" in line]
    assert comparison["same_answer"] == 1 and comparison["largest_difference"] < 1e-4  # the same device
    for step in ("recipe", "recipe, --augment"):
        sizes = [line["batch_size"] for line in lines if line["step"] == step and "batch_size" in line]
        assert sizes == [8, 32]
    ratios = [line["times_the_usual"] for line in lines if "times_the_usual" in line]
    assert len(ratios) == 2 and min(ratios) > 0

    text = gpu.table(bundle / "results.jsonl")
    assert all(f"| {name} |" in text for name in gpu.STEPS) and "CPU cores" in text


def test_a_step_that_exceeds_its_time_limit_is_killed_with_its_child_processes():
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    start = time.monotonic()
    error = gpu.run_limited([sys.executable, "-c", code], 2)
    assert error == "took longer than 2 s\nbegun\n" and time.monotonic() - start < 10


def test_the_other_steps_run_after_a_failed_step(bundle, tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "03-01-01-01-01-01-01.flac").write_bytes(b"")  # not readable
    monkeypatch.setattr(gpu, "STEPS", {name: gpu.STEPS[name] for name in ("pass", "LoRA, large")})
    gpu.run_steps(tmp_path, tmp_path / "results.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == ["pass", "LoRA, large"]
    assert all("empty file" in line["error"] for line in lines)
    with pytest.raises(InputError, match="holds no figure"):
        gpu.table(tmp_path / "results.jsonl")


def test_an_existing_folder_is_not_used_for_a_bundle(tmp_path):
    with pytest.raises(InputError, match=f"--bundle {tmp_path}: exists"):
        gpu.make_bundle(tmp_path, [PROJECT], [])
