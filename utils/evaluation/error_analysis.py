"""The predictions of a run and what is known of its clips come in; where it errs goes out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.evaluation.subgroups import describe_group

NUM_MISTAKES = 10

MAX_TEXTS = 10
"""A corpus of more sentences or words than this is not broken down by them: a few clips each say nothing."""


def analyse_errors(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Return where a model errs on test clips.

    Args:
        predictions: as `fairness.join_clips` returns it.
        emotions: label names.

    Returns:
        Plain data; shares and probabilities in 0..1.
        `mistakes`: clips that were named wrongly, and `confident`: the up to `NUM_MISTAKES` surest of them,
        each with `clip`, `corpus`, `speaker`, `emotion`, `predicted`, `probability` (of what was named) and
        `probability_of_truth`.
        `most_confused`: see `most_confused_pair`.
        `intensity`, `text`: corpus -> level or text -> `fairness.describe_group`. Only where a corpus has
        several, and on the emotions that occur in each of them (RAVDESS has no strong neutral).
        `not_broken_down`: corpus -> number of its texts, where they are more than `MAX_TEXTS`.
    """
    corpora = dict(list(predictions.groupby("corpus", sort=False)))
    num_texts = {name: rows["text"].nunique() for name, rows in corpora.items()}
    few = {name: rows for name, rows in corpora.items() if num_texts[name] <= MAX_TEXTS}
    wrong = predictions[predictions["emotion"] != predictions["predicted"]]
    return {
        "mistakes": len(wrong),
        "confident": _surest(wrong, emotions),
        "most_confused": most_confused_pair(predictions, emotions),
        "intensity": _break_down(corpora, "intensity", emotions),
        "text": _break_down(few, "text", emotions),
        "not_broken_down": {name: number for name, number in num_texts.items() if number > MAX_TEXTS},
    }


def _surest(wrong: pd.DataFrame, emotions: Sequence[str]) -> list[dict]:
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    probabilities = wrong[[f"p_{emotion}" for emotion in emotions]].to_numpy()
    rows = np.arange(len(wrong))
    about = wrong[["clip", "corpus", "speaker", "emotion", "predicted"]].assign(
        probability=probabilities[rows, wrong["predicted"].map(labels).to_numpy(int)],
        probability_of_truth=probabilities[rows, wrong["emotion"].map(labels).to_numpy(int)],
    )
    return (
        about.sort_values("probability", ascending=False, kind="stable").head(NUM_MISTAKES).to_dict("records")
    )


def most_confused_pair(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict | None:
    """Return the two emotions that are most often taken for each other, None if no clip is named wrongly.

    It is the pair with the largest mean of both shares, so that rare emotions count as much as others.

    Returns:
        `emotions`, the one that loses more first; `shares` and `clips`: of the clips of the first how many
        are named as the second, and the other way round (a share is None if there is no such clip).
    """
    counts = pd.crosstab(predictions["emotion"], predictions["predicted"])
    counts = counts.reindex(index=emotions, columns=emotions, fill_value=0).to_numpy()
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    both = np.triu(shares + shares.T, k=1)
    if not both.any():
        return None
    pair = [int(label) for label in np.unravel_index(both.argmax(), both.shape)]
    if shares[pair[0], pair[1]] < shares[pair[1], pair[0]]:
        pair.reverse()
    ways = [(pair[0], pair[1]), (pair[1], pair[0])]
    return {
        "emotions": [emotions[label] for label in pair],
        "shares": [float(shares[way]) if support[way[0], 0] else None for way in ways],
        "clips": [int(counts[way]) for way in ways],
    }


def _break_down(corpora: dict[str, pd.DataFrame], column: str, emotions: Sequence[str]) -> dict:
    broken_down = {}
    for name, rows in corpora.items():
        levels = sorted(rows[column].unique())
        in_each = rows.groupby("emotion")[column].nunique()
        compared = rows[rows["emotion"].isin(in_each[in_each == len(levels)].index)]
        if len(levels) > 1 and len(compared):
            broken_down[name] = {
                level: describe_group(compared[compared[column] == level], emotions) for level in levels
            }
    return broken_down
