"""Figures of results by subgroup, accuracy at coverage and robustness.

The functions take the plain data of `evaluation.subgroups`, `calibration`, `error_analysis` and
`robustness_assessment`, and return Matplotlib figures. UAR is unweighted average recall.
"""

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.report.style import BLUE, GENDER_COLORS, GREEN, GREY, ORANGE, STYLE, WIDTH


@STYLE
def plot_speakers(speakers: dict[str, dict], num_emotions: int, overall_uar: float) -> Figure:
    """Draw the UAR of each test speaker with its interval, the highest at the top.

    Args:
        speakers: name -> `uar`, its `interval` over clips (None: no line), `clips` and `gender`.
        num_emotions: for the chance line.
        overall_uar: UAR on all test clips, in 0..1.
    """
    names = sorted(speakers, key=lambda name: speakers[name]["uar"])
    figure = Figure(figsize=(WIDTH, 1.8 + 0.3 * max(len(names), 4)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        color = GENDER_COLORS.get(speakers[name]["gender"], GREY)
        _plot_uar(axes, row, speakers[name], color)
    chance = 100 / num_emotions
    lines = [
        axes.axvline(
            100 * overall_uar, color=GREEN, label=f"All test clips ({100 * overall_uar:.1f} %)", zorder=1
        ),
        axes.axvline(chance, color=GREY, linestyle="--", label=f"Chance ({chance:.1f} %)", zorder=1),
    ]
    dots = [
        Line2D([], [], color=GENDER_COLORS.get(gender, GREY), marker="o", linewidth=2, label=gender)
        for gender in dict.fromkeys(speaker["gender"] for speaker in speakers.values())
    ]
    axes.set_yticks(range(len(names)), [f"{name} (n={speakers[name]['clips']})" for name in names])
    axes.set(xlim=(0, 100), ylim=(-0.6, len(names) - 0.4), title="UAR per test speaker")
    axes.set(xlabel="UAR (%), line: 95 % interval over the speaker's clips")
    axes.set_ylabel("Test speaker (number of clips)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(handles=[*dots, *lines], loc="outside lower center", ncols=4)
    return figure


def _plot_uar(axes: Axes, row: int, group: dict, color: str) -> None:
    """Draw the UAR of a group as a dot and its interval, if there is one, as a line."""
    if group["interval"]:
        axes.plot([100 * bound for bound in group["interval"]], [row, row], color=color, linewidth=2)
    axes.plot(100 * group["uar"], row, "o", color=color, markersize=8)


@STYLE
def plot_gender_recall(
    recall: dict[str, dict[str, float | None]], failed: Collection[str], title: str
) -> Figure:
    """Draw the recall of each emotion for women and for men, connected by a line.

    Args:
        recall: emotion -> "female" and "male" -> recall in 0..1, None if there is no clip.
        failed: emotions whose test failed; their line is black and labelled with the difference.
        title: title of the figure.
    """
    figure = Figure(figsize=(WIDTH, 1.6 + 0.4 * len(recall)), layout="constrained")
    axes = figure.subplots()
    for row, (emotion, by_gender) in enumerate(recall.items()):
        if None not in by_gender.values():
            ends = [100 * by_gender[gender] for gender in GENDER_COLORS]
            color = "black" if emotion in failed else "lightgrey"
            axes.plot(ends, [row, row], color=color, linewidth=2, zorder=1)
            if emotion in failed:
                text, centre = f"{abs(ends[0] - ends[1]):.0f} points", (sum(ends) / 2, row)
                axes.annotate(text, centre, (0, 4), textcoords="offset points", ha="center", fontsize=8)
        for gender, color in GENDER_COLORS.items():
            if by_gender[gender] is not None:
                offset = 0.06 if gender == "female" else -0.06  # so that equal recalls stay visible
                axes.plot(
                    100 * by_gender[gender], row + offset, "o", color=color, markersize=9, clip_on=False
                )
    axes.set_yticks(range(len(recall)), list(recall))
    axes.set(xlim=(0, 100), ylim=(len(recall) - 0.4, -0.6), title=title)
    axes.set_xlabel("Recall (%), black line: the test of the difference failed")
    axes.set_ylabel("True emotion")
    axes.grid(axis="x", alpha=0.3)
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", markersize=9, label=gender)
        for gender, color in GENDER_COLORS.items()
        if any(by_gender[gender] is not None for by_gender in recall.values())
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@STYLE
def plot_coverage(curves: dict[str, Sequence[dict[str, float]]], chance: float) -> Figure:
    """Draw the accuracy on the most confident predictions as a function of their share.

    Args:
        curves: name -> `calibration.accuracy_at_coverage`.
        chance: accuracy of a random guess, in 0..1.
    """
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for (name, curve), color, style in zip(curves.items(), (ORANGE, BLUE), ("-", "--"), strict=False):
        coverage, accuracy = ([100 * point[key] for point in curve] for key in ("coverage", "accuracy"))
        axes.plot(coverage, accuracy, style, color=color, label=name)
        axes.plot(coverage[-1], accuracy[-1], "o", color=color, clip_on=False)
    axes.axhline(100 * chance, color=GREY, linestyle="--", linewidth=1, label="Chance")
    # All clips are on the left, the few most confident ones on the right.
    axes.set(xlim=(100, 0), ylim=(0, 100), title="Accuracy of the most confident predictions")
    axes.set_xlabel("Coverage: share of the test clips, most confident first (%)")
    axes.set_ylabel("Accuracy on these clips (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@STYLE
def plot_groups(groups: dict[str, dict], title: str) -> Figure:
    """Draw the UAR of groups of clips with their intervals.

    Args:
        groups: name -> `subgroups.describe_group`.
        title: title of the figure.
    """
    figure = Figure(figsize=(WIDTH, 1.5 + 0.4 * max(len(groups), 3)), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(groups.values()):
        _plot_uar(axes, row, group, BLUE)
    axes.set_yticks(range(len(groups)), [f"{name} (n={group['clips']})" for name, group in groups.items()])
    units = " or ".join(dict.fromkeys(group["sampling_unit"] for group in groups.values()))
    axes.set(xlim=(0, 100), ylim=(len(groups) - 0.4, -0.6), title=title)
    axes.set(xlabel=f"UAR (%), line: 95 % interval over {units}", ylabel="Group (number of clips)")
    axes.grid(axis="x", alpha=0.3)
    return figure


@STYLE
def plot_robustness(robustness: dict, emotions: Sequence[str], title: str) -> Figure:
    """Draw the recall of each emotion under each perturbation, with the unchanged clips in the first row.

    Columns beside the recalls show the UAR, its change, the share of unchanged predictions and the verdict.

    Args:
        robustness: as returned by `robustness_assessment.assess_robustness`.
        emotions: label names, the columns.
        title: title of the figure.
    """
    import seaborn

    rows = {"unchanged clips": robustness["clean"]} | robustness["perturbations"]
    recall = [[row["recall"][emotion] for emotion in emotions] for row in rows.values()]
    percent = 100 * np.asarray(recall, dtype=float)  # None, for an emotion without clips, stays blank
    figure = Figure(figsize=(WIDTH, 0.27 * len(rows) + 1.3), layout="constrained")
    axes = seaborn.heatmap(
        percent,
        ax=figure.subplots(),
        vmin=0,
        vmax=100,
        cmap="Blues",
        annot=True,
        fmt=".0f",
        annot_kws={"fontsize": 9},
        linewidths=0.5,
        cbar=False,
        xticklabels=emotions,
        yticklabels=list(rows),
    )
    _add_robustness_columns(axes, list(rows.values()), len(emotions))
    axes.tick_params(length=0, labelsize=9)
    axes.tick_params(axis="x", labeltop=True, labelbottom=False)
    axes.set(title=title, xlim=(0, len(emotions) + 4))
    axes.set_xlabel(
        "Recall per emotion, UAR, its change (points), share of predictions that stay the same; in %"
    )
    return figure


def _add_robustness_columns(axes: Axes, rows: list[dict], left: float) -> None:
    """Write UAR, its change, the share of unchanged predictions and the verdict beside a heat map.

    Args:
        axes: axes of the heat map.
        rows: results on the unchanged clips, then under each perturbation.
        left: x coordinate of the right edge of the heat map.
    """
    columns = (left + 0.6, left + 1.5, left + 2.4, left + 3.4)
    for column, heading in zip(columns, ("UAR", "change", "same", "test"), strict=True):
        axes.text(column, -0.3, heading, ha="center", va="bottom", fontweight="bold")
    groups = [row.get("group") for row in rows]
    for position, (row, group) in enumerate(zip(rows, groups, strict=True)):
        cells = [(f"{100 * row['uar']:.0f}", "black")]
        if group:
            verdict = row["verdict"] if row["threshold"] else "–"
            color = {"failed": "#B34700", "passed": GREEN}.get(verdict, GREY)
            cells.append((f"{100 * row['uar_difference']:+z.0f}", "black"))
            cells.append((f"{100 * row['unchanged']:.0f}", "black"))
            cells.append((verdict, color))
        for column, (text, color) in zip(columns, cells, strict=False):
            axes.text(column, position + 0.5, text, ha="center", va="center", color=color)
        if position and group != groups[position - 1]:
            axes.axhline(position, color="black", linewidth=0.8, clip_on=False)
