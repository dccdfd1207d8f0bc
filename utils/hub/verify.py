"""Check that a reloaded model gives the probabilities of its run, with versions that its requirements allow.

The model is loaded with the public API of its library only. `publication.check_reload` runs it in a new
process:

    python -m utils.hub.verify runs/wav2vec2
"""

import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from utils.app.loading import load_model
from utils.report.requirements import LOADED_BY
from utils.report.run_folder import load_reference_predictions
from utils.runtime import InputError, first_line, run_script

TOLERANCE = 1e-3
"""Maximum difference of a probability: the run may have used another device, with other rounding."""


def check(folder: Path) -> str:
    """Compare the probabilities of a reloaded model with the reference predictions of its run.

    Args:
        folder: of the run.

    Returns:
        a sentence about the comparison.

    Raises:
        InputError: the requirements of the run exclude an installed version, the model or the reference
            predictions cannot be loaded, or the probabilities differ.
    """
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    waveforms, expected = load_reference_predictions(folder)
    try:
        check_versions(folder / "requirements.txt", LOADED_BY[run["model"]["library"]])
        probabilities = load_model(folder, run)(waveforms)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(first_line(error)) from error
    if probabilities.shape != expected.shape:
        raise InputError(f"it gives {probabilities.shape[1]} probabilities, expected {expected.shape[1]}")
    differences = np.abs(probabilities - expected).max(axis=1)
    is_close = differences <= TOLERANCE  # False for NaN
    if not is_close.all():
        raise InputError(
            f"its probabilities differ from those of the run by up to {differences.max():.3f}, on "
            f"{(~is_close).sum()} of {len(differences)} clips"
        )
    return (
        f"The reloaded model gives the probabilities of the run on {len(differences)} clips, to "
        f"{differences.max():.0e}"
    )


def check_versions(requirements: Path, packages: Sequence[str]) -> None:
    """Check that the requirements of a run allow the installed versions of the packages that load its model.

    Args:
        requirements: requirements.txt of the run.
        packages: names in it.

    Raises:
        InputError: they exclude an installed version.
    """
    lines = [line.partition("#")[0].strip() for line in requirements.read_text("utf-8").splitlines()]
    for needed in (Requirement(line) for line in lines if line):
        if needed.name in packages:
            installed = metadata.version(needed.name)
            if not needed.specifier.contains(installed, prereleases=True):
                raise InputError(
                    f"{needed.name} {installed} is installed, but requirements.txt of the run has {needed}; "
                    f"pip install '{needed}'"
                )


def main() -> None:
    print(check(Path(sys.argv[1])))


if __name__ == "__main__":
    run_script(main)
