"""Figures of scores and training logs: confusion matrix, learning curves, scores, reliability, comparison.

The functions return `Figure` objects made without pyplot, which would add them to a notebook's own figures.
UAR is unweighted average recall, the mean of the per-emotion recalls.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.report.style import BLUE, GREEN, GREY, ORANGE, STYLE, WIDTH


@STYLE
def plot_confusion_matrix(confusion: list[list[int]], emotions: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix; each cell shows the share of its row in % and the number of clips.

    Args:
        confusion: (num_emotions, num_emotions) numbers of clips, one row per true emotion. A row without
            clips stays blank.
        emotions: names of the rows and columns.
        title: title of the figure.
    """
    import seaborn

    counts = np.asarray(confusion, dtype=np.int64)
    num_clips = counts.sum(axis=1, keepdims=True)
    share = 100 * counts / np.maximum(num_clips, 1)
    side = 0.8 * max(len(emotions), 4)  # inches
    figure = Figure(figsize=(side + 2.2, side + 1.2), layout="constrained")
    axes = seaborn.heatmap(
        share,
        ax=figure.subplots(),
        vmin=0,
        vmax=100,
        cmap="Blues",
        square=True,
        linewidths=1,
        cbar_kws={"label": "Share of the true emotion's clips (%)", "shrink": 0.8},
        xticklabels=emotions,
        yticklabels=emotions,
    )
    for row, column in np.argwhere(np.broadcast_to(num_clips > 0, counts.shape)):
        percent, count = share[row, column], counts[row, column]
        style = {"ha": "center", "textcoords": "offset points", "color": "white" if percent > 65 else "black"}
        centre = (column + 0.5, row + 0.5)
        axes.annotate(f"{percent:.0f} %", centre, (0, -1), va="bottom", fontsize=11, **style)
        axes.annotate(str(count), centre, (0, -4), va="top", fontsize=8, **style)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="Predicted emotion", ylabel="True emotion", title=title)
    return figure


@STYLE
def plot_learning_curves(history: list[dict]) -> Figure:
    """Draw loss and validation UAR over the epochs, and mark the first epoch with the best UAR.

    Args:
        history: log entries as in the Trainer's `state.log_history`: `epoch` and any of `loss`, `eval_loss`
            (nats) and `eval_uar` (0 to 1). A series may be missing.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    loss_axes, uar_axes = figure.subplots(1, 2)
    _plot_series(loss_axes, history, "loss", "o-", color=ORANGE, label="training")
    _plot_series(loss_axes, history, "eval_loss", "s-", color=BLUE, label="validation")
    loss_axes.set(ylabel="Cross-entropy loss (nats)")
    loss_axes.set_ylim(bottom=0)
    epochs, uar = _plot_series(uar_axes, history, "eval_uar", "s-", 100, color=BLUE, label="validation")
    uar_axes.set(ylabel="Validation UAR (%)", ylim=(0, 100))
    if uar:
        best = int(np.argmax(uar))
        label = f"best UAR: {uar[best]:.1f} %, epoch {epochs[best]:g}"
        for axes in (loss_axes, uar_axes):
            axes.axvline(epochs[best], color=GREY, linestyle="--", linewidth=1, label=label, zorder=1)
    last = max([1, *(entry.get("epoch", 0) for entry in history)])
    for axes in (loss_axes, uar_axes):
        axes.set(xlabel="Epoch", xlim=(-0.03 * last, 1.03 * last))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
        axes.grid(axis="y", alpha=0.3)
        if axes.lines:
            axes.legend()
        else:
            axes.text(0.5, 0.5, "not recorded", color=GREY, ha="center", transform=axes.transAxes)
    return figure


def _plot_series(
    axes: Axes, history: list[dict], key: str, style: str, factor: float = 1, **options
) -> tuple[list[float], list[float]]:
    """Draw `factor * entry[key]` of the entries that have the key, and return their epochs and values."""
    entries = [entry for entry in history if entry.get(key) is not None and math.isfinite(entry[key])]
    epochs = [entry["epoch"] for entry in entries]
    values = [factor * entry[key] for entry in entries]
    if entries:
        axes.plot(epochs, values, style, markersize=4, **options)
    return epochs, values


@STYLE
def plot_per_emotion(per_emotion: dict[str, dict], title: str) -> Figure:
    """Draw precision, recall and F1 of each emotion as bars, and a line at chance.

    Args:
        per_emotion: emotion -> `precision`, `recall`, `f1` (0 to 1, or None: no bar) and `support` (clips).
        title: title of the figure.
    """
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    scores = (("precision", "Precision", ORANGE), ("recall", "Recall", BLUE), ("f1", "F1", GREEN))
    for offset, (key, label, color) in zip((-0.26, 0, 0.26), scores, strict=True):
        bars = [
            (position + offset, 100 * values[key])
            for position, values in enumerate(per_emotion.values())
            if values[key] is not None
        ]
        axes.bar([x for x, _ in bars], [height for _, height in bars], 0.24, color=color, label=label)
    chance = 100 / len(per_emotion)
    axes.axhline(chance, color="black", linestyle="--", linewidth=1, label=f"Chance ({chance:.1f} %)")
    axes.set_xticks(
        range(len(per_emotion)),
        [f"{emotion}\n(n={values['support']})" for emotion, values in per_emotion.items()],
    )
    axes.set(xlim=(-0.5, len(per_emotion) - 0.5), ylim=(0, 100), title=title)
    axes.set(xlabel="True emotion (number of clips)", ylabel="Score (%)")
    axes.tick_params(axis="x", length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@STYLE
def plot_reliability(curves: dict[str, list[dict[str, float]]], ece: dict[str, float]) -> Figure:
    """Draw a reliability diagram: accuracy as a function of confidence; larger dots have more clips.

    Args:
        curves: name -> `calibration.reliability_bins`.
        ece: name -> expected calibration error, in 0..1.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    for (name, bins), color in zip(curves.items(), (ORANGE, BLUE), strict=False):
        confidence, correct = ([100 * row[key] for row in bins] for key in ("confidence", "correct"))
        label = f"{name}: calibration error {100 * ece[name]:.1f} points"
        axes.plot(confidence, correct, color=color, label=label)
        sizes = [20 + 400 * row["share"] for row in bins]
        axes.scatter(confidence, correct, sizes, color=color, clip_on=False)
    axes.set_xlabel("Confidence: probability of the predicted emotion (%)")
    axes.set_ylabel("Accuracy (%)")
    axes.set_title("Reliability diagram, test clips")
    axes.set_aspect("equal")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.05, 0.5))
    return figure


@STYLE
def plot_comparison(scores: dict[str, dict], num_emotions: int) -> Figure:
    """Draw the UAR of several runs with their 95 % intervals.

    Args:
        scores: run name -> `metrics.score`.
        num_emotions: for the chance line.
    """
    names = sorted(scores, key=lambda name: scores[name]["uar"])
    figure = Figure(figsize=(WIDTH, 1.4 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        uar, interval = scores[name]["uar"], scores[name]["intervals"]["uar"]
        axes.barh(row, 100 * uar, color=BLUE, height=0.6)
        if interval:
            axes.plot([100 * bound for bound in interval], [row, row], color="black", linewidth=1.5)
        axes.text(1, row, f"{100 * uar:.1f} %", color="white", va="center")
    axes.axvline(100 / num_emotions, color=GREY, linestyle="--", label=f"Chance ({100 / num_emotions:.1f} %)")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 100)
    axes.set_xlabel("UAR (%), line: 95 % interval over speakers")
    axes.set_ylabel("Run")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1))
    return figure
