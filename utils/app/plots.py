"""Figure of a clip and its predictions over time: waveform, spectrogram, probabilities."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.report.audio_plots import DYNAMIC_RANGE, draw_spectrogram, mel_decibels
from utils.report.style import BLUE, EMOTION_COLORS, STYLE


@STYLE
def plot_predictions(
    waveform: np.ndarray,
    sampling_rate: int,
    window_times: np.ndarray,
    window_probabilities: np.ndarray,
    emotions: Sequence[str],
    size: tuple[float, float] = (9.5, 6.5),
) -> Figure:
    """Draw waveform, mel spectrogram and stacked probabilities of the emotions over one time axis.

    Args:
        waveform: float (num_samples,), full scale = 1.
        sampling_rate: in Hz.
        window_times: centres of the windows in seconds, (num_windows,).
        window_probabilities: (num_windows, num_emotions), as returned by `predictor.predict_over_time`; NaN
            leaves a gap.
        emotions: label names.
        size: width and height in inches.
    """
    seconds = len(waveform) / sampling_rate
    figure = Figure(figsize=size, layout="constrained")
    wave, image, areas = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 4))
    _draw_waveform(wave, waveform, sampling_rate)
    shades = draw_spectrogram(image, mel_decibels(waveform, sampling_rate), sampling_rate)
    bar = figure.colorbar(
        shades, ax=image, pad=0.01, aspect=12, ticks=[-DYNAMIC_RANGE, -DYNAMIC_RANGE // 2, 0]
    )
    bar.set_label("Power (dB)")
    # The first and the last window are extended to the ends of the clip.
    x = np.concatenate([[0], window_times, [seconds]])
    y = 100 * np.concatenate([window_probabilities[:1], window_probabilities, window_probabilities[-1:]]).T
    colors = [EMOTION_COLORS[emotion] for emotion in emotions]
    areas.stackplot(x, y, labels=emotions, colors=colors, edgecolor="white", linewidth=0.5)
    areas.set(ylabel="Probability (%)", ylim=(0, 100), xlabel="Time (s)")
    figure.align_ylabels([wave, image, areas])
    columns = max(2, int(size[0] / 1.7))
    figure.legend(loc="outside lower center", ncols=min(columns, len(emotions)))
    return figure


def _draw_waveform(axes: Axes, waveform: np.ndarray, sampling_rate: int) -> None:
    """Draw minimum and maximum of up to about 2000 blocks of samples: one minute has a million samples."""
    step = max(1, len(waveform) // 2000)
    blocks = waveform[: len(waveform) // step * step].reshape(-1, step)
    times = np.arange(len(blocks)) * step / sampling_rate
    axes.fill_between(times, blocks.min(axis=1), blocks.max(axis=1), color=BLUE, linewidth=0.5)
    peak = np.abs(waveform).max() or 1.0
    axes.set(ylabel="Amplitude", xlim=(0, len(waveform) / sampling_rate), ylim=(-1.05 * peak, 1.05 * peak))
    axes.locator_params(axis="y", nbins=3)
