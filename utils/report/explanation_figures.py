"""Explanations of single clips: one figure per emotion."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.audio import SAMPLING_RATE
from utils.data.decoding import Waveforms
from utils.evaluation.explanations import most_confident_clips

if TYPE_CHECKING:
    from datasets import Dataset


def draw_explanations(
    folder: Path,
    predictions: pd.DataFrame,
    waveforms: "Dataset",
    emotions: Sequence[str],
    explain: Callable[[np.ndarray, int], dict],
) -> None:
    """Save `explained_<emotion>.png` for the correctly classified clip with the highest probability.

    An emotion without a correctly classified clip has no figure.

    Args:
        folder: for the figures.
        predictions: a `prediction_table`; its index are rows of `waveforms`.
        waveforms: Dataset with a `waveform` column, float32 at 16 kHz.
        emotions: label names.
        explain: (waveform, label) -> what `explanations.occlude` or `grad_cam` returns.
    """
    from utils.report.explanation_plots import plot_grad_cam, plot_occlusion  # Matplotlib is slow to import
    from utils.report.style import save_figure

    folder.mkdir(exist_ok=True)
    audio = Waveforms(waveforms)
    for emotion, position in most_confident_clips(predictions, emotions).items():
        clip, waveform = predictions.iloc[position], audio[predictions.index[position]]
        title = f"Evidence for “{emotion}” in {clip['clip']} ({clip['speaker']})"
        explanation = explain(waveform, emotions.index(emotion))
        if "heat" in explanation:
            figure = plot_grad_cam(explanation, title)
        else:
            figure = plot_occlusion(waveform, SAMPLING_RATE, explanation, title)
        save_figure(figure, folder / f"explained_{emotion}.png")
