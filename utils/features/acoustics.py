"""Short-time spectra, pitch and formants of a waveform. Nothing is fitted to data."""

import functools

import numpy as np
import scipy.fft

from utils.data.audio import SAMPLING_RATE
from utils.data.speech import TINY, WINDOW

HOP = 160  # samples: 10 ms
NUM_FFT = 1024  # at least the window + the longest lag, so that the spectrum also gives the autocorrelation
MIN_PITCH, MAX_PITCH = 75.0, 600.0  # Hz
MAX_FORMANT = 5500.0  # Hz
FREQUENCIES = np.fft.rfftfreq(NUM_FFT, 1 / SAMPLING_RATE).astype(np.float32)
HANN = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)


def decibel(power: np.ndarray) -> np.ndarray:
    """Return 10 * log10(max(power, TINY)); computed with the natural logarithm, which is faster in NumPy."""
    return np.log(np.maximum(power, TINY)) * (10 / np.log(10))


def spectra(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the short-time power spectra of a signal.

    Args:
        samples: float32 (num_samples,) at 16 kHz.

    Returns:
        frames: (num_frames, WINDOW), without window function.
        power: (num_frames, NUM_FFT / 2 + 1), with a Hann window.
        rms: root mean square of each frame, (num_frames,).
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    spectrum = scipy.fft.rfft(frames * HANN, NUM_FFT, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2) / (HANN**2).sum()
    return frames, power, np.sqrt((frames**2).mean(axis=1))


def track_pitch(power: np.ndarray, rms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Track the pitch after Boersma (1993), "Accurate short-term analysis of the fundamental frequency".

    Args:
        power, rms: as returned by `spectra`.

    Returns:
        hertz: fundamental frequency (F0), (num_frames,); interpolated between voiced frames, 100 everywhere
            if no frame is voiced.
        periodicity: autocorrelation at one period, (num_frames,), limited to 0.001..0.999.
        voiced: bool (num_frames,).
    """
    window_correlation = scipy.fft.irfft(np.abs(scipy.fft.rfft(HANN, NUM_FFT)) ** 2)[: NUM_FFT - WINDOW]
    without_offset = np.where(FREQUENCIES < 40, 0, power)
    correlation = scipy.fft.irfft(without_offset, axis=1)[:, : NUM_FFT - WINDOW]
    correlation /= np.maximum(correlation[:, :1], TINY) * (window_correlation / window_correlation[0])
    low, high = int(SAMPLING_RATE / MAX_PITCH), int(SAMPLING_RATE / MIN_PITCH) + 1
    left, middle, right = (correlation[:, low + k : high + k] for k in (-1, 0, 1))
    is_peak = (middle > left) & (middle >= right) & (middle > 0)
    octave_bonus = -0.01 * np.log2(MIN_PITCH * np.arange(low, high) / SAMPLING_RATE)
    score = np.where(is_peak, middle + octave_bonus, -9.0)
    best = np.argpartition(-score, 6, axis=1)[:, :6]
    score, left, middle, right = (np.take_along_axis(a, best, axis=1) for a in (score, left, middle, right))
    # Refine each peak: the vertex of the parabola through three points.
    shift = np.clip(0.5 * (left - right) / np.minimum(left - 2 * middle + right, -1e-6), -0.5, 0.5)
    rise = -0.25 * (left - right) * shift
    candidates = SAMPLING_RATE / (low + best + shift)
    unvoiced = 0.45 + np.maximum(0, 2 - rms / max(rms.max(), TINY) * (1 + 0.45) / 0.03)
    path = _best_path(np.column_stack([unvoiced, score + rise]), np.log2(candidates))

    voiced = path > 0
    rows = np.arange(len(path))
    chosen = np.maximum(path - 1, 0)
    periodicity = np.where(voiced, (middle + rise)[rows, chosen], middle.max(axis=1))
    if not voiced.any():
        return np.full(len(path), 100.0), np.clip(periodicity, 0.001, 0.999), voiced
    hertz = np.interp(rows, rows[voiced], candidates[rows, chosen][voiced])
    return hertz, np.clip(periodicity, 0.001, 0.999), voiced


def _best_path(score: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """Choose one candidate per frame with the Viterbi algorithm.

    Args:
        score: strength of each candidate, (num_frames, 1 + num_candidates); candidate 0 is "unvoiced".
        octaves: log2 of the frequencies of the voiced candidates, (num_frames, num_candidates).

    Returns:
        index of the chosen candidate, int (num_frames,).
    """
    cost = np.full((len(score), score.shape[1], score.shape[1]), 0.14)  # of voicing onsets and offsets
    cost[:, 0, 0] = 0
    cost[1:, 1:, 1:] = 0.35 * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    previous = np.zeros(score.shape, int)
    total = score[0]
    for t in range(1, len(score)):
        options = total[:, None] - cost[t]
        previous[t] = options.argmax(axis=0)
        total = options.max(axis=0) + score[t]
    path = np.full(len(score), total.argmax())
    for t in range(len(score) - 1, 0, -1):
        path[t - 1] = previous[t, path[t]]
    return path


@functools.cache
def _inverse_fourier_matrix(num_bins: int, order: int) -> np.ndarray:
    """Return (num_bins, order + 1): power spectrum @ matrix = autocorrelation at lags 0 to `order`."""
    both_sides = np.full(num_bins, 2.0)
    both_sides[[0, -1]] = 1
    angle = np.pi * np.outer(np.arange(num_bins), np.arange(order + 1)) / (num_bins - 1)
    return both_sides[:, None] * np.cos(angle) / (2 * num_bins - 2)


def track_formants(power: np.ndarray, order: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the first three formants by linear prediction.

    The predictor is fitted to the pre-emphasised spectrum below `MAX_FORMANT` (Makhoul 1975, "selective
    linear prediction"), with the Levinson-Durbin recursion over all frames at once.

    Args:
        power: as returned by `spectra`.
        order: of the predictor.

    Returns:
        frequencies: in Hz, (3, num_frames); 500, 1500 and 2500 where no formant was found.
        bandwidths: in Hz, (3, num_frames); 700 where no formant was found.
    """
    num_bins = int(MAX_FORMANT / SAMPLING_RATE * NUM_FFT) + 1
    emphasis = np.abs(1 - 0.97 * np.exp(-2j * np.pi * FREQUENCIES[:num_bins] / SAMPLING_RATE)) ** 2
    correlation = power[:, :num_bins] @ (emphasis[:, None] * _inverse_fourier_matrix(num_bins, order))
    correlation /= np.maximum(correlation[:, :1], TINY)
    correlation[:, 0] = 1 + 1e-6  # a small amount of white noise keeps the recursion stable
    predictor = np.zeros_like(correlation)
    predictor[:, 0] = 1
    error = correlation[:, 0].copy()
    for k in range(1, order + 1):
        reflection = -(predictor[:, :k] * correlation[:, k:0:-1]).sum(axis=1) / error
        predictor[:, 1 : k + 1] += reflection[:, None] * predictor[:, k - 1 :: -1]
        error *= 1 - reflection**2
    companion = np.zeros((len(power), order, order))
    companion[:, 0] = -predictor[:, 1:]
    companion[:, np.arange(1, order), np.arange(order - 1)] = 1
    roots = np.linalg.eigvals(companion)
    frequency = np.angle(roots) * MAX_FORMANT / np.pi
    bandwidth = -np.log(np.maximum(np.abs(roots), 1e-6)) * 2 * MAX_FORMANT / np.pi
    resonant = (frequency > 90) & (frequency < MAX_FORMANT - 50) & (bandwidth < 700)
    frequency = np.where(resonant, frequency, np.inf)
    lowest = np.argsort(frequency, axis=1)[:, :3]
    frequency, bandwidth = (np.take_along_axis(a, lowest, axis=1).T for a in (frequency, bandwidth))
    found = np.isfinite(frequency)
    return np.where(found, frequency, [[500], [1500], [2500]]), np.where(found, bandwidth, 700)
