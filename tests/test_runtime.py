"""One-line errors, no secrets in published data, atomic writes, and the check of the GPU.

Run: python -m pytest tests/test_runtime.py
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.runtime import (
    PROJECT_ROOT,
    git_commit,
    gpu_is_served,
    package_versions,
    provenance,
    published_command,
    unpublished_folder,
    without_secrets_and_paths,
    write_json,
    write_text,
)

# ---------------------------------------------------------------------------------------------------
# GPUs

COLAB = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("gpu", "capability", "architectures", "is_supported"),
    [
        ("P100", (6, 0), COLAB, False),
        ("V100", (7, 0), COLAB, False),
        ("T4", (7, 5), COLAB, True),
        ("A100", (8, 0), COLAB, True),
        ("L4", (8, 9), ["sm_86"], True),
        ("A100", (8, 0), ["sm_86"], False),
        ("H100", (9, 0), ["sm_80", "sm_90a"], True),
        ("B200", (10, 0), ["sm_100a"], True),
        ("B200", (10, 0), ["sm_90"], False),
        ("RTX 5090", (12, 0), ["sm_90", "compute_90"], True),
        ("P100", (6, 0), ["compute_90"], False),
        ("P100", (6, 0), ["sm_60"], True),
        ("any", (8, 0), [], False),
    ],
)
def test_a_gpu_is_supported_by_builds_for_its_architecture(gpu, capability, architectures, is_supported):
    assert gpu_is_served(capability, architectures) is is_supported


# ---------------------------------------------------------------------------------------------------
# Notebooks


@pytest.mark.parametrize("backend", ["module://of_another_environment", "unknown"])
def test_scripts_do_not_use_the_matplotlib_backend_of_a_notebook(backend, tmp_path):
    """Scripts that a notebook starts inherit its MPLBACKEND."""
    code = """
import sys
from utils.runtime import run_script
def main():
    from matplotlib import pyplot
    from utils.report.plots import plot_confusion_matrix
    from utils.report.style import save_figure
    save_figure(plot_confusion_matrix([[3, 1], [0, 4]], ["sad", "angry"], "Test"), sys.argv[1])
    pyplot.figure()  # as some libraries do
run_script(main)
"""
    variables = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "figure.png")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("working/kit/runs/x/unpublished", "temp/kit/runs/x/unpublished"),
        ("temp/kit/data", "temp/kit/data"),
        ("elsewhere/kit/data", "elsewhere/kit/data"),
    ],
)
def test_recordings_are_not_stored_where_kaggle_publishes_them(folder, expected, tmp_path):
    assert unpublished_folder(tmp_path / folder, tmp_path) == tmp_path / expected


# ---------------------------------------------------------------------------------------------------
# Published commands and data


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--hub_token", "hf_secret"], "--hub_token '<hidden>'"),
        (["--hub_token=hf_my_token", "--demo"], "'--hub_token=<hidden>' --demo"),
        (["--hub-token", "hf_secret", "--seed", "1"], "--hub-token '<hidden>' --seed 1"),
        (["--data_dir", "/home/me/ravdess", "/mnt/tess"], "--data_dir /path/to/ravdess /path/to/tess"),
        (["--output_dir=/home/me/runs/a"], "--output_dir=/path/to/a"),
        (["--output_dir", "runs/a b"], "--output_dir 'runs/a b'"),
        (["/home/me/options.yaml"], "/path/to/options.yaml"),
        ([], ""),
    ],
)
def test_the_published_command_has_no_token_and_no_absolute_path(arguments, shown):
    assert published_command("python train.py", arguments) == f"python train.py {shown}".strip()


def test_published_data_has_no_token_and_no_absolute_path():
    published = without_secrets_and_paths(
        {
            "hub_token": "hf_secret",
            "push_to_hub_token": None,
            "nested": {"api": [{"hf_token": "hf_secret", "folder": "/home/me/x"}]},
            "data_dir": ["/home/me/ravdess", "data/tess"],
            "pair": ("/home/me/a", 1),
            "seed": 42,
            "include_num_input_tokens_seen": "no",
            "rate": 1e-5,
            "augment": False,
        }
    )
    assert published == {
        "hub_token": "<hidden>",
        "push_to_hub_token": None,
        "nested": {"api": [{"hf_token": "<hidden>", "folder": "/path/to/x"}]},
        "data_dir": ["/path/to/ravdess", "data/tess"],
        "pair": ["/path/to/a", 1],
        "seed": 42,
        "include_num_input_tokens_seen": "no",
        "rate": 1e-5,
        "augment": False,
    }


def test_the_original_data_is_not_changed():
    arguments = {"hub_token": "hf_secret", "data_dir": ["/home/me"]}
    without_secrets_and_paths(arguments)
    assert arguments == {"hub_token": "hf_secret", "data_dir": ["/home/me"]}


# ---------------------------------------------------------------------------------------------------
# Exit codes and messages of scripts


def start(body: str, **environment: str) -> subprocess.Popen:
    program = (
        f"from utils.runtime import InputError, logger, run_script\ndef main():\n    {body}\nrun_script(main)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)} | environment,
        # Processes in the background, and their children, ignore SIGINT by default.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(body: str, **environment: str) -> tuple[int, str, str]:
    process = start(body, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_an_input_error_is_one_line():
    message = "--corpora: unknown corpus 'ravdes'"
    assert run(f"raise InputError({message!r})") == (2, "", f"error: {message}\n")


def test_another_error_keeps_its_traceback():
    code, _, err = run("raise ValueError('a bug')")
    assert code == 1 and err.startswith("Traceback") and err.endswith("ValueError: a bug\n")


def test_success_prints_only_the_log():
    assert run("logger.info('Test UAR 50.0 %')") == (0, "Test UAR 50.0 %\n", "")


def test_only_the_main_process_prints():
    assert run("logger.info('hello')", RANK="1") == (0, "", "")
    assert run("raise InputError('wrong option')", RANK="1", LOCAL_RANK="1") == (2, "", "")
    assert run("raise InputError('wrong option')", RANK="1", LOCAL_RANK="0") == (
        2,
        "",
        "error: wrong option\n",
    )


def test_ctrl_c_ends_without_a_traceback():
    process = start("print('ready', flush=True); import time; time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in err and "Traceback" not in err


# ---------------------------------------------------------------------------------------------------
# Files


def file_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_writing_text_leaves_no_temporary_file(tmp_path):
    for text in ("first\n", "zweitens – ✓\n"):
        write_text(tmp_path / "README.md", text)
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == text
    assert file_names(tmp_path) == ["README.md"]


def test_a_full_disk_leaves_the_old_file_unchanged(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"uar": 0.5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))  # maximum size of a file
    try:
        with pytest.raises(OSError, match="File too large"):
            write_json(path, {"uar": [0.25] * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads(path.read_text()) == {"uar": 0.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"uar": -float("inf")}], {"path": Path("x")}])
def test_values_that_json_does_not_have_are_refused_and_the_old_file_is_kept(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_json(path, {"uar": 0.5})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert json.loads(path.read_text()) == {"uar": 0.5}
    assert file_names(tmp_path) == ["metrics.json"]


# ---------------------------------------------------------------------------------------------------
# Versions and the commit


def test_versions_are_those_installed():
    versions = package_versions(["numpy", "PyYAML"])
    program = (
        "import numpy, platform, yaml; print(platform.python_version(), numpy.__version__, yaml.__version__)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert list(versions.values()) == process.stdout.split()
    assert list(versions) == ["python", "numpy", "PyYAML"]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_project_with_a_mark_if_files_changed(tmp_path, monkeypatch):
    project = tmp_path / "kit"
    project.mkdir()
    monkeypatch.setattr(provenance, "PROJECT_ROOT", project)
    assert git_commit() is None  # downloaded without .git
    git(project, "init", "--quiet")
    (project / "train.py").write_text("first")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "first")
    commit = git(project, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert git_commit() == commit
    (project / "clip.wav").write_text("untracked")
    assert git_commit() == commit
    (project / "train.py").write_text("second")
    assert git_commit() == f"{commit}-dirty"


def test_the_commit_of_an_enclosing_repository_is_not_used(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "theirs")
    (tmp_path / "downloads").mkdir()
    monkeypatch.setattr(provenance, "PROJECT_ROOT", tmp_path / "downloads")
    assert git_commit() is None


def test_this_project_has_a_commit_or_none():
    assert git_commit() is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", git_commit())
