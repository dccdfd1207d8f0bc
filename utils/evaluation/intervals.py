"""95 % bootstrap confidence intervals of accuracy and UAR (unweighted average recall).

The functions take true labels, predicted labels and speaker ids, and return percentile intervals
`[low, high]` in 0..1.
"""

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
    """Return the 95 % percentile bootstrap intervals of accuracy and UAR over speakers.

    Whole speakers are drawn with replacement because the clips of one speaker are not independent (Field and
    Welsh 2007, "Bootstrapping clustered data"). With a handful of speakers the interval is rough, and more
    likely too narrow than too wide.

    Args:
        references: true label per clip, (num_clips,).
        predictions: predicted label per clip, (num_clips,).
        speakers: speaker id per clip, (num_clips,).
        num_labels: number of labels, including those that do not occur.
        num_resamples: number of bootstrap samples.
        seed: seed of the random draws.

    Returns:
        `accuracy` and `uar`, each `[low, high]`; None with fewer than two speakers.
    """
    if len(set(speakers)) < 2:
        return {"accuracy": None, "uar": None}
    resampled = _resample_speakers(references, predictions, speakers, num_labels, num_resamples, seed)
    return {name: _percentile_interval(values) for name, values in resampled.items()}


def clip_intervals(
    references: Sequence[int],
    predictions: Sequence[int],
    num_labels: int,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Return the 95 % percentile bootstrap intervals of accuracy and UAR over the clips of one speaker.

    They express the uncertainty from the choice of clips; they do not extend to other speakers.

    Args:
        references, predictions, num_labels, num_resamples, seed: as in `speaker_intervals`.

    Returns:
        `accuracy` and `uar`, each `[low, high]`; None with fewer than two clips.
    """
    if len(references) < 2:
        return {"accuracy": None, "uar": None}
    confusion = confusion_matrix(references, predictions, labels=range(num_labels))
    # Drawing clips with replacement is equivalent to drawing cells of the confusion matrix.
    draws = np.random.default_rng(seed).multinomial(
        len(references), (confusion / len(references)).ravel(), num_resamples
    )
    draws = draws.reshape(-1, num_labels, num_labels)
    correct, support = draws.diagonal(axis1=1, axis2=2), draws.sum(axis=2)
    with np.errstate(invalid="ignore"):
        recall = correct / support
    accuracy = correct.sum(axis=1) / len(references)
    return {
        "accuracy": _percentile_interval(accuracy),
        "uar": _percentile_interval(np.nanmean(recall, axis=1)),
    }


def uar_difference(
    references: Sequence[int],
    predictions: Sequence[int],
    other_predictions: Sequence[int],
    speakers: Sequence[str],
    num_labels: int,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[float] | None:
    """Return the 95 % interval of the paired difference UAR(predictions) - UAR(other_predictions).

    Both are predictions for the same clips, and each resample draws the same speakers for both.

    Args:
        references, predictions, speakers, num_labels, num_resamples, seed: as in `speaker_intervals`.
        other_predictions: predicted label per clip of the other model, (num_clips,).

    Returns:
        `[low, high]`; None with fewer than two speakers.
    """
    if len(set(speakers)) < 2:
        return None
    first, second = (
        _resample_speakers(references, labels, speakers, num_labels, num_resamples, seed)["uar"]
        for labels in (predictions, other_predictions)
    )
    return _percentile_interval(first - second)


def uar_gap(
    references: Sequence[int],
    predictions: Sequence[int],
    in_first_group: Sequence[bool],
    speakers: Sequence[str],
    num_labels: int,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[float] | None:
    """Return the 95 % interval of UAR(first group) - UAR(second group).

    Speakers are drawn independently within each group.

    Args:
        references, predictions, speakers, num_labels, num_resamples, seed: as in `speaker_intervals`.
        in_first_group: for each clip, whether it belongs to the first group, (num_clips,).

    Returns:
        `[low, high]`; None if a group has fewer than two speakers.
    """
    references, predictions, speakers = map(np.asarray, (references, predictions, speakers))
    in_first_group = np.asarray(in_first_group, bool)
    groups = (in_first_group, ~in_first_group)
    if min(len(set(speakers[rows])) for rows in groups) < 2:
        return None
    first, second = (
        _resample_speakers(
            references[rows], predictions[rows], speakers[rows], num_labels, num_resamples, group_seed
        )["uar"]
        for group_seed, rows in zip((seed, seed + 1), groups, strict=True)
    )
    return _percentile_interval(first - second)


def _resample_speakers(
    references, predictions, speakers, num_labels, num_resamples, seed
) -> dict[str, np.ndarray]:
    """Return accuracy and UAR of bootstrap samples of whole speakers, each float64 (num_resamples,)."""
    names, speaker_ids = np.unique(np.asarray(speakers), return_inverse=True)
    confusion = np.zeros((len(names), num_labels, num_labels), dtype=np.int64)
    np.add.at(confusion, (speaker_ids, np.asarray(references), np.asarray(predictions)), 1)
    draws = np.random.default_rng(seed).integers(len(names), size=(num_resamples, len(names)))
    counts = np.zeros((num_resamples, len(names)), dtype=np.int64)
    np.add.at(counts, (np.arange(num_resamples)[:, None], draws), 1)

    support = counts @ confusion.sum(axis=2)  # (num_resamples, num_labels)
    correct = counts @ confusion.diagonal(axis1=1, axis2=2)
    with np.errstate(invalid="ignore"):
        recall = correct / support  # NaN where a resample has no clip of an emotion
    return {"accuracy": correct.sum(axis=1) / support.sum(axis=1), "uar": np.nanmean(recall, axis=1)}


def _percentile_interval(values: np.ndarray) -> list[float]:
    return np.percentile(values, [2.5, 97.5]).tolist()
