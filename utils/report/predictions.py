"""Tables of predictions: one row per evaluated clip, written, read, scored; and which clips are shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.decoding import Waveforms
from utils.evaluation.metrics import score

if TYPE_CHECKING:
    from datasets import Dataset


NUM_TIMED = 30
"""Clips on which the time per clip is measured, about."""

NUM_CHECKED = 100
"""At most so many tested clips are kept with a run, to check its model before it is published: 24 MB."""


def prediction_table(
    clips: pd.DataFrame, probabilities: np.ndarray, emotions: Sequence[str], fold: str
) -> pd.DataFrame:
    """Return one row per evaluated clip: who, where, truth, prediction and `p_<emotion>`.

    Args:
        clips: `clip`, `corpus`, `speaker`, `label`.
        probabilities: (num_clips, num_emotions), in the order of `clips`.
        emotions: label names.
        fold: name of the model that predicted these clips.
    """
    names = np.asarray(emotions)
    table = clips[["clip", "corpus", "speaker"]].reset_index(drop=True)
    table["fold"] = fold
    table["emotion"] = names[clips["label"].to_numpy()]
    table["predicted"] = names[np.asarray(probabilities).argmax(axis=1)]
    for label, emotion in enumerate(emotions):
        table[f"p_{emotion}"] = np.asarray(probabilities)[:, label]
    return table


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a `prediction_table` that was written as CSV, every digit as it was: before pandas 3 other parsers
    read most numbers with another last digit."""
    return pd.read_csv(path, float_precision="round_trip")


def score_predictions(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Return `metrics.score` of a `prediction_table`; whoever has predictions.csv can do the same."""
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    return score(
        predictions["emotion"].map(labels).to_numpy(),
        predictions[[f"p_{emotion}" for emotion in emotions]].to_numpy(),
        emotions,
        predictions["speaker"].tolist(),
        predictions["corpus"].tolist(),
    )


def example_clips(clips: pd.DataFrame) -> dict[int, int]:
    """Return label -> row of one clip per emotion, by one speaker and of one text where that is possible."""
    positions = clips.reset_index(drop=True)
    by_variety = positions.groupby(["speaker", "text"])["label"].nunique().sort_values(ascending=False)
    speaker, text = by_variety.index[0]
    positions["other"] = (positions["speaker"] != speaker).astype(int) * 2 + (positions["text"] != text)
    return {int(label): int(rows["other"].idxmin()) for label, rows in positions.groupby("label", sort=True)}


def pick_waveforms(
    clips: pd.DataFrame, waveforms: "Dataset", emotions: Sequence[str]
) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, np.ndarray]]:
    """Return the waveforms of up to `NUM_CHECKED` clips, from the first to the last, to check a model with;
    some of them, to time it on; and emotion -> waveform of one clip, to be drawn.

    Args:
        clips: tested clips, with `emotion`, `speaker`, `text`; their index points into `waveforms`.
        waveforms: Dataset with a `waveform` column.
        emotions: label names.
    """
    clips = clips.assign(label=clips["emotion"].map(list(emotions).index))
    audio = Waveforms(waveforms)
    rows = clips.index[np.unique(np.linspace(0, len(clips) - 1, NUM_CHECKED).astype(int))]
    checked = [audio[row] for row in rows]
    timed = checked[:: -(-len(checked) // NUM_TIMED)]
    examples = {emotions[label]: audio[clips.index[row]] for label, row in example_clips(clips).items()}
    return checked, timed, examples
