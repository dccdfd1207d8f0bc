"""Predictions, scores and limitations of a finished run as texts for the page."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

DEFAULT_THRESHOLD = 0.5
"""Confidence threshold for runs without calibration results."""

DEFAULT_COVERAGE = 0.8
"""Share of the test clips that exceed the default threshold of runs with calibration results."""


def describe_prediction(
    probabilities: np.ndarray, emotions: Sequence[str], threshold: float
) -> tuple[str, bool]:
    """Return a prediction as text, and whether its confidence reaches the threshold.

    Args:
        probabilities: (num_emotions,).
        emotions: label names.
        threshold: in 0..1; below it, the two most probable emotions are named as uncertain.
    """
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    is_confident = bool(probabilities[first] >= threshold)
    if is_confident:
        return f"{emotions[first]}, {format_percent(probabilities[first])}", True
    both = ", ".join(f"{emotions[label]} {format_percent(probabilities[label])}" for label in (first, second))
    return f"Uncertain: {both}", False


def format_percent(share: float) -> str:
    """Return a share in 0..1 as whole percent; 0 % and 100 % only if the share is exactly 0 or 1."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def emotion_segments(window_probabilities: np.ndarray, emotions: Sequence[str]) -> list[tuple[str, int, int]]:
    """Merge consecutive windows with the same most probable emotion.

    Args:
        window_probabilities: (num_windows, num_emotions), as returned by `predictor.predict_over_time`.
        emotions: label names.

    Returns:
        (emotion or "silence", first window, last window) of each segment.
    """
    names = [
        "silence" if np.isnan(row).any() else emotions[int(np.argmax(row))]
        for row in np.asarray(window_probabilities)
    ]
    segments = []
    for number, name in enumerate(names):
        if segments and segments[-1][0] == name:
            segments[-1] = (name, segments[-1][1], number)
        else:
            segments.append((name, number, number))
    return segments


def default_threshold(run: dict) -> float:
    """Return the confidence that `DEFAULT_COVERAGE` of the test clips reach, rounded down to a percent."""
    coverage_table = run.get("calibration", {}).get("after", {}).get("coverage_table", ())
    for point in coverage_table:  # in order of decreasing coverage
        if point["coverage"] <= DEFAULT_COVERAGE:
            return int(100 * point["confidence"]) / 100
    return DEFAULT_THRESHOLD


def read_test_confidences(folder: Path, run: dict) -> pd.DataFrame | None:
    """Return confidence and correctness of each test clip.

    Args:
        folder: the run folder.
        run: as returned by `predictor.read_run`.

    Returns:
        `confidence` (0..1) and `correct` (bool) of each clip, or None if the run has no predictions.csv.
    """
    path = folder / "predictions.csv"
    if not path.exists():
        return None
    rows = pd.read_csv(path, float_precision="round_trip")
    probabilities = rows[[f"p_{emotion}" for emotion in run["emotions"]]].to_numpy()
    return pd.DataFrame(
        {"confidence": probabilities.max(axis=1), "correct": rows["emotion"] == rows["predicted"]}
    )


def describe_threshold(test: pd.DataFrame | None, threshold: float) -> str:
    """Return how many test clips reach a threshold in 0..1, and how many of these are correct.

    Args:
        test: as returned by `read_test_confidences`.
        threshold: in 0..1.
    """
    if test is None:
        return ""
    confident = test[test["confidence"] >= threshold]
    if not len(confident):
        return f"None of the {len(test)} test clips reached this probability."
    share = format_percent(len(confident) / len(test))
    correct = format_percent(confident["correct"].mean())
    return f"{share} of the {len(test)} test clips reached this probability; {correct} of these were correct."


def describe_test(run: dict) -> str:
    """Return the test result of a run: unweighted average recall with its confidence interval, and chance."""
    test, chance = run["test"], 1 / len(run["emotions"])
    interval = test["intervals"]["uar"]
    bounds = (
        f" (95 % interval over speakers {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
        if interval
        else ""
    )
    speakers = "seen in training" if run["protocol"] == "random" else "not seen in training"
    return (
        f"On {test['clips']} test clips of speakers {speakers}, the unweighted average recall (UAR, the mean "
        f"of the recalls of all emotions) is {100 * test['uar']:.1f} %{bounds}; "
        f"chance is {100 * chance:.1f} %."
    )


def describe_calibration(run: dict) -> str:
    """Return whether the probabilities are calibrated, and their calibration error on the test clips."""
    calibration = run["calibration"]
    how = "not scaled" if calibration["temperature"] == 1 else "calibrated on validation clips"
    return (
        f"The probabilities are {how}. Their expected calibration error on the test clips is "
        f"{100 * calibration['after']['ece']:.1f} percentage points; on other recordings it is larger."
    )


def read_card(folder: Path) -> tuple[str, str]:
    """Return warnings and limitations in the model card of a run, both as Markdown; "" without a card."""
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    warnings = re.findall(r"^> (.+)$", card, re.MULTILINE)
    limitations = re.search(r"^## Limitations\n.*", card, re.MULTILINE | re.DOTALL)
    return "\n\n".join(warnings), limitations.group() if limitations else ""
