"""What a finished model gets wrong, and for whom, comes in; figures of it go out.

The styles, and how a figure is saved, are those of `plots`.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.report.style import BLUE, GENDER_COLORS, GREEN, GREY, ORANGE, STYLE, WIDTH


@STYLE
def plot_speakers(speakers: dict[str, dict], num_emotions: int, mean_uar: float) -> Figure:
    """Draw the UAR of each test speaker with its interval, the best at the top.

    Args:
        speakers: name -> `uar`, its `interval` over clips (None: no line), `clips` and `gender`.
        num_emotions: for the line at chance.
        mean_uar: of all test clips, in 0..1.
    """
    names = sorted(speakers, key=lambda name: speakers[name]["uar"])
    figure = Figure(figsize=(WIDTH, 1.8 + 0.3 * max(len(names), 4)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        about = speakers[name]
        color = GENDER_COLORS.get(about["gender"], GREY)
        if about["interval"]:
            axes.plot([100 * bound for bound in about["interval"]], [row, row], color=color, linewidth=2)
        axes.plot(100 * about["uar"], row, "o", color=color, markersize=8)
    chance = 100 / num_emotions
    lines = [
        axes.axvline(100 * mean_uar, color=GREEN, label=f"all test clips ({100 * mean_uar:.1f} %)", zorder=1),
        axes.axvline(chance, color=GREY, linestyle="--", label=f"Chance ({chance:.1f} %)", zorder=1),
    ]
    present = dict.fromkeys(about["gender"] for about in speakers.values())
    dots = [
        Line2D([], [], color=GENDER_COLORS.get(gender, GREY), marker="o", linewidth=2, label=gender)
        for gender in present
    ]
    axes.set_yticks(range(len(names)), [f"{name} (n={speakers[name]['clips']})" for name in names])
    axes.set(xlim=(0, 100), ylim=(-0.6, len(names) - 0.4), title="Who is heard worst?")
    axes.set(xlabel="UAR (%), line: 95 % interval over the speaker's clips")
    axes.set_ylabel("Test speaker (number of clips)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(handles=[*dots, *lines], loc="outside lower center", ncols=4)
    return figure


@STYLE
def plot_gender_recall(recall: dict[str, dict[str, float | None]], limit: float, title: str) -> Figure:
    """Draw the recall of each emotion for women and for men, joined by a line; it is black and has the gap
    beside it where that is more than the mark.

    Args:
        recall: emotion -> "female" and "male" -> recall in 0..1, None where there is no clip.
        limit: the mark, in 0..1.
        title: stands above.
    """
    figure = Figure(figsize=(WIDTH, 1.6 + 0.4 * len(recall)), layout="constrained")
    axes = figure.subplots()
    for row, each in enumerate(recall.values()):
        if None not in each.values():
            ends = [100 * each[gender] for gender in GENDER_COLORS]
            missed = abs(ends[0] - ends[1]) > 100 * limit + 1e-7
            axes.plot(ends, [row, row], color="black" if missed else "lightgrey", linewidth=2, zorder=1)
            if missed:
                words, centre = f"{abs(ends[0] - ends[1]):.0f} points", (sum(ends) / 2, row)
                axes.annotate(words, centre, (0, 4), textcoords="offset points", ha="center", fontsize=8)
        for gender, color in GENDER_COLORS.items():
            if each[gender] is not None:
                offset = 0.06 if gender == "female" else -0.06  # else one would hide the other
                axes.plot(100 * each[gender], row + offset, "o", color=color, markersize=9, clip_on=False)
    axes.set_yticks(range(len(recall)), list(recall))
    axes.set(xlim=(0, 100), ylim=(len(recall) - 0.4, -0.6), title=title)
    axes.set(xlabel=f"Recall (%), black line: more than {100 * limit:g} points apart", ylabel="True emotion")
    axes.grid(axis="x", alpha=0.3)
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", markersize=9, label=gender)
        for gender, color in GENDER_COLORS.items()
        if any(each[gender] is not None for each in recall.values())
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@STYLE
def plot_coverage(curves: dict[str, Sequence[dict[str, float]]], chance: float) -> Figure:
    """Draw how often a model is right when the clips that it is least sure of are declined.

    Args:
        curves: name -> `metrics.accuracy_at_coverage`.
        chance: accuracy of a guess, in 0..1.
    """
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for (name, curve), color, style in zip(curves.items(), (ORANGE, BLUE), ("-", "--"), strict=False):
        coverage, accuracy = ([100 * point[key] for point in curve] for key in ("coverage", "accuracy"))
        axes.plot(coverage, accuracy, style, color=color, label=name)
        axes.plot(coverage[-1], accuracy[-1], "o", color=color, clip_on=False)
    axes.axhline(100 * chance, color=GREY, linestyle="--", linewidth=1, label="Chance")
    # From all clips on the left to the surest few on the right.
    axes.set(xlim=(100, 0), ylim=(0, 100), title="What is gained by declining the clips it is least sure of?")
    axes.set(
        xlabel="Share of the test clips that is answered (%): the surest", ylabel="Of these named rightly (%)"
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@STYLE
def plot_breakdown(groups: dict[str, dict], title: str) -> Figure:
    """Draw the UAR of groups of clips with their intervals.

    Args:
        groups: name -> `fairness.describe_group`.
        title: stands above.
    """
    figure = Figure(figsize=(WIDTH, 1.5 + 0.4 * max(len(groups), 3)), layout="constrained")
    axes = figure.subplots()
    for row, about in enumerate(groups.values()):
        if about["interval"]:
            axes.plot([100 * bound for bound in about["interval"]], [row, row], color=BLUE, linewidth=2)
        axes.plot(100 * about["uar"], row, "o", color=BLUE, markersize=8)
    axes.set_yticks(range(len(groups)), [f"{name} (n={about['clips']})" for name, about in groups.items()])
    over = " or ".join(dict.fromkeys(about["over"] for about in groups.values()))
    axes.set(xlim=(0, 100), ylim=(len(groups) - 0.4, -0.6), title=title)
    axes.set(xlabel=f"UAR (%), line: 95 % interval over {over}", ylabel="Group (number of clips)")
    axes.grid(axis="x", alpha=0.3)
    return figure


@STYLE
def plot_robustness(stress: dict, emotions: Sequence[str], title: str) -> Figure:
    """Draw the recall of each emotion under each condition, the unchanged clips on top, and beside it the
    UAR, the share of predictions that stay, and how the condition was judged.

    Args:
        stress: as `stress.judge` returns it.
        emotions: the columns.
        title: stands above.
    """
    import seaborn

    rows = {"unchanged clips": stress["clean"]} | stress["conditions"]
    recall = [[row["recall"][emotion] for emotion in emotions] for row in rows.values()]
    percent = 100 * np.asarray(recall, dtype=float)  # None, of an emotion that does not occur, stays blank
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
    right = len(emotions)
    for column, heading in ((0.6, "UAR"), (1.5, "change"), (2.4, "kept"), (3.4, "mark")):
        axes.text(right + column, -0.3, heading, ha="center", va="bottom", fontweight="bold")
    groups = [row.get("group") for row in rows.values()]
    for position, (row, group) in enumerate(zip(rows.values(), groups, strict=True)):
        cells = [(0.6, f"{100 * row['uar']:.0f}", "black")]
        if group:
            verdict = row["verdict"] if row["mark"] else "–"
            color = {"missed": "#B34700", "passed": GREEN}.get(verdict, GREY)
            cells.append((1.5, f"{100 * row['uar_difference']:+.0f}", "black"))
            cells.append((2.4, f"{100 * row['unchanged']:.0f}", "black"))
            cells.append((3.4, verdict, color))
        for column, words, color in cells:
            axes.text(right + column, position + 0.5, words, ha="center", va="center", color=color)
        if position and group != groups[position - 1]:
            axes.axhline(position, color="black", linewidth=0.8, clip_on=False)
    axes.tick_params(length=0, labelsize=9)
    axes.tick_params(axis="x", labeltop=True, labelbottom=False)
    axes.set(title=title, xlim=(0, right + 4))
    axes.set_xlabel("Recall of each emotion, UAR, its change (points), share of predictions kept; all in %")
    return figure
