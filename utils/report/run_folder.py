"""The folder of a run: whether a run may begin or resume there, and the files that later check its model.

```
runs/<name>/
    checkpoints/   of an unfinished run: `run.json` with what must not change, and a folder per model
    logs/          what --report_to writes
    unpublished/   test clips and the probabilities of the saved model
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
    unpublished_folder,
    without_secrets_and_paths,
    write_bytes,
    write_json,
)

UNPUBLISHED = "unpublished"
"""Folder in a run folder that is never uploaded: it holds audio."""

LOGS = "logs"
"""Folder in a run folder for the files of --report_to; it is never uploaded either."""

_CODE = ("model_card.md", "utils/**/*.py")
"""What a script needs beside itself."""


def is_partial(name: PurePath) -> bool:
    """Return whether a file, or a folder that it is in, is incomplete."""
    return any(part.endswith(".partial") for part in name.parts)


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a finished run: its card is written last."""
    return (folder / "README.md").exists() and (folder / "metrics.json").exists()


def check_run_folder(folder: Path, overwrite: bool, resume: bool, evaluate: bool = False) -> bool:
    """Refuse a folder whose content must not be replaced.

    Args:
        folder: of the run.
        overwrite, resume: whether these options were given.
        evaluate: whether a finished run is scored on further recordings instead of being replaced.

    Returns:
        False if the run is finished and is to be resumed or evaluated: nothing has to be trained. Remaining
        checkpoints are removed then.

    Raises:
        InputError: the folder holds a run, finished or not, and no option says what to do with it.
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
            f"--output_dir {folder}: holds an unfinished run; continue it with --resume_from_checkpoint "
            "true, or start again with --overwrite"
        )
    # A run that was killed at its start has left incomplete files only.
    foreign = (
        path for path in folder.rglob("*") if path != checkpoints and not is_partial(path.relative_to(folder))
    )
    if folder.exists() and not (finished or begun) and any(foreign):
        raise InputError(f"--output_dir {folder}: is not empty and holds no run; name a new folder")
    return True


def begin_run(folder: Path, resume: str | None, identity: dict, writes: bool = True) -> str | None:
    """Prepare the folder for training; return the checkpoint that the user named, if any.

    Args:
        folder: of the run; the checkpoints of each model are in `checkpoints/<model>`.
        resume: `--resume_from_checkpoint`: true, the folder of one checkpoint, or None.
        identity: what an interrupted run and its continuation must have in common, such as the split digest.
        writes: False in processes that share the folder with one that prepares it: they only check.

    Raises:
        InputError: the unfinished run has another identity. Its training speakers could be test speakers
            now.
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
                f"--resume_from_checkpoint: the run of {note} was started with {key} {begun.get(key)}, now "
                f"it is {identity[key]}; give the same options as then, or start again with --overwrite"
            )
    if not writes:
        return str(chosen) if chosen else None
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not (begun or chosen):
        # Without an identity: if the removal below is interrupted, the rest is not resumed.
        write_json(checkpoints / "run.json", {})
        # The card marks a finished run, so it is removed first.
        (folder / "README.md").unlink(missing_ok=True)
        for path in checkpoints.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "run.json":
                path.unlink()
        shutil.rmtree(folder / LOGS, ignore_errors=True)  # its curves would be drawn with the new ones
        for figure in (folder / "figures").glob("*.png"):  # the new card would show them
            figure.unlink()
    for partial in folder.rglob(".*.partial"):  # incomplete files of a killed run
        partial.unlink()
    write_json(checkpoints / "run.json", identity)
    return str(chosen) if chosen else None


def save_reference_predictions(
    folder: Path, waveforms: Sequence[np.ndarray], probabilities: np.ndarray
) -> None:
    """Keep clips with the probabilities of the saved model, to verify it before it is published.

    Args:
        folder: of the run.
        waveforms: float32 (num_samples,) at 16 kHz.
        probabilities: (num_clips, num_emotions), of the saved model.
    """
    place = unpublished_folder(folder / UNPUBLISHED)
    place.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    ends = np.cumsum([len(waveform) for waveform in waveforms])
    np.savez(buffer, samples=np.concatenate(waveforms), ends=ends, probabilities=probabilities)
    write_bytes(place / "reference_predictions.npz", buffer.getvalue())


def load_reference_predictions(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the waveforms and probabilities of `save_reference_predictions`.

    Raises:
        InputError: the run has none.
    """
    path = unpublished_folder(folder / UNPUBLISHED) / "reference_predictions.npz"
    if not path.exists():
        raise InputError(f"{path} is missing: the model cannot be verified; train it again")
    with np.load(path, allow_pickle=False) as kept:
        return np.split(kept["samples"], kept["ends"][:-1]), kept["probabilities"]


def copy_code(folder: Path, script: str) -> None:
    """Copy the script of a run, and the code that it needs, into the run folder."""
    for pattern in (script, *_CODE):
        for path in PROJECT_ROOT.glob(pattern):
            target = folder / path.relative_to(PROJECT_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
