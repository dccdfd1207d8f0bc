"""A table of clips and their measures comes in; figures that show the data go out, as in `plots`."""

import textwrap
from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from utils.data.labels import EMOTIONS
from utils.report.style import BLUE, GENDER_COLORS, GREY, ORANGE, STYLE, WIDTH

# The eight colours of Okabe and Ito, with grey for black; see `plots`.
_COLORS = ("#808080", "#56B4E9", "#E69F00", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#F0E442")
EMOTION_COLORS = dict(zip(EMOTIONS, _COLORS, strict=True))
_GENDER_COLORS = GENDER_COLORS | {"unknown": GREY}
_GROUP_COLORS = (BLUE, ORANGE, *_COLORS[4:], GREY, _COLORS[1])

MAX_LEGEND = 8
"""More groups than that are named on the map itself: nobody tells so many colours apart."""


def emotions_of(clips: pd.DataFrame) -> list[str]:
    """Return the emotions that occur, in the order of `EMOTIONS`."""
    return [emotion for emotion in EMOTIONS if (clips["emotion"] == emotion).any()]


@STYLE
def plot_emotions(corpora: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the clips per emotion of each corpus as bars, women below, men above them.

    Args:
        corpora: title -> its clips, with `emotion` and `gender`.
    """
    present = emotions_of(pd.concat(corpora.values()))
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
    """Draw the clips of each speaker as a bar, stacked by emotion.

    Args:
        clips: of one corpus, with `speaker` and `emotion`.
    """
    counts = pd.crosstab(clips["speaker"], clips["emotion"])[emotions_of(clips)]
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
    """Draw a bar per row of `counts`, a piece per column; `start` is where the call wants its foot."""
    foot = np.zeros(len(counts))
    for name, pieces in counts.items():
        bar(counts.index, pieces, size, color=colors[name], edgecolor="white", linewidth=0.5, **{start: foot})
        foot = foot + pieces.to_numpy()


@STYLE
def plot_durations(clips: pd.DataFrame) -> Figure:
    """Draw per emotion how long the clips are, and how long the part between the silences is.

    Args:
        clips: of one corpus, with `emotion`, `duration_seconds` and `speech_seconds`.
    """
    parts = {"duration_seconds": ("whole clip", GREY), "speech_seconds": ("speech part", BLUE)}
    long = clips.melt("emotion", list(parts), "part", "seconds")
    long["part"] = long["part"].map({name: words for name, (words, _) in parts.items()})
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
    """Draw a panel of boxes per measure: a box per emotion, and of that one per gender.

    Where all speakers are of one gender and few, there is a box per speaker instead.

    Args:
        clips: of one corpus, with `emotion`, `gender`, `speaker` and the measures; NaN is left out.
        labels: measure -> what stands at its axis.
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
    """Return the column that boxes are split by, and the colour of each of its values."""
    speakers = sorted(clips["speaker"].unique())
    if clips["gender"].nunique() == 1 and len(speakers) <= 4:
        return "speaker", dict(zip(speakers, _GROUP_COLORS, strict=False))
    present = set(clips["gender"])
    return "gender", {gender: color for gender, color in _GENDER_COLORS.items() if gender in present}


def _draw_boxes(axes: Axes, clips: pd.DataFrame, y: str, group: str, colors: Mapping[str, str]) -> None:
    """Draw boxes from quartile to quartile, whiskers to the last clip within 1.5 times that; the boxes of one
    emotion side by side. NaN is left out; no clip, no box."""
    present = emotions_of(clips)
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
def plot_map(positions: np.ndarray, clips: pd.DataFrame, by: str) -> Figure:
    """Draw the same map of clips twice: coloured by emotion, and by speaker or corpus.

    Args:
        positions: (num_clips, 2), as `data_stats.map_clips` returns it.
        clips: `emotion`, `gender` and the column `by`; more groups than `MAX_LEGEND` are named where most of
            their clips are, men in cold colours and women in warm ones.
        by: "speaker" or "corpus".
    """
    names = list(clips.sort_values(["gender", by], ascending=[False, True])[by].unique())
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_map(left, positions, clips["emotion"].to_numpy(), EMOTION_COLORS)
    if len(names) <= MAX_LEGEND:
        colors = dict(zip(names, _GROUP_COLORS, strict=False))
    else:
        wheel = matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, len(names)))
        colors = dict(zip(names, wheel, strict=True))
    _draw_map(right, positions, clips[by].to_numpy(), colors)
    left.set_title("Coloured by emotion")
    right.set_title(f"The same map, coloured by {by}")
    return figure


def _draw_map(axes: Axes, positions: np.ndarray, groups: np.ndarray, colors: Mapping) -> None:
    """Draw the clips as dots, in random order so that no group covers another; name the groups."""
    present = [name for name in colors if (groups == name).any()]
    order = np.random.default_rng(0).permutation(len(groups))
    axes.scatter(*positions[order].T, s=9, c=[colors[name] for name in groups[order]], linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if len(present) <= MAX_LEGEND:
        handles = [Patch(color=colors[name], label=name) for name in present]
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4)
        return
    for name, place in _label_places(positions, groups, present).items():
        box = {"facecolor": "white", "edgecolor": colors[name], "pad": 1.2, "linewidth": 1}
        axes.text(*place, name.rpartition("-")[2], fontsize=7, ha="center", va="center", bbox=box)


def _label_places(positions: np.ndarray, groups: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Return for each group one of its clips, (2,): amid its densest crowd that is clear of other labels."""
    clear = 0.04 * np.ptp(positions, axis=0)  # about the size of a label
    places = {}
    for name in names:
        own = positions[groups == name]
        distances = np.sort(np.linalg.norm(own[:, None] - own, axis=2), axis=1)
        own = own[np.argsort(distances[:, :10].mean(axis=1))]
        taken = np.array(list(places.values())).reshape(-1, 1, 2)
        is_free = (np.abs(own - taken) > clear).any(axis=2).all(axis=0)
        places[name] = own[is_free.argmax()]  # the first; the densest if none is free
    return places


@STYLE
def plot_effects(tests: Mapping[str, pd.DataFrame], labels: Mapping[str, str]) -> Figure:
    """Draw how much of each measure's variance the emotion explains, clips as they are and speakers held.

    Args:
        tests: corpus title -> `data_stats.compare_emotions`.
        labels: measure -> its name.
    """
    figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(tests), squeeze=False, sharey=True)[0]
    bars = (
        ("eta2", -0.19, "all clips as they are (η²)", GREY),
        ("partial_eta2", 0.19, "each speaker's own mean taken out (partial η²)", BLUE),
    )
    for axes, (title, table) in zip(panels, tests.items(), strict=True):
        rows = np.arange(len(table))
        for column, offset, words, color in bars:
            axes.barh(rows + offset, 100 * table[column], 0.36, color=color, label=words)
        axes.set_yticks(rows, [labels[measure] for measure in table["measure"]])
        axes.set(xlim=(0, 100), xlabel="Variance explained by the emotion (%)", title=title)
        axes.set_axisbelow(True)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
