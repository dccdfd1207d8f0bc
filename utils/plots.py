"""Scores, training logs and waveforms come in, figures go out.

They are `Figure` objects made without pyplot, so that a notebook's own figures are left alone.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.runtime import write_bytes

# Okabe and Ito's colours, which people of any colour vision can tell apart (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#595959"

GENDER_COLORS = {"female": ORANGE, "male": BLUE}

WIDTH = 9.5
"""Inches; what a notebook shows without shrinking."""

DYNAMIC_RANGE = 80
"""dB that a spectrogram shows below its loudest point."""

MAX_FREQUENCY = 8_000
"""Hz; top of the spectrograms, or half the sampling rate where that is less."""

STYLE = matplotlib.rc_context(
    {
        "font.size": 10,
        "axes.titlesize": 11,
        "figure.titlesize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG at 150 dpi. The same figure gives the same bytes: no date, no version."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    write_bytes(Path(path), file.getvalue())


@STYLE
def plot_confusion_matrix(confusion: list[list[int]], emotions: Sequence[str], title: str) -> Figure:
    """Draw each cell as the share of its row in %, with the number of clips below it.

    Args:
        confusion: (num_emotions, num_emotions) clip counts, rows = truth. A row without clips stays blank.
        emotions: names of the rows and columns.
        title: stands above.
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
    """Draw loss and validation UAR over the epochs, and mark the epoch of the best UAR (the first such).

    Args:
        history: log entries as the Trainer's `state.log_history` has them: `epoch` and any of `loss`,
            `eval_loss` (nats) and `eval_uar` (0 to 1). A series may be missing.
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
    """Draw `factor * entry[key]` of the entries that have it, if any, and return epochs and values."""
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
        title: stands above.
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
def plot_waveforms(examples: dict[str, np.ndarray], sampling_rate: int, title: str) -> Figure:
    """Draw a row per emotion: the waveform and its mel spectrogram.

    Waveforms have one amplitude scale, so that loudness can be compared; each spectrogram is relative to
    the loudest point of its own clip, so that quiet clips can be read too.

    Args:
        examples: emotion -> float array (num_samples,), full scale = 1.
        sampling_rate: in Hz.
        title: stands above.
    """
    peak = max(np.abs(waveform).max() for waveform in examples.values()) or 1.0
    figure = Figure(figsize=(WIDTH, 1.15 * len(examples) + 1), layout="constrained")
    axes = figure.subplots(len(examples), 2, sharex=True, squeeze=False)
    for (left, right), (emotion, waveform) in zip(axes, examples.items(), strict=True):
        left.plot(np.arange(len(waveform)) / sampling_rate, waveform, color=BLUE, linewidth=0.5)
        left.set(ylabel="Amplitude", ylim=(-1.05 * peak, 1.05 * peak))
        left.set_title(emotion, loc="left", fontweight="bold", pad=3)
        image = draw_spectrogram(right, mel_decibels(waveform, sampling_rate), sampling_rate)
    axes[0, 0].set_xlim(0, max(map(len, examples.values())) / sampling_rate)
    for bottom in axes[-1]:
        bottom.set(xlabel="Time (s)")
    figure.colorbar(image, ax=axes[:, 1], label="Power (dB, 0 = peak of the clip)", aspect=12 * len(examples))
    figure.suptitle(title)
    return figure


def _hop_length(sampling_rate: int) -> int:
    return sampling_rate // 100  # 10 ms


def mel_decibels(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Return the power in 64 mel bands, float64 (64, num_frames), of 40 ms windows every 10 ms.

    In dB, 0 = the loudest point; silence is `-DYNAMIC_RANGE` throughout.
    """
    import librosa

    power = librosa.feature.melspectrogram(
        y=np.asarray(waveform, dtype=np.float64),
        sr=sampling_rate,
        n_fft=sampling_rate // 25,
        hop_length=_hop_length(sampling_rate),
        n_mels=64,
        fmax=min(MAX_FREQUENCY, sampling_rate / 2),
    )
    return 10 * np.log10(np.maximum(power / (power.max() or 1), 10 ** (-DYNAMIC_RANGE / 10)))


def draw_spectrogram(axes: Axes, decibels: np.ndarray, sampling_rate: int):
    """Draw (num_bands, num_frames) on a mel scale with ticks in Hz; return the image for a colour bar."""
    import librosa

    max_frequency = min(MAX_FREQUENCY, sampling_rate / 2)
    # Frames are centred on multiples of the hop.
    edges = (np.array([0, decibels.shape[1]]) - 0.5) * _hop_length(sampling_rate) / sampling_rate
    image = axes.imshow(
        decibels,
        cmap="magma",
        vmin=-DYNAMIC_RANGE,
        vmax=0,
        origin="lower",
        aspect="auto",
        extent=(*edges, 0, librosa.hz_to_mel(max_frequency)),
    )
    ticks = [hertz for hertz in (0, 1000, 3000, MAX_FREQUENCY) if hertz <= max_frequency]
    axes.set_yticks(librosa.hz_to_mel(ticks), map(str, ticks))
    axes.set(ylabel="Frequency\n(Hz)")
    return image


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
def plot_reliability(curves: dict[str, list[dict[str, float]]], errors: dict[str, float]) -> Figure:
    """Draw how often a model is right that says it is so sure.

    Args:
        curves: name -> `metrics.reliability`.
        errors: name -> expected calibration error, in 0..1.
    """
    figure = Figure(figsize=(WIDTH, 4.2))
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="as sure as it is right")
    for (name, bins), color in zip(curves.items(), (ORANGE, BLUE), strict=False):
        confidence, right = ([100 * row[key] for row in bins] for key in ("confidence", "right"))
        axes.plot(
            confidence, right, color=color, label=f"{name}: calibration error {100 * errors[name]:.1f} points"
        )
        # As large as the number of clips.
        axes.scatter(confidence, right, [20 + 400 * row["share"] for row in bins], color=color, clip_on=False)
    axes.set_xlabel("Probability of the named emotion (%)")
    axes.set_ylabel("Clips named rightly (%)")
    axes.set_title("Are the probabilities to be believed? Test clips")
    axes.set_aspect("equal")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.05, 0.5))
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


@STYLE
def plot_comparison(scores: dict[str, dict], num_emotions: int) -> Figure:
    """Draw the UAR of several runs with their intervals.

    Args:
        scores: run name -> `metrics.score`.
        num_emotions: for the chance line.
    """
    names = sorted(scores, key=lambda name: scores[name]["uar"])
    figure = Figure(figsize=(WIDTH, 1.4 + 0.45 * len(names)))
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


@STYLE
def plot_stress(stress: dict, emotions: Sequence[str], title: str) -> Figure:
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


@STYLE
def plot_conditions(examples: dict[str, np.ndarray], sampling_rate: int, title: str) -> Figure:
    """Draw a panel per condition: a clip's waveform and, below it, its mel spectrogram.

    As in `plot_waveforms` amplitudes are to one scale and each spectrogram is relative to its own peak.

    Args:
        examples: condition -> float array (num_samples,).
        sampling_rate: in Hz.
        title: stands above.
    """
    columns = 4
    lines = -(-len(examples) // columns)
    peak = max(np.abs(waveform).max() for waveform in examples.values()) or 1.0
    longest = max(map(len, examples.values())) / sampling_rate
    figure = Figure(figsize=(WIDTH, 1.55 * lines + 0.6), layout="constrained")
    figure.suptitle(f"{title} (seconds across)")
    panels = figure.subfigures(lines, columns, squeeze=False)
    for panel, (name, waveform) in zip(panels.flat, examples.items(), strict=False):
        top, bottom = panel.subplots(2, 1, height_ratios=(1, 2), sharex=True)
        top.plot(np.arange(len(waveform)) / sampling_rate, waveform, color=BLUE, linewidth=0.4)
        top.set(ylim=(-1.05 * peak, 1.05 * peak), xlim=(0, longest), yticks=[])
        top.set_title(name, fontsize=9, pad=2)
        top.tick_params(labelbottom=False, length=0)
        draw_spectrogram(bottom, mel_decibels(waveform, sampling_rate), sampling_rate)
        bottom.set_ylabel("Hz", fontsize=7)
        bottom.tick_params(labelsize=7, length=2)
    return figure
