"""Truth and predictions come in; scores and their intervals go out.

The label list is explicit everywhere: an emotion that does not occur in the truth has no recall and
does not count in a mean. UAR is the headline (unweighted average recall; Schuller et al. 2009, "The
INTERSPEECH 2009 Emotion Challenge").
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

SCORES = ("accuracy", "uar", "macro_precision", "macro_f1")


def label_scores(references: Sequence[int], predictions: Sequence[int], num_labels: int) -> dict:
    """Return what `emotion_metric.EmotionMetric` computes: accuracy, uar, macro_precision and macro_f1 (means
    over the labels that occur in `references`), per_label (precision, recall, f1, support; None where
    undefined) and confusion_matrix (rows = truth)."""
    labels = list(range(num_labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        references, predictions, labels=labels, zero_division=0
    )
    occurs = support > 0
    return {
        "accuracy": float(accuracy_score(references, predictions)),
        "uar": float(recall[occurs].mean()),
        "macro_precision": float(precision[occurs].mean()),
        "macro_f1": float(f1[occurs].mean()),
        "per_label": [
            {
                "precision": float(precision[label]) if occurs[label] else None,
                "recall": float(recall[label]) if occurs[label] else None,
                "f1": float(f1[label]) if occurs[label] else None,
                "support": int(support[label]),
            }
            for label in labels
        ],
        "confusion_matrix": confusion_matrix(references, predictions, labels=labels).tolist(),
    }


def score(
    references: Sequence[int], probabilities: np.ndarray, emotions: Sequence[str], speakers: Sequence[str]
) -> dict:
    """Return the `test` block of metrics.json.

    Args:
        references: true label per clip, (num_clips,).
        probabilities: float array (num_clips, num_emotions), rows sum to 1.
        emotions: label names.
        speakers: speaker id per clip, for the intervals.

    Returns:
        `SCORES`, `loss` (mean cross-entropy in nats), `per_emotion`, `confusion_matrix`, `intervals`
        (95 %, over speakers), `clips`, `speakers`.
    """
    references = np.asarray(references)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    predictions = probabilities.argmax(axis=1)
    scores = label_scores(references, predictions, len(emotions))
    likelihood = probabilities[np.arange(len(references)), references]
    scores["loss"] = float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())
    scores["per_emotion"] = dict(zip(emotions, scores.pop("per_label"), strict=True))
    scores["intervals"] = speaker_intervals(references, predictions, speakers, len(emotions))
    return scores | {"clips": len(references), "speakers": len(set(speakers))}


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


NUM_RESAMPLES = 9_999


def speaker_intervals(
    references: Sequence[int],
    predictions: Sequence[int],
    speakers: Sequence[str],
    num_labels: int,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Return 95 % percentile-bootstrap intervals `[low, high]` of accuracy and UAR over speakers.

    Whole speakers are drawn with replacement, for the clips of one voice are not independent (Field and
    Welsh 2007, "Bootstrapping clustered data"). With fewer than two speakers there is nothing to
    resample: None. With a handful the interval is rough, and rather too narrow than too wide.
    """
    if len(set(speakers)) < 2:
        return {"accuracy": None, "uar": None}
    resampled = _resample(references, predictions, speakers, num_labels, num_resamples, seed)
    return {name: _interval(values) for name, values in resampled.items()}


def clip_intervals(
    references: Sequence[int],
    predictions: Sequence[int],
    num_labels: int,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Return 95 % percentile-bootstrap intervals `[low, high]` of accuracy and UAR over one voice's clips.

    They say how much rests on which clips there were, and nothing of other voices; None with one clip.
    """
    if len(references) < 2:
        return {"accuracy": None, "uar": None}
    confusion = confusion_matrix(references, predictions, labels=range(num_labels))
    # Drawing clips with replacement is drawing cells of the confusion matrix.
    draws = np.random.default_rng(seed).multinomial(
        len(references), (confusion / len(references)).ravel(), num_resamples
    )
    draws = draws.reshape(-1, num_labels, num_labels)
    hits, support = draws.diagonal(axis1=1, axis2=2), draws.sum(axis=2)
    with np.errstate(invalid="ignore"):
        recall = hits / support
    accuracy = hits.sum(axis=1) / len(references)
    return {"accuracy": _interval(accuracy), "uar": _interval(np.nanmean(recall, axis=1))}


def uar_difference(
    references: Sequence[int],
    predictions: Sequence[int],
    other_predictions: Sequence[int],
    speakers: Sequence[str],
    num_labels: int,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[float] | None:
    """Return the 95 % interval over speakers of UAR(predictions) - UAR(other_predictions), on the same
    clips and in each resample on the same speakers; None with fewer than two speakers."""
    if len(set(speakers)) < 2:
        return None
    first, second = (
        _resample(references, each, speakers, num_labels, num_resamples, seed)["uar"]
        for each in (predictions, other_predictions)
    )
    return _interval(first - second)


def uar_gap(
    references: Sequence[int],
    predictions: Sequence[int],
    in_first: Sequence[bool],
    speakers: Sequence[str],
    num_labels: int,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[float] | None:
    """Return the 95 % interval of UAR(first group) - UAR(the others); speakers are drawn within each group.

    None where a group has fewer than two speakers.
    """
    references, predictions, speakers = map(np.asarray, (references, predictions, speakers))
    in_first = np.asarray(in_first, bool)
    if min(len(set(speakers[rows])) for rows in (in_first, ~in_first)) < 2:
        return None
    first, second = (
        _resample(references[rows], predictions[rows], speakers[rows], num_labels, num_resamples, each)["uar"]
        for each, rows in ((seed, in_first), (seed + 1, ~in_first))
    )
    return _interval(first - second)


def _resample(references, predictions, speakers, num_labels, num_resamples, seed) -> dict[str, np.ndarray]:
    """Return accuracy and UAR, each (num_resamples,), of bootstrap samples of whole speakers."""
    names, speaker_ids = np.unique(np.asarray(speakers), return_inverse=True)
    confusion = np.zeros((len(names), num_labels, num_labels), dtype=np.int64)
    np.add.at(confusion, (speaker_ids, np.asarray(references), np.asarray(predictions)), 1)
    draws = np.random.default_rng(seed).integers(len(names), size=(num_resamples, len(names)))
    counts = np.zeros((num_resamples, len(names)), dtype=np.int64)
    np.add.at(counts, (np.arange(num_resamples)[:, None], draws), 1)

    support = counts @ confusion.sum(axis=2)  # (num_resamples, num_labels)
    hits = counts @ confusion.diagonal(axis1=1, axis2=2)
    with np.errstate(invalid="ignore"):
        recall = hits / support  # NaN where a resample has no clip of an emotion
    return {"accuracy": hits.sum(axis=1) / support.sum(axis=1), "uar": np.nanmean(recall, axis=1)}


def _interval(values: np.ndarray) -> list[float]:
    return np.percentile(values, [2.5, 97.5]).tolist()


def measure_latency(
    predict: Callable[[np.ndarray], object],
    waveforms: Sequence[np.ndarray],
    sampling_rate: int,
    num_warm_up: int = 3,
) -> dict[str, float]:
    """Time `predict` on one clip after the other.

    Args:
        predict: takes a waveform (num_samples,) and returns only when the answer is on the CPU.
        waveforms: the clips to time; the first `num_warm_up` run once more, untimed, before.

    Returns:
        `p50_ms` and `p95_ms` per clip, `real_time_factor` (time spent / time spoken), `clips`.
    """
    for waveform in waveforms[:num_warm_up]:
        predict(waveform)
    seconds = []
    for waveform in waveforms:
        start = time.perf_counter()
        predict(waveform)
        seconds.append(time.perf_counter() - start)
    spoken_seconds = sum(map(len, waveforms)) / sampling_rate
    return {
        "p50_ms": float(np.percentile(seconds, 50) * 1000),
        "p95_ms": float(np.percentile(seconds, 95) * 1000),
        "real_time_factor": float(sum(seconds) / spoken_seconds),
        "clips": len(seconds),
    }
