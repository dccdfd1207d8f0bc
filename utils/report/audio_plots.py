"""Figures of waveforms and mel spectrograms.

The functions take float waveforms (num_samples,) and return Matplotlib figures or images.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from utils.report.style import BLUE, STYLE, WIDTH

DYNAMIC_RANGE = 80
"""Range of a spectrogram in dB below its maximum."""

MAX_FREQUENCY = 8_000
"""Upper limit of the spectrograms in Hz, or half the sampling rate if that is lower."""


@STYLE
def plot_waveforms(examples: dict[str, np.ndarray], sampling_rate: int, title: str) -> Figure:
    """Draw one row per emotion with a waveform and its mel spectrogram.

    All waveforms have the same amplitude scale, so that levels can be compared. Each spectrogram is relative
    to its own maximum, so that quiet clips are visible.

    Args:
        examples: emotion -> float array (num_samples,), full scale = 1.
        sampling_rate: in Hz.
        title: title of the figure.
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
    figure.colorbar(
        image, ax=axes[:, 1], label="Power (dB, 0 = maximum of the clip)", aspect=12 * len(examples)
    )
    figure.suptitle(title)
    return figure


def _hop_length(sampling_rate: int) -> int:
    return sampling_rate // 100  # 10 ms


def mel_decibels(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Return the power in 64 mel bands in windows of 40 ms with a hop of 10 ms.

    Args:
        waveform: float array (num_samples,).
        sampling_rate: in Hz.

    Returns:
        float64 (64, num_frames) in dB relative to the maximum; silence is `-DYNAMIC_RANGE` throughout.
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


def draw_spectrogram(axes: Axes, decibels: np.ndarray, sampling_rate: int) -> AxesImage:
    """Draw a mel spectrogram with frequency ticks in Hz.

    Args:
        axes: axes to draw on.
        decibels: (num_bands, num_frames), as returned by `mel_decibels`.
        sampling_rate: in Hz.

    Returns:
        The image, for a colour bar.
    """
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
    """Draw one panel per perturbation with a waveform and, below it, its mel spectrogram.

    Amplitudes and spectrograms are scaled as in `plot_waveforms`.

    Args:
        examples: perturbation -> float array (num_samples,).
        sampling_rate: in Hz.
        title: title of the figure.
    """
    num_columns = 4
    num_rows = -(-len(examples) // num_columns)
    peak = max(np.abs(waveform).max() for waveform in examples.values()) or 1.0
    longest = max(map(len, examples.values())) / sampling_rate
    figure = Figure(figsize=(WIDTH, 1.55 * num_rows + 0.6), layout="constrained")
    figure.suptitle(f"{title} (x axes: time in s)")
    panels = figure.subfigures(num_rows, num_columns, squeeze=False)
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
