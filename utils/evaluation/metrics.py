"""Classification scores from true labels and predicted probabilities.

The list of labels is always given explicitly: an emotion that does not occur in the true labels has no
recall and is left out of the means. The headline score is UAR, unweighted average recall, the mean of the
per-emotion recalls (Schuller et al. 2009, "The INTERSPEECH 2009 Emotion Challenge").
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from utils.evaluation.intervals import speaker_intervals

SCORES = ("accuracy", "uar", "macro_precision", "macro_f1")


def label_scores(references: Sequence[int], predictions: Sequence[int], num_labels: int) -> dict:
    """Return the scores of single-label classification.

    Args:
        references: true label per clip, (num_clips,).
        predictions: predicted label per clip, (num_clips,).
        num_labels: number of labels, including those that do not occur.

    Returns:
        `accuracy`; `uar`, `macro_precision` and `macro_f1` (means over the labels that occur in
        `references`); `per_label`, a list of `precision`, `recall`, `f1` (None if the label does not occur)
        and `support`; `confusion_matrix`, a list of rows, one per true label.
    """
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


def mean_uar(references: Sequence[int], predictions: Sequence[int], corpora: Sequence[str]) -> float:
    """Return the mean of the corpora's UAR. Models are selected by it, so that no large corpus decides alone.

    Args:
        references, predictions, corpora: true label, predicted label and corpus per clip, (num_clips,).
    """
    references, predictions, corpora = map(np.asarray, (references, predictions, corpora))
    rows = [corpora == name for name in np.unique(corpora)]
    return float(np.mean([balanced_accuracy_score(references[each], predictions[each]) for each in rows]))


def score(
    references: Sequence[int],
    probabilities: np.ndarray,
    emotions: Sequence[str],
    speakers: Sequence[str],
    corpora: Sequence[str],
) -> dict:
    """Return the scores of a model on a set of clips; this is the `test` block of metrics.json.

    Args:
        references: true label per clip, (num_clips,).
        probabilities: float array (num_clips, num_emotions), rows sum to 1.
        emotions: label names.
        speakers, corpora: speaker id and corpus per clip, for the intervals.

    Returns:
        `SCORES`, `loss` (mean cross-entropy in nats), `per_emotion`, `confusion_matrix`, `intervals`
        (see `speaker_intervals`), `clips`, `speakers`.
    """
    references = np.asarray(references)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    predictions = probabilities.argmax(axis=1)
    scores = label_scores(references, predictions, len(emotions))
    likelihood = probabilities[np.arange(len(references)), references]
    # log(0) is avoided with the smallest normal number, so that a certain error has a finite loss.
    scores["loss"] = float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())
    scores["per_emotion"] = dict(zip(emotions, scores.pop("per_label"), strict=True))
    scores["intervals"] = speaker_intervals(references, predictions, speakers, corpora, len(emotions))
    return scores | {"clips": len(references), "speakers": len(set(speakers))}
