"""What a model's answers rest on comes in; a figure per emotion goes out."""

import numpy as np
from matplotlib.figure import Figure

from utils.report.audio_plots import draw_spectrogram, mel_decibels
from utils.report.style import BLUE, GREY, ORANGE, STYLE, WIDTH


@STYLE
def plot_grad_cam(found: dict[str, np.ndarray], title: str) -> Figure:
    """Draw the log-mel spectrogram that a network was given, and above it where it found an emotion.

    Args:
        found: as `grad_cam.grad_cam` returns it.
        title: stands above.
    """
    bands, heat, hertz = found["bands"], found["heat"], found["hertz"]
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    extent = (0, len(bands) * found["hop_seconds"], -0.5, bands.shape[1] - 0.5)
    options = {"origin": "lower", "aspect": "auto", "extent": extent}
    image = upper.imshow(bands.T, cmap="magma", vmin=0, vmax=1, **options)
    figure.colorbar(image, ax=upper, label="Log-mel power\n(1 = loudest point)")
    lower.imshow(bands.T, cmap="gray_r", vmin=0, vmax=2, **options)
    alpha = np.clip(heat.T, 0, 1) * 0.8
    image = lower.imshow(heat.T, cmap="plasma", vmin=0, vmax=1, alpha=alpha, **options)
    figure.colorbar(image, ax=lower, label="Speaks for it\n(Grad-CAM, 1 = most)").solids.set_alpha(1)
    ticks = [tick for tick in (100, 500, 1000, 2000, 4000, 7000) if hertz[0] <= tick <= hertz[-1]]
    for axes in (upper, lower):
        axes.set_yticks(np.interp(ticks, hertz, np.arange(len(hertz))), map(str, ticks))
        axes.set(ylabel="Frequency (Hz)")
    lower.set(xlabel="Time (s)")
    figure.suptitle(title)
    return figure


@STYLE
def plot_occlusion(waveform: np.ndarray, sampling_rate: int, found: dict, title: str) -> Figure:
    """Draw a clip's waveform and spectrogram, and what the emotion's probability loses where it is silenced.

    Args:
        waveform: float array (num_samples,).
        sampling_rate: in Hz.
        found: as `explain.occlude` returns it.
        title: stands above.
    """
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(np.arange(len(waveform)) / sampling_rate, waveform, color=BLUE, linewidth=0.5)
    top.set(ylabel="Amplitude")
    image = draw_spectrogram(middle, mel_decibels(waveform, sampling_rate), sampling_rate)
    figure.colorbar(image, ax=middle, label="Power (dB)")
    drops = 100 * np.asarray(found["drops"])
    bottom.plot(found["seconds"], drops, color=ORANGE)
    bottom.fill_between(found["seconds"], 0, drops, color=ORANGE, alpha=0.3)
    bottom.axhline(0, color=GREY, linewidth=0.8)
    bottom.set(xlabel=f"Time (s), middle of the {1000 * found['window_seconds']:.0f} ms that are silenced")
    bottom.set_ylabel(f"Points lost of\n{100 * found['probability']:.0f} %")
    bottom.set_xlim(0, len(waveform) / sampling_rate)
    bottom.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    return figure


@STYLE
def plot_group_losses(losses: dict[str, float], title: str) -> Figure:
    """Draw what the recall of one emotion loses without each group of features.

    Args:
        losses: group -> recall lost when it is shuffled, in -1..1.
        title: stands above.
    """
    groups = sorted(losses, key=losses.get)
    figure = Figure(figsize=(WIDTH, 1.4 + 0.35 * len(groups)), layout="constrained")
    axes = figure.subplots()
    axes.barh(groups, [100 * losses[group] for group in groups], color=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel="Recall lost when the group is shuffled (points)", ylabel="Feature group", title=title)
    axes.grid(axis="x", alpha=0.3)
    return figure
