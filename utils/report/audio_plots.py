"""Figures of waveforms and mel spectrograms."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.report.style import BLUE, STYLE, WIDTH

DYNAMIC_RANGE = 80
"""dB that a spectrogram shows below its loudest point."""

MAX_FREQUENCY = 8_000
"""Hz; top of the spectrograms, or half the sampling rate where that is less."""


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
def plot_perturbations(examples: dict[str, np.ndarray], sampling_rate: int, title: str) -> Figure:
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
