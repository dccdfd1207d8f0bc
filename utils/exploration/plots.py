"""Figures of the data: counts of clips, distributions of measures, effect sizes."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from utils.data.labels import EMOTIONS
from utils.report.style import BLUE, EMOTION_COLORS, GENDER_COLORS, GREEN, GREY, ORANGE, STYLE, WIDTH

GROUP_COLORS = (BLUE, ORANGE, "#D55E00", "#CC79A7", GREEN, "#F0E442", GREY, "#56B4E9")
"""Colours of speakers and corpora."""

_GENDER_COLORS = GENDER_COLORS | {"unknown": GREY}


def present_emotions(clips: pd.DataFrame) -> list[str]:
    """Return the emotions that occur, in the order of `EMOTIONS`."""
    return [emotion for emotion in EMOTIONS if (clips["emotion"] == emotion).any()]


@STYLE
def plot_emotions(corpora: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the number of clips per emotion of each corpus as bars, stacked by gender.

    Args:
        corpora: title -> its clips, with `emotion` and `gender`.
    """
    present = present_emotions(pd.concat(corpora.values()))
    figure = Figure(figsize=(WIDTH, 0.6 + 2.2 * len(corpora)), layout="constrained")
    panels = figure.subplots(len(corpora), 1, squeeze=False, sharex=True)[:, 0]
    genders = [
        gender for gender in _GENDER_COLORS if any((c["gender"] == gender).any() for c in corpora.values())
    ]
    for axes, (title, clips) in zip(panels, corpora.items(), strict=True):
        counts = pd.crosstab(clips["emotion"], clips["gender"]).reindex(
            index=present, columns=genders, fill_value=0
        )
        _stack(axes.bar, "bottom", counts, _GENDER_COLORS, 0.7)
        for position, total in enumerate(counts.sum(axis=1)):
            axes.annotate(str(total), (position, total), (0, 2), textcoords="offset points", ha="center")
        axes.set(ylabel="Clips", ylim=(0, 1.15 * counts.sum(axis=1).max()))
        axes.set_title(title, loc="left")
        axes.tick_params(axis="x", length=0)
    handles = [Patch(color=_GENDER_COLORS[gender], label=gender) for gender in genders]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@STYLE
def plot_speakers(clips: pd.DataFrame) -> Figure:
    """Draw the number of clips per speaker as bars, stacked by emotion.

    Args:
        clips: of one corpus, with `speaker` and `emotion`.
    """
    counts = pd.crosstab(clips["speaker"], clips["emotion"])[present_emotions(clips)]
    figure = Figure(figsize=(WIDTH, 1.2 + 0.23 * len(counts)), layout="constrained")
    axes = figure.subplots()
    _stack(axes.barh, "left", counts, EMOTION_COLORS, 0.8)
    axes.invert_yaxis()
    axes.set(xlabel="Clips", ylabel="Speaker")
    axes.margins(y=0.01)
    handles = [Patch(color=EMOTION_COLORS[emotion], label=emotion) for emotion in counts]
    figure.legend(handles=handles, loc="outside right center", title="Emotion")
    return figure


def _stack(bar, start: str, counts: pd.DataFrame, colors: Mapping[str, str], size: float) -> None:
    """Draw a stacked bar per row of `counts`, with a segment per column.

    Args:
        bar: `Axes.bar` or `Axes.barh`.
        start: name of the parameter of `bar` for the start of a segment.
        counts: the lengths of the segments.
        colors: column -> colour.
        size: width of the bars.
    """
    base = np.zeros(len(counts))
    for name, lengths in counts.items():
        bar(
            counts.index, lengths, size, color=colors[name], edgecolor="white", linewidth=0.5, **{start: base}
        )
        base = base + lengths.to_numpy()


@STYLE
def plot_durations(clips: pd.DataFrame) -> Figure:
    """Draw box plots of the length of the clips and of their speech parts, per emotion.

    Args:
        clips: of one corpus, with `emotion`, `duration_seconds` and `speech_seconds`.
    """
    parts = {"duration_seconds": ("whole clip", GREY), "speech_seconds": ("speech part", BLUE)}
    long = clips.melt("emotion", list(parts), "part", "seconds")
    long["part"] = long["part"].map({name: label for name, (label, _) in parts.items()})
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    colors = dict(parts.values())
    _draw_boxes(axes, long, "seconds", "part", colors)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Seconds")
    _legend_below(figure, colors)
    return figure


@STYLE
def plot_measures(clips: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Draw a panel of box plots per measure, with a box per emotion and gender.

    If all speakers have one gender and there are at most four, there is a box per emotion and speaker
    instead.

    Args:
        clips: of one corpus, with `emotion`, `gender`, `speaker` and the measures; NaN is left out.
        labels: measure -> axis label.
    """
    group, colors = _grouping(clips)
    num_rows = (len(labels) + 1) // 2
    figure = Figure(figsize=(WIDTH, 2.5 * num_rows + 0.5), layout="constrained")
    panels = figure.subplots(num_rows, 2, squeeze=False, sharex=True).ravel()
    for axes, (measure, label) in zip(panels, labels.items(), strict=False):
        _draw_boxes(axes, clips, measure, group, colors)
        axes.set_ylabel(textwrap.fill(label, 20))
        axes.tick_params(axis="x", rotation=35)
    for unused in panels[len(labels) :]:
        unused.set_axis_off()
    _legend_below(figure, colors)
    return figure


def _grouping(clips: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """Return the column by which the boxes are split, and the colour of each of its values."""
    speakers = sorted(clips["speaker"].unique())
    if clips["gender"].nunique() == 1 and len(speakers) <= 4:
        return "speaker", dict(zip(speakers, GROUP_COLORS, strict=False))
    present = set(clips["gender"])
    return "gender", {gender: color for gender, color in _GENDER_COLORS.items() if gender in present}


def _draw_boxes(axes: Axes, clips: pd.DataFrame, y: str, group: str, colors: Mapping[str, str]) -> None:
    """Draw box plots per emotion, the groups side by side.

    Boxes extend between the quartiles, whiskers to the last clip within 1.5 times that range. NaN is left
    out.

    Args:
        axes: where to draw.
        clips: with `emotion` and the columns `y` and `group`.
        y: column of the values.
        group: column by which the boxes are split.
        colors: value of `group` -> colour.
    """
    present = present_emotions(clips)
    width = 0.8 / len(colors)
    for number, (name, color) in enumerate(colors.items()):
        rows = clips[(clips[group] == name) & clips[y].notna()]
        shift = (number - (len(colors) - 1) / 2) * width
        axes.boxplot(
            [rows.loc[rows["emotion"] == emotion, y].to_numpy() for emotion in present],
            positions=np.arange(len(present)) + shift,
            widths=0.85 * width,
            patch_artist=True,
            boxprops={"facecolor": color, "linewidth": 0.8},
            medianprops={"color": "black"},
            whiskerprops={"linewidth": 0.8},
            capprops={"linewidth": 0.8},
            flierprops={"marker": ".", "markersize": 3, "markeredgewidth": 0, "markerfacecolor": "black"},
        )
    axes.set_xticks(range(len(present)), present)
    axes.set_xlim(-0.5, len(present) - 0.5)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)


def _legend_below(figure: Figure, colors: Mapping[str, str]) -> None:
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


@STYLE
def plot_effects(tests: Mapping[str, pd.DataFrame], labels: Mapping[str, str]) -> Figure:
    """Draw the variance explained by the emotion, without and with the speaker as factor.

    Args:
        tests: corpus title -> result of `statistics.compare_emotions`.
        labels: measure -> its name.
    """
    figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(tests), squeeze=False, sharey=True)[0]
    bars = (
        ("eta2", -0.19, "all clips (η²)", GREY),
        ("partial_eta2", 0.19, "speaker as factor (partial η²)", BLUE),
    )
    for axes, (title, table) in zip(panels, tests.items(), strict=True):
        rows = np.arange(len(table))
        for column, offset, label, color in bars:
            axes.barh(rows + offset, 100 * table[column], 0.36, color=color, label=label)
        axes.set_yticks(rows, [labels[measure] for measure in table["measure"]])
        axes.set(xlim=(0, 100), xlabel="Variance explained by the emotion (%)", title=title)
        axes.set_axisbelow(True)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
