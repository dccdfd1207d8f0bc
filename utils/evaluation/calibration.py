"""Calibration of probabilities: reliability, Brier score, accuracy at coverage, temperature scaling.

The functions take true labels, (num_clips,), and probabilities, float (num_clips, num_emotions), and return
plain data for metrics.json.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

NUM_BINS = 15
"""Equally wide confidence bins of the expected calibration error."""

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Shares of the clips in `coverage_table`."""

NUM_CURVE_POINTS = 100
"""Maximum length of `coverage_curve` in metrics.json; the full curve follows from predictions.csv."""


def calibration_scores(references: Sequence[int], probabilities: np.ndarray) -> dict:
    """Return the calibration of the probabilities.

    Args:
        references: true label per clip, (num_clips,).
        probabilities: float array (num_clips, num_emotions), rows sum to 1.

    Returns:
        `ece` (see `expected_calibration_error`), `brier_score`, `bins` (see `reliability_bins`),
        `coverage_curve` (at most `NUM_CURVE_POINTS` points of `accuracy_at_coverage`), and `coverage_table`:
        for each of `COVERAGES` the point of the full curve with the largest coverage up to that value. The
        table is shorter where many clips have the same confidence.
    """
    curve = accuracy_at_coverage(references, probabilities)
    table = []
    for coverage in COVERAGES:
        within = [point for point in curve if point["coverage"] <= coverage + 1e-9]
        if within and within[-1] not in table:
            table.append(within[-1])
    kept = np.unique(np.linspace(0, len(curve) - 1, NUM_CURVE_POINTS).astype(int))
    return {
        "ece": expected_calibration_error(references, probabilities),
        "brier_score": brier_score(references, probabilities),
        "bins": reliability_bins(references, probabilities),
        "coverage_curve": [curve[row] for row in kept],
        "coverage_table": table,
    }


def describe_temperature_scaling(
    validation: pd.DataFrame, test: pd.DataFrame, emotions: Sequence[str]
) -> dict[str, float | bool | dict]:
    """Return the effect of temperature scaling on a model that is saved without it.

    Args:
        validation: the `predictions.prediction_table` on which the temperature is fitted.
        test: the `predictions.prediction_table` of the same model that is evaluated.
        emotions: label names.

    Returns:
        `temperature`; `applied` (False: the saved model returns the probabilities of `before`); `before` and
        `after`, the `calibration_scores` of the test clips without and with the temperature.
    """
    columns = [f"p_{emotion}" for emotion in emotions]
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    temperature = fit_temperature(
        validation["emotion"].map(labels).to_numpy(), validation[columns].to_numpy()
    )
    references, probabilities = test["emotion"].map(labels).to_numpy(), test[columns].to_numpy()
    return {
        "temperature": temperature,
        "applied": False,
        "before": calibration_scores(references, probabilities),
        "after": calibration_scores(references, scale_temperature(probabilities, temperature)),
    }


def expected_calibration_error(references: Sequence[int], probabilities: np.ndarray) -> float:
    """Return the expected calibration error (ECE), 0 (best) to 1.

    It is the mean absolute difference between confidence (the probability of the predicted emotion) and
    accuracy over `NUM_BINS` equally wide confidence bins, weighted by the number of clips (Guo et al. 2017,
    "On Calibration of Modern Neural Networks").
    """
    bins = reliability_bins(references, probabilities)
    return float(sum(row["share"] * abs(row["correct"] - row["confidence"]) for row in bins))


def reliability_bins(references: Sequence[int], probabilities: np.ndarray) -> list[dict[str, float]]:
    """Return the confidence bins of a reliability diagram.

    Returns:
        For each bin that has clips, all in 0..1: `share` of the clips, mean `confidence`, and `correct`, the
        share of its clips with a correct prediction.
    """
    probabilities = np.asarray(probabilities)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == np.asarray(references)
    bin_ids = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "share": float((bin_ids == bin_id).mean()),
            "confidence": float(confidence[bin_ids == bin_id].mean()),
            "correct": float(correct[bin_ids == bin_id].mean()),
        }
        for bin_id in np.unique(bin_ids)
    ]


def brier_score(references: Sequence[int], probabilities: np.ndarray) -> float:
    """Return the Brier score, 0 (best) to 2.

    It is the mean over clips of the squared distance between the probabilities and the one-hot true label,
    summed over all emotions (Brier 1950, "Verification of forecasts expressed in terms of probability"). A
    model that assigns 1 / n to each of n emotions scores 1 - 1 / n.
    """
    # scikit-learn's brier_score_loss takes several classes only from 1.8 on; the kit supports 1.6.
    one_hot = np.eye(np.shape(probabilities)[1])[np.asarray(references)]
    return float(((np.asarray(probabilities) - one_hot) ** 2).sum(axis=1).mean())


def accuracy_at_coverage(references: Sequence[int], probabilities: np.ndarray) -> list[dict[str, float]]:
    """Return the accuracy on the clips with the highest confidence, as a function of their number.

    It is the risk-coverage curve of selective classification (Geifman and El-Yaniv 2017, "Selective
    Classification for Deep Neural Networks"). Clips of equal confidence are added together.

    Returns:
        Points in the order of rising coverage, all values in 0..1: `coverage` (share of the clips),
        `accuracy` on them, and `confidence` (the lowest of them).
    """
    probabilities = np.asarray(probabilities)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == np.asarray(references)
    order = np.argsort(-confidence, kind="stable")
    accuracy = np.cumsum(correct[order]) / np.arange(1, len(correct) + 1)
    last_of_equal = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    return [
        {
            "coverage": float((row + 1) / len(correct)),
            "accuracy": float(accuracy[row]),
            "confidence": float(confidence[order][row]),
        }
        for row in last_of_equal
    ]


def fit_temperature(references: Sequence[int], probabilities: np.ndarray) -> float:
    """Return the temperature T that minimises the cross-entropy of softmax(logits / T) (Guo et al. 2017).

    Args:
        references: true label per clip, (num_clips,).
        probabilities: float array (num_clips, num_labels), at T = 1; their logarithms serve as logits.

    Returns:
        T in exp(-3)..exp(3).
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    rows = np.arange(len(logits))

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[rows, references]))

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-3, 3), method="bounded").x))


def scale_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities after dividing their logits by `temperature`, (num_clips, num_labels)."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    return softmax(logits, axis=1)
