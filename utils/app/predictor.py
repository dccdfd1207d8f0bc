"""A finished run comes in, then waveforms; what its model says of the whole clip and along time goes out, and
how often it is right when it is so sure.

Nothing is written here, and no waveform is kept.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from utils.app.loading import load_model
from utils.data.audio import SAMPLING_RATE, SILENCE_PEAK
from utils.evaluation.calibration import scale_temperature
from utils.runtime import InputError, first_line

WINDOW_SECONDS = 1.5
"""What is heard at once along time: a few words. The clips of RAVDESS have 3 to 5 s."""

HOP_SECONDS = 0.25
"""From one window to the next, at least."""

MAX_WINDOWS = 60
"""Of a long clip, whose windows are further apart: each is heard by the whole model."""

DEFAULT_THRESHOLD = 0.5
"""Below it the answer is "I am not sure", where the run has not measured what that is worth."""

DEFAULT_COVERAGE = 0.8
"""Share of the test clips that are answered by default, where the run has measured it."""

Predictor = Callable[[list[np.ndarray]], np.ndarray]
"""Waveforms -> probabilities (num_clips, num_emotions)."""


def read_run(folder: Path) -> dict:
    """Return the metrics.json of a finished run whose model can hear one clip alone.

    Raises:
        InputError: there is none, or the model has to know the voice.
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
    """Refuse a model that needs many clips of a voice before it can judge one.

    Raises:
        InputError: its features are standardised over each speaker's clips.
    """
    if run["model"].get("speaker_normalization"):
        raise InputError(
            "this model was trained with --speaker_normalization: it has to know a voice from many clips and "
            "cannot hear one alone; train one without that option"
        )


def load_predictor(folder: Path, run: dict) -> Predictor:
    """Return what gives the probabilities of waveforms, scaled where the run has a temperature for them.

    Args:
        folder: the run's.
        run: of `read_run`.

    Raises:
        InputError: the model cannot be loaded.
    """
    try:
        model = load_model(folder, run)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error
    temperature = temperature_to_apply(run)
    return lambda waveforms: scale_temperature(model(waveforms), temperature)


def temperature_to_apply(run: dict) -> float:
    """Return what the saved model's logits are still to be divided by; 1: nothing is to be done or known."""
    calibration = run.get("calibration")
    return calibration["temperature"] if calibration and not calibration["applied"] else 1.0


def describe_calibration(run: dict) -> str:
    """Say how far the probabilities can be believed."""
    calibration = run.get("calibration")
    if not calibration:
        return "Its probabilities are not calibrated: 80 % need not mean right in 80 of 100 cases."
    error = 100 * calibration["after"]["error"]
    here = "" if calibration["applied"] else "on this page, not in the saved model, "
    return (
        f"Its probabilities are calibrated {here}on validation clips; on the test clips they are off by "
        f"{error:.1f} points on average, and on other recordings by more."
    )


def window_slices(num_samples: int) -> list[slice]:
    """Return the windows of a waveform, evenly from its beginning to its end; the whole, if it is short."""
    window = round(WINDOW_SECONDS * SAMPLING_RATE)
    rest = num_samples - window
    if rest <= 0:
        return [slice(0, num_samples)]
    num_windows = min(1 + -(-rest // round(HOP_SECONDS * SAMPLING_RATE)), MAX_WINDOWS)
    starts = np.linspace(0, rest, num_windows).round().astype(int)
    return [slice(int(start), int(start) + window) for start in starts]


def predict_along_time(
    predictor: Predictor, waveform: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a model says of a clip as a whole, and along time.

    Args:
        predictor: of `load_predictor`.
        waveform: float32 (num_samples,) at 16 kHz.

    Returns:
        probabilities (num_emotions,) of the whole clip; the middles of the windows in s, (num_windows,);
        their probabilities (num_windows, num_emotions), NaN where a window is silent.
    """
    slices = window_slices(len(waveform))
    middles = np.array([(part.start + part.stop) / 2 for part in slices]) / SAMPLING_RATE
    whole = predictor([waveform])[0]
    if len(slices) == 1:
        return whole, middles, whole[None]
    along = np.full((len(slices), len(whole)), np.nan)
    audible = [row for row, part in enumerate(slices) if np.ptp(waveform[part]) > 2 * SILENCE_PEAK]
    if audible:
        along[audible] = predictor([waveform[slices[row]] for row in audible])
    return whole, middles, along


def answer(probabilities: np.ndarray, emotions: Sequence[str], threshold: float) -> tuple[str, bool]:
    """Return the answer in words, and whether it is one: below the threshold it is "I am not sure".

    Args:
        probabilities: (num_emotions,)
        emotions: their names.
        threshold: the least probability, in 0..1, with which an emotion is named.
    """
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    sure = bool(probabilities[first] >= threshold)
    if sure:
        return f"{emotions[first]}, {percent(probabilities[first])}", True
    both = ", ".join(f"{emotions[label]} {percent(probabilities[label])}" for label in (first, second))
    return f"I am not sure: {both}", False


def percent(share: float) -> str:
    """Return a share as whole percents, 100 and 0 only where it is exactly that."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def spans(along: np.ndarray, emotions: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return runs of windows that have the same emotion first: (emotion or "silence", first, last window)."""
    names = ["silence" if np.isnan(row).any() else emotions[int(np.argmax(row))] for row in np.asarray(along)]
    found = []
    for number, name in enumerate(names):
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], number)
        else:
            found.append((name, number, number))
    return found


def default_threshold(run: dict) -> float:
    """Return the threshold, to a percent, at which the run answered `DEFAULT_COVERAGE` of its test clips."""
    answered = run.get("calibration", {}).get("after", {}).get("answered", ())
    for point in answered:  # from all clips to few
        if point["coverage"] <= DEFAULT_COVERAGE:
            return int(100 * point["confidence"]) / 100
    return DEFAULT_THRESHOLD


def read_test_confidences(folder: Path, run: dict) -> pd.DataFrame | None:
    """Return `confidence` (0..1, as `load_predictor` scales it) and `right` (bool) of each test clip; None if
    the run has no predictions.csv."""
    path = folder / "predictions.csv"
    if not path.exists():
        return None
    rows = pd.read_csv(path, float_precision="round_trip")
    probabilities = rows[[f"p_{emotion}" for emotion in run["emotions"]]].to_numpy()
    probabilities = scale_temperature(probabilities, temperature_to_apply(run))
    return pd.DataFrame(
        {"confidence": probabilities.max(axis=1), "right": rows["emotion"] == rows["predicted"]}
    )


def describe_threshold(test: pd.DataFrame | None, threshold: float) -> str:
    """Say how many test clips would be answered at a threshold in 0..1, and how often rightly."""
    if test is None:
        return ""
    answered = test[test["confidence"] >= threshold]
    if not len(answered):
        return f"So sure it was of none of its {len(test)} test clips."
    share = percent(len(answered) / len(test))
    right = percent(answered["right"].mean())
    return f"So sure it was of {share} of its {len(test)} test clips; {right} of these it named rightly."


def describe_test(run: dict) -> str:
    """Say how the run did on its test clips: UAR with its interval, and chance."""
    test, chance = run["test"], 1 / len(run["emotions"])
    interval = test["intervals"]["uar"]
    bounds = (
        f" (95 % interval over speakers {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
        if interval
        else ""
    )
    heard = (
        "of speakers who were heard in training"
        if run["protocol"] == "random"
        else "of speakers it never heard"
    )
    return (
        f"On {test['clips']} test clips {heard} its recall, averaged over the emotions (UAR), is "
        f"{100 * test['uar']:.1f} %{bounds}; chance is {100 * chance:.1f} %."
    )


def read_card(folder: Path) -> tuple[str, str]:
    """Return what a run's card warns of first, and its limits, both in Markdown; "" without a card."""
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    warnings = re.findall(r"^> (.+)$", card, re.MULTILINE)
    limits = re.search(r"^## Limits\n.*", card, re.MULTILINE | re.DOTALL)
    return "\n\n".join(warnings), limits.group() if limits else ""
