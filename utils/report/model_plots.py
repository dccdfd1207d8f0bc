"""Figures of a model: its layers, the probe's choice, permutation importance."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.report.style import BLUE, GREY, ORANGE, STYLE, WIDTH


@STYLE
def plot_importance(losses: dict[str, float]) -> Figure:
    """Draw permutation importance.

    Args:
        losses: feature group -> UAR lost when it is shuffled, in 0..1.
    """
    groups = sorted(losses, key=losses.get)
    figure = Figure(figsize=(WIDTH, 1.2 + 0.35 * len(groups)))
    axes = figure.subplots()
    axes.barh(groups, [100 * losses[group] for group in groups], color=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("UAR lost when the group is shuffled (points)")
    axes.set_ylabel("Feature group")
    axes.set_title("What each group of features is worth")
    return figure


@STYLE
def plot_probe(choices: dict[str, Sequence[float]], num_emotions: int) -> Figure:
    """Draw how much each layer of an encoder knows.

    Args:
        choices: model -> UAR in 0..1 per hidden state, in the cross-validation that chose one; the last one
            is of the mean of all. The last model is the one that is published.
    """
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.subplots()
    *folds, published = choices.values()
    for number, uar in enumerate(folds):
        axes.plot(
            100 * np.array(uar[:-1]),
            color=GREY,
            linewidth=0.8,
            label="models of the folds" if not number else None,
        )
    axes.plot(100 * np.array(published[:-1]), "o-", color=BLUE, label="saved model")
    axes.axhline(100 * published[-1], color=ORANGE, label="saved model, mean of all layers")
    axes.axhline(
        100 / num_emotions,
        color="black",
        linestyle="--",
        linewidth=1,
        label=f"Chance ({100 / num_emotions:.1f} %)",
    )
    axes.set_xlabel("Hidden layer (0: what the first layer is given)")
    axes.set_ylabel("UAR among training speakers (%)")
    axes.set_title("How well a linear probe hears emotion in each layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


@STYLE
def plot_layers(boxes: Sequence[tuple[str, str, str]], title: str) -> Figure:
    """Draw a network as a column of boxes, its input at the top.

    Args:
        boxes: per box what stands in it, the shape that leaves it, and its number of parameters, in words.
        title: stands above.
    """
    figure = Figure(figsize=(WIDTH, 0.62 * len(boxes) + 1))
    axes = figure.subplots()
    for row, (words, shape, parameters) in enumerate(boxes):
        axes.text(
            0.38,
            -row,
            words,
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "#E3EEF7", "edgecolor": BLUE},
        )
        axes.text(0.9, -row, parameters, ha="right", va="center", color=GREY)
        axes.text(0.94, -row, shape, ha="left", va="center", color=GREY, family="monospace", fontsize=9)
        if row:
            axes.annotate(
                "",
                xy=(0.38, -row + 0.3),
                xytext=(0.38, -row + 0.7),
                arrowprops={"arrowstyle": "->", "color": GREY},
            )
    axes.text(0.9, 0.7, "parameters", ha="right", va="center", fontweight="bold")
    axes.text(0.94, 0.7, "output shape", ha="left", va="center", fontweight="bold")
    axes.set(xlim=(0, 1.14), ylim=(-len(boxes) + 0.4, 1.1), title=title)
    axes.axis("off")
    return figure
