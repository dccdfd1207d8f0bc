"""A run folder comes in; whether a stranger's program gets the run's own answers from its model goes out.

It loads the model by the library's public API alone, in the process that it is called in: a fresh one.

    python -m utils.hub.verify runs/wav2vec2
"""

import json
import sys
from pathlib import Path

import numpy as np

from utils.app.loading import load_model
from utils.report.run_folder import load_reference_predictions
from utils.runtime import InputError, first_line, run_script

TOLERANCE = 1e-3
"""How far a probability may be from the run's: the run's own device may have rounded otherwise."""


def check(folder: Path) -> str:
    """Return in words what was compared.

    Raises:
        InputError: there is nothing to compare with, or the answers differ.
    """
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    waveforms, expected = load_reference_predictions(folder)
    try:
        got = load_model(folder, run)(waveforms)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(first_line(error)) from error
    if got.shape != expected.shape:
        raise InputError(f"it gives {got.shape[1]} probabilities, expected {expected.shape[1]}")
    apart = np.abs(got - expected).max(axis=1)
    if not (apart <= TOLERANCE).all():
        raise InputError(
            f"on {(~(apart <= TOLERANCE)).sum()} of {len(apart)} clips its probabilities are off by up to "
            f"{apart.max():.3f} from those of the run"
        )
    return f"Loaded anew, the model gives the run's answers on {len(apart)} clips, to {apart.max():.0e}"


def main() -> None:
    print(check(Path(sys.argv[1])))


if __name__ == "__main__":
    run_script(main)
