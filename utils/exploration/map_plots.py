"""Figures of the t-SNE maps of clips, coloured by emotion and by speaker or corpus."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from utils.exploration.plots import GROUP_COLORS
from utils.report.style import EMOTION_COLORS, STYLE, WIDTH

MAX_LEGEND = 8
"""With more groups, labels on the map replace the legend: so many colours cannot be distinguished."""


@STYLE
def plot_map(positions: np.ndarray, clips: pd.DataFrame, by: str) -> Figure:
    """Draw the same map of clips twice: coloured by emotion, and by speaker or corpus.

    Args:
        positions: (num_clips, 2), as returned by `statistics.map_clips`.
        clips: `emotion`, `gender` and the column `by`. More groups than `MAX_LEGEND` are labelled on the map,
            where most of their clips are, male speakers in cold colours and female speakers in warm ones.
        by: "speaker" or "corpus".
    """
    names = list(clips.sort_values(["gender", by], ascending=[False, True])[by].unique())
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_map(left, positions, clips["emotion"].to_numpy(), EMOTION_COLORS)
    if len(names) <= MAX_LEGEND:
        colors = dict(zip(names, GROUP_COLORS, strict=False))
    else:
        wheel = matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, len(names)))
        colors = dict(zip(names, wheel, strict=True))
    _draw_map(right, positions, clips[by].to_numpy(), colors)
    left.set_title("Coloured by emotion")
    right.set_title(f"The same map, coloured by {by}")
    return figure


def _draw_map(axes: Axes, positions: np.ndarray, groups: np.ndarray, colors: Mapping) -> None:
    """Draw the clips as dots, in random order so that no group covers another; label the groups."""
    present = [name for name in colors if (groups == name).any()]
    order = np.random.default_rng(0).permutation(len(groups))
    axes.scatter(*positions[order].T, s=9, c=[colors[name] for name in groups[order]], linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if len(present) <= MAX_LEGEND:
        handles = [Patch(color=colors[name], label=name) for name in present]
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4)
        return
    for name, position in _label_positions(positions, groups, present).items():
        box = {"facecolor": "white", "edgecolor": colors[name], "pad": 1.2, "linewidth": 1}
        axes.text(*position, name.rpartition("-")[2], fontsize=7, ha="center", va="center", bbox=box)


def _label_positions(positions: np.ndarray, groups: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Return group -> position of its label, (2,).

    The label stands on the clip in the densest region of the group that is free of other labels."""
    min_distance = 0.04 * np.ptp(positions, axis=0)  # about the size of a label
    labels = {}
    for name in names:
        clips = positions[groups == name]
        distances = np.sort(np.linalg.norm(clips[:, None] - clips, axis=2), axis=1)
        clips = clips[np.argsort(distances[:, :10].mean(axis=1))]
        taken = np.array(list(labels.values())).reshape(-1, 1, 2)
        is_free = (np.abs(clips - taken) > min_distance).any(axis=2).all(axis=0)
        labels[name] = clips[is_free.argmax()]  # the densest one if none is free
    return labels
