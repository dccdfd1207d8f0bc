"""A run's folder comes in; whether a run may begin or go on there, and what checks its model, goes out.

```
runs/<name>/
    checkpoints/   while it goes on: `run.json` says what must not change, and each model has its own below
    unpublished/   test clips and what the saved model answers
    README.md      the card, written last: a run that has one is finished
```
"""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from utils.runtime import (
    PROJECT_ROOT,
    InputError,
    logger,
    unpublished_folder,
    without_secrets_and_paths,
    write_bytes,
    write_json,
)

UNPUBLISHED = "unpublished"
"""Folder in a run folder for what is never uploaded: it holds audio."""

_CODE = ("model_card.md", "requirements.txt", "utils/**/*.py")
"""What a script of the kit needs beside itself."""


def is_partial(name: PurePath) -> bool:
    """Say whether a file, or a folder around it, was not written to its end."""
    return any(part.endswith(".partial") for part in name.parts)


def is_finished(folder: Path) -> bool:
    """Say whether a folder holds a whole run: its card is written last."""
    return (folder / "README.md").exists() and (folder / "metrics.json").exists()


def check_run_folder(folder: Path, overwrite: bool, resume: bool, evaluate: bool = False) -> bool:
    """Refuse a folder that holds something which was not meant to be replaced.

    Args:
        folder: the run's.
        overwrite, resume: whether these options were given.
        evaluate: whether a finished run is to be evaluated once more, rather than replaced.

    Returns:
        False if the run is already complete and to be resumed or evaluated: then nothing is to be trained.
        What is left of its checkpoints, if it was killed as it removed them, is removed.

    Raises:
        InputError: the folder holds a run, finished or begun, and neither flag says what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder}: is a file; name a folder")
    finished = is_finished(folder)
    checkpoints = folder / "checkpoints"
    begun = (checkpoints / "run.json").exists()
    if finished and (resume or (evaluate and not overwrite)):
        shutil.rmtree(checkpoints, ignore_errors=True)
        return False
    if finished and not overwrite:
        raise InputError(
            f"--output_dir {folder}: holds a finished run; name another folder, or replace it with "
            "--overwrite"
        )
    if begun and not (resume or overwrite):
        raise InputError(
            f"--output_dir {folder}: holds a run that was begun; go on with --resume_from_checkpoint true, "
            "or start anew with --overwrite"
        )
    # A run that was killed as it began has not written anything whole yet.
    foreign = (
        path for path in folder.rglob("*") if path != checkpoints and not is_partial(path.relative_to(folder))
    )
    if folder.exists() and not (finished or begun) and any(foreign):
        raise InputError(f"--output_dir {folder}: is not empty and holds no run; name a new folder")
    return True


def begin_run(folder: Path, resume: str | None, identity: dict, writes: bool = True) -> str | None:
    """Make the run's folder ready for training, and return the checkpoint that the user named, if any.

    Args:
        folder: the run's folder; the checkpoints of each of its models are in a folder of the model's
            name in `checkpoints` below it.
        resume: `--resume_from_checkpoint`: true, the folder of one checkpoint, or None.
        identity: what must not change in between: encoder, emotions, split digest.
        writes: False in all processes but the first that uses the folder: they check, after it, and change
            nothing.

    Raises:
        InputError: the run that was begun had another identity. To go on would let its training
            speakers into this run's test.
    """
    checkpoints = folder / "checkpoints"
    chosen = None
    if resume and str(resume).lower() not in ("true", "yes", "1"):
        chosen = Path(resume)
        if not (chosen / "trainer_state.json").exists():
            raise InputError(
                f"--resume_from_checkpoint {resume}: expected true, for the last checkpoint of --output_dir, "
                "or the folder of a checkpoint"
            )
    note = (chosen.parent.parent if chosen else checkpoints) / "run.json"
    begun = json.loads(note.read_text(encoding="utf-8")) if resume and note.exists() else {}
    for key in identity if begun else ():
        # The copy on the Hub names no path of the machine that it comes from.
        if begun.get(key) not in (identity[key], without_secrets_and_paths(identity[key])):
            raise InputError(
                f"--resume_from_checkpoint: the run of {note} was begun with {key} {begun.get(key)}, "
                f"now it is {identity[key]}; give the same options as then, or start anew with "
                "--overwrite"
            )
    if not writes:
        return str(chosen) if chosen else None
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not (begun or chosen):
        # No identity: what a kill leaves half removed will not be taken up, but removed.
        write_json(checkpoints / "run.json", {})
        # The card says "finished": it goes first, so that a run that dies half-way does not wear an old one.
        (folder / "README.md").unlink(missing_ok=True)
        for path in checkpoints.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "run.json":
                path.unlink()
        for figure in (folder / "figures").glob("*.png"):  # the new card would show an older run's
            figure.unlink()
    for partial in folder.rglob(".*.partial"):  # of files that a kill cut off
        partial.unlink()
    write_json(checkpoints / "run.json", identity)
    return str(chosen) if chosen else None


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the newest checkpoint in a folder that was written to its end: its state file is the last
    one. None if there is none."""
    folders = [folder for folder in checkpoints.glob("checkpoint-*") if folder.name[11:].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.info("%s was cut off while it was written; looking for an earlier one", folder)
        else:
            logger.info("Going on from %s", folder)
            return str(folder)
    logger.info("No checkpoint to go on from: starting at the beginning")
    return None


def save_reference_predictions(
    folder: Path, waveforms: Sequence[np.ndarray], probabilities: np.ndarray
) -> None:
    """Keep what the saved model answers, for whoever loads it later.

    Args:
        folder: the run's folder.
        waveforms: float32 (num_samples,) at 16 kHz.
        probabilities: (num_clips, num_emotions), of the saved model.
    """
    place = unpublished_folder(folder / UNPUBLISHED)
    place.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    ends = np.cumsum([len(waveform) for waveform in waveforms])
    np.savez(buffer, samples=np.concatenate(waveforms), ends=ends, probabilities=probabilities)
    write_bytes(place / "checked_clips.npz", buffer.getvalue())


def load_reference_predictions(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the waveforms and probabilities of `save_reference_predictions`.

    Raises:
        InputError: the run has none.
    """
    path = unpublished_folder(folder / UNPUBLISHED) / "checked_clips.npz"
    if not path.exists():
        raise InputError(f"{path} is missing: there are no clips to check the model with; train it again")
    with np.load(path, allow_pickle=False) as kept:
        return np.split(kept["samples"], kept["ends"][:-1]), kept["probabilities"]


def copy_code(folder: Path, script: str) -> None:
    """Copy the script that made a run, and what it needs, into the run's folder."""
    for pattern in (script, *_CODE):
        for path in PROJECT_ROOT.glob(pattern):
            target = folder / path.relative_to(PROJECT_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
