"""Start the training scripts, and share finished runs among the tests that only look at their results."""

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from utils.runtime import PROJECT_ROOT, InputError

THREE, TWO = ("--emotions", "sad", "angry", "happy"), ("--emotions", "sad", "angry")
REPORTED = ("--report_to", "tensorboard")

SCRIPTS = {
    "demo/wav2vec2": ["train_wav2vec2.py", "--demo", "--robustness=true"],
    "demo/cnn": ["train_cnn.py", "--demo", "--robustness=true"],
    # Three emotions, because six models of eight emotions take two minutes.
    "demo/baselines": ["train_baselines.py", "--demo", "--robustness=true", *THREE],
    "wav2vec2": ["train_wav2vec2.py", "--demo", *THREE, "--num_train_epochs=0", *REPORTED],
    "cnn": ["train_cnn.py", "--demo", *TWO, "--num_train_epochs=1", *REPORTED],
    "baselines": ["train_baselines.py", "--demo", *TWO, "--models=lda", "--features=mfcc", *REPORTED],
}  # fmt: skip
"""Name -> command. All use synthetic voices."""


def command_of(script: str, folder: Path, cache: Path, *options: str) -> list[str]:
    return [sys.executable, script, *options, f"--output_dir={folder}", f"--cache_dir={cache}"]


def train(
    script: str, folder: Path, cache: Path, *options: str, expect: int = 0, launcher: Sequence[str] = ()
) -> str:
    """Run a script in a process of its own, as a user does, and return its output.

    Args:
        expect: exit code.
        launcher: command before the name of the script, instead of Python.
    """
    command = command_of(script, folder, cache, *options)
    command = [*(launcher or command[:1]), *command[1:]]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def reported(folder: Path) -> dict[str, list]:
    """Return what TensorBoard's files of a run hold: name -> values in their order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder / "logs")).Reload()
    return {
        name: [make_ndarray(event.tensor_proto).item() for event in events.Tensors(name)]
        for name in events.Tags()["tensors"]
    }


class FinishedRuns:
    """`finished_runs / name` is the folder of a finished run of one of `SCRIPTS`, or a folder in it.

    Tests must not change it.

    Args:
        folder: for the runs; the processes of pytest-xdist share it.

    Attributes:
        cache: the --cache_dir of the runs.
    """

    def __init__(self, folder: Path):
        self.folder, self.cache = folder, folder / "cache"

    def __truediv__(self, name: str) -> Path:
        key = next(key for key in SCRIPTS if f"{name}/".startswith(f"{key}/"))
        log = self.folder / f"{key.replace('/', '-')}.log"
        with FileLock(log.with_suffix(".lock")):
            if not log.exists():
                script, *options = SCRIPTS[key]
                log.write_text(train(script, self.folder / key, self.cache, *options))
        return self.folder / name

    def log(self, name: str) -> str:
        """Return what a run of one of `SCRIPTS` printed."""
        self / name
        return (self.folder / f"{name.replace('/', '-')}.log").read_text()


def error_of(script: str, *options: str) -> str:
    """Return the message of the InputError that ends a script, called in this process."""
    module = importlib.import_module(Path(script).stem)
    with pytest.raises(InputError) as error:
        module.main(*module.parse_arguments(list(options)))
    return str(error.value)
