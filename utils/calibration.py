"""Truth and probabilities come in; how far the probabilities can be believed, before and after temperature
scaling, goes out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.metrics import (
    accuracy_at_coverage,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability,
    scale_temperature,
)

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Shares of the clips that are answered, in the table of `describe_stage`."""

NUM_POINTS = 100
"""Of the curve that metrics.json keeps; predictions.csv has all."""


def describe_stage(references: Sequence[int], probabilities: np.ndarray) -> dict:
    """Return how far the probabilities (num_clips, num_emotions) of clips can be believed.

    Returns:
        `error` (expected calibration error), `bins` (`metrics.reliability`), `brier`, `coverage` (at most
        `NUM_POINTS` of `metrics.accuracy_at_coverage`), and `answered`: for each of `COVERAGES` the point of
        all these that answers most clips of no more than that share. They are fewer where many clips are
        equally sure.
    """
    curve = accuracy_at_coverage(references, probabilities)
    answered = []
    for coverage in COVERAGES:
        within = [point for point in curve if point["coverage"] <= coverage + 1e-9]
        if within and within[-1] not in answered:
            answered.append(within[-1])
    chosen = np.unique(np.linspace(0, len(curve) - 1, NUM_POINTS).astype(int))
    return {
        "error": expected_calibration_error(references, probabilities),
        "brier": brier_score(references, probabilities),
        "bins": reliability(references, probabilities),
        "coverage": [curve[row] for row in chosen],
        "answered": answered,
    }


def describe_scaling(
    validation: pd.DataFrame, test: pd.DataFrame, emotions: Sequence[str]
) -> dict[str, float | bool | dict]:
    """Return what one temperature, fitted on validation clips, would do to a model that is saved without.

    Args:
        validation, test: `report.prediction_table`s of one saved model.
        emotions: label names.

    Returns:
        `temperature`, `applied` (False: the saved model has `before`), and `describe_stage` of the test clips
        `before` and `after`.
    """
    columns = [f"p_{emotion}" for emotion in emotions]
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    truth = {part: rows["emotion"].map(labels).to_numpy() for part, rows in (("v", validation), ("t", test))}
    temperature = fit_temperature(truth["v"], validation[columns].to_numpy())
    before = test[columns].to_numpy()
    return {
        "temperature": temperature,
        "applied": False,
        "before": describe_stage(truth["t"], before),
        "after": describe_stage(truth["t"], scale_temperature(before, temperature)),
    }
