"""Figures of explanations: Grad-CAM, occlusion, permutation importance per emotion.

The functions take the results of `cnn.grad_cam` and `evaluation.explanations`, and return Matplotlib figures.
"""

import numpy as np
from matplotlib.figure import Figure

from utils.report.audio_plots import draw_spectrogram, mel_decibels
from utils.report.style import BLUE, GREY, ORANGE, STYLE, WIDTH


@STYLE
def plot_grad_cam(result: dict[str, np.ndarray], title: str) -> Figure:
    """Draw the log-mel spectrogram that is a network's input, and below it the Grad-CAM map of an emotion.

    Args:
        result: as returned by `grad_cam.grad_cam`.
        title: title of the figure.
    """
    bands, heat, hertz = result["bands"], result["heat"], result["hertz"]
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    extent = (0, len(bands) * result["hop_seconds"], -0.5, bands.shape[1] - 0.5)
    options = {"origin": "lower", "aspect": "auto", "extent": extent}
    image = upper.imshow(bands.T, cmap="magma", vmin=0, vmax=1, **options)
    figure.colorbar(image, ax=upper, label="Log-mel power\n(1 = maximum)")
    lower.imshow(bands.T, cmap="gray_r", vmin=0, vmax=2, **options)
    alpha = np.clip(heat.T, 0, 1) * 0.8
    image = lower.imshow(heat.T, cmap="plasma", vmin=0, vmax=1, alpha=alpha, **options)
    figure.colorbar(image, ax=lower, label="Grad-CAM\n(1 = maximum)").solids.set_alpha(1)
    ticks = [tick for tick in (100, 500, 1000, 2000, 4000, 7000) if hertz[0] <= tick <= hertz[-1]]
    for axes in (upper, lower):
        axes.set_yticks(np.interp(ticks, hertz, np.arange(len(hertz))), map(str, ticks))
        axes.set(ylabel="Frequency (Hz)")
    lower.set(xlabel="Time (s)")
    figure.suptitle(title)
    return figure


@STYLE
def plot_occlusion(waveform: np.ndarray, sampling_rate: int, result: dict, title: str) -> Figure:
    """Draw a clip's waveform, its spectrogram, and the drop of the emotion's probability per silenced window.

    Args:
        waveform: float array (num_samples,).
        sampling_rate: in Hz.
        result: as returned by `explanations.occlude`.
        title: title of the figure.
    """
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(np.arange(len(waveform)) / sampling_rate, waveform, color=BLUE, linewidth=0.5)
    top.set(ylabel="Amplitude")
    image = draw_spectrogram(middle, mel_decibels(waveform, sampling_rate), sampling_rate)
    figure.colorbar(image, ax=middle, label="Power (dB)")
    drops = 100 * np.asarray(result["probability_drops"])
    bottom.plot(result["center_seconds"], drops, color=ORANGE)
    bottom.fill_between(result["center_seconds"], 0, drops, color=ORANGE, alpha=0.3)
    bottom.axhline(0, color=GREY, linewidth=0.8)
    bottom.set(xlabel=f"Time (s), centre of the silenced window of {1000 * result['window_seconds']:.0f} ms")
    bottom.set_ylabel(f"Drop of the\nprobability of\n{100 * result['probability']:.0f} % (points)")
    bottom.set_xlim(0, len(waveform) / sampling_rate)
    bottom.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    return figure


@STYLE
def plot_group_importance(losses: dict[str, float], title: str) -> Figure:
    """Draw the permutation importance of each feature group for the recall of one emotion.

    Args:
        losses: group -> loss of recall when the group is shuffled, in -1..1.
        title: title of the figure.
    """
    groups = sorted(losses, key=losses.get)
    figure = Figure(figsize=(WIDTH, 1.4 + 0.35 * len(groups)), layout="constrained")
    axes = figure.subplots()
    axes.barh(groups, [100 * losses[group] for group in groups], color=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel="Loss of recall when the group is shuffled (points)", ylabel="Feature group", title=title)
    axes.grid(axis="x", alpha=0.3)
    return figure
