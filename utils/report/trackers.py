"""Report a run to TensorBoard, Weights & Biases or Trackio while it trains (--report_to)."""

import atexit
import os
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from utils.runtime import InputError, first_line


class Trackers:
    """The tools of --report_to, for one run.

    Args:
        names: tensorboard, wandb, trackio; none: nothing is reported.
        folder: for their files. Trackio has a database of its own in the user's cache.
        run_name: name of the run.
        options: of the run, plain data without secrets.

    Raises:
        InputError: Weights & Biases has no login.
    """

    def __init__(self, names: Sequence[str], folder: Path, run_name: str, options: dict):
        self.names, self.description = names, (folder, run_name, options)
        self.tools: list[tuple[Callable, Callable]] = []
        if "wandb" in names and os.environ.get("WANDB_MODE", "online") == "online":
            import wandb

            try:
                wandb.login()
            except wandb.errors.UsageError as error:
                reason = f"{first_line(error)} Or set WANDB_MODE=offline"
                raise InputError(f"--report_to wandb: {reason}") from None

    def open(self) -> None:
        """Report name and options of the run. If the process ends before `close`, the run has failed."""
        openers = {"tensorboard": _open_tensorboard, "wandb": _open_wandb, "trackio": _open_trackio}
        self.tools = [openers[name](*self.description) for name in self.names]
        atexit.register(self.close, failed=True)

    def log(self, scores: Mapping[str, float], step: int, prefix: str = "") -> None:
        """Report scores, named as transformers does: `eval_uar` is eval/uar, `loss` train/loss.

        Args:
            scores: name -> value.
            step: the number of epochs or optimiser steps before.
            prefix: of the names.
        """
        named = {}
        for name, value in scores.items():
            part, _, rest = name.partition("_")
            named[prefix + (f"{part}/{rest}" if part in ("eval", "test") else f"train/{name}")] = value
        for log, _ in self.tools:
            log(named, step)

    def close(self, failed: bool = False) -> None:
        """Write what is left, and mark the run as finished or failed."""
        while self.tools:
            _, close = self.tools.pop()
            close(failed)


def _open_tensorboard(folder: Path, run_name: str, options: dict) -> tuple[Callable, Callable]:
    # With a module of this name, tensorboard does not import TensorFlow to write files, which takes seconds.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))

    def write(summaries: list, step: int) -> None:
        for summary in summaries:
            writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        writer.flush()

    rows = (f"| {name} | {value} |" for name, value in options.items())
    write([text_pb("options", "\n".join([f"| {run_name} | |", "|---|---|", *rows]))], 0)
    return (
        lambda scores, step: write([scalar_pb(*score) for score in scores.items()], step),
        lambda failed: writer.close(),
    )


def _open_wandb(folder: Path, run_name: str, options: dict) -> tuple[Callable, Callable]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project=_project("WANDB_PROJECT"), name=run_name, config=options, dir=folder)
    run.define_metric("*", step_metric="step")  # its own steps must not start again with each fold
    return lambda scores, step: run.log(scores | {"step": step}), lambda failed: run.finish(int(failed))


def _open_trackio(folder: Path, run_name: str, options: dict) -> tuple[Callable, Callable]:
    import trackio

    run = trackio.init(_project("TRACKIO_PROJECT"), run_name, config=options)
    return run.log, lambda failed: run.finish()


def _project(variable: str) -> str:
    return os.environ.get(variable, "speech-emotion-kit")
