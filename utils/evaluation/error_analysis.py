"""Error analysis of test predictions: most confident errors, confusions, results by intensity and text.

The functions take predictions joined with the metadata of their clips (`subgroups.join_clips`) and return
plain data for metrics.json.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.evaluation.subgroups import describe_group

NUM_LISTED_ERRORS = 10

MAX_TEXTS = 10
"""A corpus with more texts is not broken down by text: a few clips per text carry no information."""


def analyse_errors(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Return an analysis of the errors on test clips.

    Args:
        predictions: as returned by `subgroups.join_clips`.
        emotions: label names.

    Returns:
        Plain data; shares and probabilities in 0..1.
        `errors`: number of clips with a wrong prediction.
        `most_confident_errors`: the up to `NUM_LISTED_ERRORS` errors with the highest probability, each with
        `clip`, `corpus`, `speaker`, `emotion`, `predicted`, `probability` (of the predicted emotion) and
        `true_emotion_probability`.
        `most_confused`: see `most_confused_pair`.
        `intensity`, `text`: corpus -> level or text -> `subgroups.describe_group`. Only corpora with several
        levels or texts are included, and only the emotions that occur at each of them (RAVDESS has no
        strong neutral).
        `too_many_texts`: corpus -> number of texts, for corpora with more than `MAX_TEXTS`.
    """
    corpora = dict(list(predictions.groupby("corpus", sort=False)))
    num_texts = {name: rows["text"].nunique() for name, rows in corpora.items()}
    few_texts = {name: rows for name, rows in corpora.items() if num_texts[name] <= MAX_TEXTS}
    wrong = predictions[predictions["emotion"] != predictions["predicted"]]
    return {
        "errors": len(wrong),
        "most_confident_errors": _most_confident_errors(wrong, emotions),
        "most_confused": most_confused_pair(predictions, emotions),
        "intensity": _results_by_level(corpora, "intensity", emotions),
        "text": _results_by_level(few_texts, "text", emotions),
        "too_many_texts": {name: number for name, number in num_texts.items() if number > MAX_TEXTS},
    }


def _most_confident_errors(wrong: pd.DataFrame, emotions: Sequence[str]) -> list[dict]:
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    probabilities = wrong[[f"p_{emotion}" for emotion in emotions]].to_numpy()
    rows = np.arange(len(wrong))
    errors = wrong[["clip", "corpus", "speaker", "emotion", "predicted"]].assign(
        probability=probabilities[rows, wrong["predicted"].map(labels).to_numpy(int)],
        true_emotion_probability=probabilities[rows, wrong["emotion"].map(labels).to_numpy(int)],
    )
    by_confidence = errors.sort_values("probability", ascending=False, kind="stable")
    return by_confidence.head(NUM_LISTED_ERRORS).to_dict("records")


def most_confused_pair(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict | None:
    """Return the two emotions that are most often confused with each other.

    It is the pair with the largest mean of the two confusion rates; rates rather than counts give rare
    emotions the same weight as frequent ones.

    Args:
        predictions: with the columns `emotion` and `predicted`.
        emotions: label names.

    Returns:
        None if there is no error, else `emotions`, the one with the higher confusion rate first; `shares`
        and `clips`: of the first emotion's clips those predicted as the second, and vice versa (a share is
        None if there is no such clip).
    """
    counts = pd.crosstab(predictions["emotion"], predictions["predicted"])
    counts = counts.reindex(index=emotions, columns=emotions, fill_value=0).to_numpy()
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    sums = np.triu(shares + shares.T, k=1)
    if not sums.any():
        return None
    pair = [int(label) for label in np.unravel_index(sums.argmax(), sums.shape)]
    if shares[pair[0], pair[1]] < shares[pair[1], pair[0]]:
        pair.reverse()
    cells = [(pair[0], pair[1]), (pair[1], pair[0])]
    return {
        "emotions": [emotions[label] for label in pair],
        "shares": [float(shares[cell]) if support[cell[0], 0] else None for cell in cells],
        "clips": [int(counts[cell]) for cell in cells],
    }


def _results_by_level(corpora: dict[str, pd.DataFrame], column: str, emotions: Sequence[str]) -> dict:
    """Return corpus -> level of `column` -> `describe_group`, on the emotions that occur at all levels."""
    results = {}
    for name, rows in corpora.items():
        levels = sorted(rows[column].unique())
        num_levels = rows.groupby("emotion")[column].nunique()
        compared = rows[rows["emotion"].isin(num_levels[num_levels == len(levels)].index)]
        if len(levels) > 1 and len(compared):
            results[name] = {
                level: describe_group(compared[compared[column] == level], emotions) for level in levels
            }
    return results
