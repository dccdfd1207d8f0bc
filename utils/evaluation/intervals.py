"""Bootstrap confidence intervals: truth, predictions and speakers in, 95 % intervals out."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import confusion_matrix

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
