"""A waveform and what a model says along it come in, one figure of both over the same seconds goes out."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from utils.report.audio_plots import DYNAMIC_RANGE, draw_spectrogram, mel_decibels
from utils.report.style import BLUE, GREEN, ORANGE, STYLE

EMOTION_COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
"""Okabe and Ito's, but grey for their black, which would outweigh the rest; of more emotions they repeat."""


def emotion_colors(num_emotions: int) -> list[str]:
    """Return a colour per emotion."""
    return [EMOTION_COLORS[label % len(EMOTION_COLORS)] for label in range(num_emotions)]


@STYLE
def plot_along_time(
    waveform: np.ndarray,
    sampling_rate: int,
    middles: np.ndarray,
    along: np.ndarray,
    emotions: Sequence[str],
    size: tuple[float, float] = (9.5, 6.5),
) -> Figure:
    """Draw waveform, mel spectrogram and the probabilities of the emotions, one above the other.

    Args:
        waveform: float (num_samples,), full scale = 1.
        sampling_rate: in Hz.
        middles: (num_windows,), in s.
        along: (num_windows, num_emotions), as `listen.hear` gives them; NaN leaves a gap.
        emotions: label names.
        size: width and height in inches.
    """
    seconds = len(waveform) / sampling_rate
    figure = Figure(figsize=size, layout="constrained")
    wave, image, areas = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 4))
    # Each pixel's least and greatest sample: a minute has a million.
    step = max(1, len(waveform) // 2000)
    blocks = waveform[: len(waveform) // step * step].reshape(-1, step)
    times = np.arange(len(blocks)) * step / sampling_rate
    wave.fill_between(times, blocks.min(axis=1), blocks.max(axis=1), color=BLUE, linewidth=0.5)
    peak = np.abs(waveform).max() or 1.0
    wave.set(ylabel="Amplitude", xlim=(0, seconds), ylim=(-1.05 * peak, 1.05 * peak))
    wave.locator_params(axis="y", nbins=3)
    shades = draw_spectrogram(image, mel_decibels(waveform, sampling_rate), sampling_rate)
    bar = figure.colorbar(
        shades, ax=image, pad=0.01, aspect=12, ticks=[-DYNAMIC_RANGE, -DYNAMIC_RANGE // 2, 0]
    )
    bar.set_label("Power (dB)")
    # The outer windows stand for what lies before and behind their middles.
    x = np.concatenate([[0], middles, [seconds]])
    y = 100 * np.concatenate([along[:1], along, along[-1:]]).T
    areas.stackplot(
        x, y, labels=emotions, colors=emotion_colors(len(emotions)), edgecolor="white", linewidth=0.5
    )
    areas.set(ylabel="Probability (%)", ylim=(0, 100), xlabel="Time (s)")
    figure.align_ylabels([wave, image, areas])
    columns = max(2, int(size[0] / 1.7))
    figure.legend(loc="outside lower center", ncols=min(columns, len(emotions)))
    return figure
