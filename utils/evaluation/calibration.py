"""Truth and probabilities come in; how far the probabilities can be believed, before and after temperature
scaling, goes out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

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


NUM_BINS = 15


def expected_calibration_error(references: Sequence[int], probabilities: np.ndarray) -> float:
    """Return by how much the probability of the named emotion and the share named rightly differ, on average.

    Clips are sorted into `NUM_BINS` equally wide bins of that probability (Guo et al. 2017, "On Calibration
    of Modern Neural Networks").
    """
    bins = reliability(references, probabilities)
    return float(sum(row["share"] * abs(row["right"] - row["confidence"]) for row in bins))


def reliability(references: Sequence[int], probabilities: np.ndarray) -> list[dict[str, float]]:
    """Return of each bin with clips, all in 0..1: its `share` of them, mean `confidence`, share `right`."""
    probabilities = np.asarray(probabilities)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(references)
    number = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "share": float((number == each).mean()),
            "confidence": float(confidence[number == each].mean()),
            "right": float(right[number == each].mean()),
        }
        for each in np.unique(number)
    ]


def brier_score(references: Sequence[int], probabilities: np.ndarray) -> float:
    """Return the mean over clips of the squared distance of the probabilities from the truth, 0 (best) to 2.

    It is summed over all emotions (Brier 1950, "Verification of forecasts expressed in terms of
    probability"); a model that gives each of n emotions 1 / n has 1 - 1 / n.
    """
    truth = np.eye(np.shape(probabilities)[1])[np.asarray(references)]
    return float(((np.asarray(probabilities) - truth) ** 2).sum(axis=1).mean())


def accuracy_at_coverage(references: Sequence[int], probabilities: np.ndarray) -> list[dict[str, float]]:
    """Return how often the answers are right when only the surest clips are answered.

    Clips whose named emotion has the same probability cannot be told apart: they are answered together or
    not at all (risk-coverage curve; Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
    Networks").

    Returns:
        From few clips to all: `coverage` (share that is answered), `accuracy` of these, and `confidence`, the
        least probability with which one of them was named; all in 0..1.
    """
    probabilities = np.asarray(probabilities)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(references)
    order = np.argsort(-confidence, kind="stable")
    accuracy = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))  # of each confidence
    return [
        {
            "coverage": float((row + 1) / len(right)),
            "accuracy": float(accuracy[row]),
            "confidence": float(confidence[order][row]),
        }
        for row in last
    ]


def fit_temperature(references: Sequence[int], probabilities: np.ndarray) -> float:
    """Return the T > 0 by which logits are to be divided so that the cross-entropy of these clips is least.

    Args:
        references: true label per clip.
        probabilities: (num_clips, num_labels), at T = 1.
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    rows = np.arange(len(logits))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[rows, references]))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def scale_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities of the same logits divided by `temperature`."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    return softmax(logits, axis=1)
