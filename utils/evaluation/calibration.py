"""Calibration of probabilities: reliability, Brier score, accuracy at coverage, temperature scaling.

The functions take true labels, (num_clips,), and probabilities, float (num_clips, num_emotions), and return
plain data for metrics.json.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from utils.runtime import logger

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


def scaling_stages(calibration: dict) -> dict[str, dict]:
    """Return the `calibration_scores` before and after scaling, by name; one if the temperature is 1."""
    if calibration["temperature"] == 1:
        return {"not scaled": calibration["after"]}
    return {f"{name} scaling": calibration[name] for name in ("before", "after")}


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


def fit_temperature(split: pd.DataFrame, probabilities: np.ndarray) -> float:
    """Return the temperature T that minimises the cross-entropy of softmax(logits / T) (Guo et al. 2017).

    It is fitted on the validation clips of speakers who do not train. A model is more often correct for a
    speaker that it has seen, so a temperature from those would make it too confident for others. If all
    validation speakers train, T is 1.

    Args:
        split: table with `split`, `speaker` and `label`.
        probabilities: float array (num_validation_clips, num_labels), at T = 1, in the order of the table;
            their logarithms serve as logits.

    Returns:
        T in 0.5..20. Without the lower bound, a few clips that are all predicted correctly would make every
        probability 0 or 1.
    """
    validation = split[split["split"] == "validation"]
    unseen = ~validation["speaker"].isin(split["speaker"][split["split"] == "train"]).to_numpy()
    if not unseen.any():
        logger.info("The probabilities are not calibrated: every validation speaker also trains")
        return 1.0
    logits = np.log(np.maximum(probabilities[unseen], np.finfo(np.float64).tiny))
    references = validation["label"].to_numpy()[unseen]
    return best_temperature(logits, references)


def best_temperature(
    logits: np.ndarray,
    references: np.ndarray,
    bounds: tuple[float, float] = (0.5, 20),
    weights: np.ndarray | None = None,
) -> float:
    """Return the temperature within bounds that minimises the weighted cross-entropy.

    Args:
        logits: (num_clips, num_labels).
        references, weights: true label and weight per clip, (num_clips,).
    """
    rows = np.arange(len(logits))

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        losses = logsumexp(scaled, axis=1) - scaled[rows, references]
        return float(np.average(losses, weights=weights))

    return float(np.exp(minimize_scalar(cross_entropy, bounds=np.log(bounds), method="bounded").x))


def calibrate(model, features: np.ndarray, rows: pd.DataFrame, folds: Sequence, by_speaker: bool):
    """Calibrate a scikit-learn model by a temperature that becomes part of it.

    The model's predictions stay what they are. (With Platt scaling of each emotion, as in scikit-learn, a
    speaker with most of the clips decides which emotions are predicted: on RAVDESS and TESS together the UAR
    of a support vector machine fell from 67 to 54 %.) The shares of trees and of neighbours are no logits;
    these models stay as they are.

    Args:
        model: a fitted pipeline.
        features: of its training clips, (num_clips, num_features).
        rows: their `emotion` and `speaker`; all speakers have the same weight.
        folds: (training rows, held-out rows) of each fold. The temperature is fitted on the decision values
            of held-out clips.
        by_speaker: whether the clips are held out by speaker, as they are when the model is used. Otherwise
            linear models stay as they are.

    Returns:
        the model, with `predict_proba`, and its temperature, 1 if nothing is scaled.
    """
    is_linear = isinstance(model[-1], LinearDiscriminantAnalysis | LogisticRegression)
    if (is_linear and not by_speaker) or not hasattr(model, "decision_function"):
        return model, 1.0
    decisions = cross_val_predict(
        model, features, rows["emotion"], cv=folds, method="decision_function", n_jobs=-1
    )
    if decisions.ndim == 1:  # of two emotions: the logit of the second
        decisions = np.stack([np.zeros_like(decisions), decisions], axis=1)
    weights = 1 / rows.groupby("speaker")["speaker"].transform("size").to_numpy()
    references = np.searchsorted(model.classes_, rows["emotion"])
    temperature = best_temperature(decisions, references, (0.01, 20), weights)
    if is_linear:
        linear = model[-1]
        linear.coef_, linear.intercept_ = linear.coef_ / temperature, linear.intercept_ / temperature
        return model, temperature
    scaled = CalibratedClassifierCV(FrozenEstimator(model), ensemble=False).fit(features, rows["emotion"])
    calibrators = scaled.calibrated_classifiers_[0].calibrators
    for calibrator in calibrators:
        # A calibrator returns 1 / (1 + exp(a * decision + b)), which for a large b is exp(-a * decision - b).
        # scikit-learn divides by the sum over the emotions, so that exp(-b) cancels out.
        calibrator.a_, calibrator.b_ = -1 / temperature, 100.0 if len(calibrators) > 1 else 0.0
    return scaled, temperature


def scale_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities after dividing their logits by `temperature`, (num_clips, num_labels)."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    return softmax(logits, axis=1)
