"""Predict with the model of a finished run: probabilities of a whole clip, and over time.

No waveform is stored.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.app.loading import load_model
from utils.data.audio import SAMPLING_RATE, SILENCE_PEAK
from utils.runtime import InputError, first_line

WINDOW_SECONDS = 1.5
"""Length of the windows of predictions over time: a few words. The clips of RAVDESS have 3 to 5 s."""

HOP_SECONDS = 0.25
"""Minimum distance between consecutive windows."""

MAX_WINDOWS = 60
"""Maximum number of windows, since each is classified by the whole model. Windows of long clips are further
apart."""

Predictor = Callable[[list[np.ndarray]], np.ndarray]
"""Waveforms -> probabilities (num_clips, num_emotions)."""


def read_run(folder: Path) -> dict:
    """Return the metrics.json of a finished run whose model can classify single clips.

    Args:
        folder: the run folder, or a downloaded model repository.

    Raises:
        InputError: there is no readable metrics.json, or the model needs many clips of a speaker.
    """
    try:
        run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: expected the folder of a finished run, with its metrics.json ({first_line(error)})"
        ) from None
    check_single_clip_model(run)
    return run


def check_single_clip_model(run: dict) -> None:
    """Check that a model can classify single clips.

    Raises:
        InputError: its features are standardised over the clips of each speaker.
    """
    if run["model"].get("speaker_normalization"):
        raise InputError(
            "this model was trained with --speaker_normalization: it needs many clips of a speaker and "
            "cannot classify a single clip; train one without that option"
        )


def load_predictor(folder: Path, run: dict) -> Predictor:
    """Load the model of a run.

    Args:
        folder: the run folder.
        run: as returned by `read_run`.

    Raises:
        InputError: the model cannot be loaded.
    """
    try:
        return load_model(folder, run)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error


def window_slices(num_samples: int) -> list[slice]:
    """Return evenly spaced windows from the beginning to the end of a waveform; a short one is one window."""
    window = round(WINDOW_SECONDS * SAMPLING_RATE)
    rest = num_samples - window
    if rest <= 0:
        return [slice(0, num_samples)]
    num_windows = min(1 + -(-rest // round(HOP_SECONDS * SAMPLING_RATE)), MAX_WINDOWS)
    starts = np.linspace(0, rest, num_windows).round().astype(int)
    return [slice(int(start), int(start) + window) for start in starts]


def predict_over_time(
    predictor: Predictor, waveform: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classify a clip as a whole and in windows.

    Args:
        predictor: as returned by `load_predictor`.
        waveform: float32 (num_samples,) at 16 kHz.

    Returns:
        probabilities: of the whole clip, (num_emotions,).
        window_times: centres of the windows in seconds, (num_windows,).
        window_probabilities: (num_windows, num_emotions); NaN where a window is silent.
    """
    slices = window_slices(len(waveform))
    window_times = np.array([(window.start + window.stop) / 2 for window in slices]) / SAMPLING_RATE
    probabilities = predictor([waveform])[0]
    if len(slices) == 1:
        return probabilities, window_times, probabilities[None]
    window_probabilities = np.full((len(slices), len(probabilities)), np.nan)
    sounding = [row for row, window in enumerate(slices) if np.ptp(waveform[window]) > 2 * SILENCE_PEAK]
    if sounding:
        window_probabilities[sounding] = predictor([waveform[slices[row]] for row in sounding])
    return probabilities, window_times, window_probabilities
