"""Figures of a model: layers of a network, linear probe per encoder layer, permutation importance."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.report.style import BLUE, GREY, STYLE, WIDTH


@STYLE
def plot_importance(losses: dict[str, float]) -> Figure:
    """Draw the permutation importance of each feature group.

    Args:
        losses: feature group -> loss of UAR (unweighted average recall) when the group is shuffled, in -1..1.
    """
    groups = sorted(losses, key=losses.get)
    figure = Figure(figsize=(WIDTH, 1.2 + 0.35 * len(groups)), layout="constrained")
    axes = figure.subplots()
    axes.barh(groups, [100 * losses[group] for group in groups], color=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("Loss of UAR when the group is shuffled (points)")
    axes.set_ylabel("Feature group")
    axes.set_title("Permutation importance of the feature groups")
    return figure


@STYLE
def plot_probe(choices: dict[str, dict[str, float]], num_emotions: int) -> Figure:
    """Draw the UAR (unweighted average recall) of linear probes on an encoder cut after each of its layers.

    Args:
        choices: model -> number of layers -> UAR in 0..1 in the cross-validation that selected this number.
            The last model is the saved one.
        num_emotions: for the chance line.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    curves = [
        ([int(each) for each in uars], [100 * uar for uar in uars.values()]) for uars in choices.values()
    ]
    for number, curve in enumerate(curves[:-1]):
        label = "models of the folds" if number == 0 else None
        axes.plot(*curve, color=GREY, linewidth=0.8, label=label)
    axes.plot(*curves[-1], "o-", color=BLUE, label="saved model")
    chance = 100 / num_emotions
    axes.axhline(chance, color="black", linestyle="--", linewidth=1, label=f"Chance ({chance:.1f} %)")
    axes.set_xlabel("Number of layers after which the encoder is cut")
    axes.set_ylabel("UAR on training speakers,\ncross-validated (%)")
    axes.set_title("UAR of a linear probe on the encoder's output")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


@STYLE
def plot_layers(layers: Sequence[tuple[str, str, str]], title: str) -> Figure:
    """Draw the layers of a network as a column of boxes, its input at the top.

    Args:
        layers: description, output shape and number of parameters of each layer, as strings.
        title: title of the figure.
    """
    figure = Figure(figsize=(WIDTH, 0.62 * len(layers) + 1), layout="constrained")
    axes = figure.subplots()
    box = {"boxstyle": "round,pad=0.4", "facecolor": "#E3EEF7", "edgecolor": BLUE}
    for row, (description, shape, parameters) in enumerate(layers):
        axes.text(0.38, -row, description, ha="center", va="center", fontsize=9, bbox=box)
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
    axes.set(xlim=(0, 1.14), ylim=(-len(layers) + 0.4, 1.1), title=title)
    axes.axis("off")
    return figure
