"""Trim the silence at both ends of a waveform and normalise its level. Nothing is fitted to data."""

import numpy as np
from scipy.ndimage import uniform_filter1d

from utils.data.audio import MIN_SECONDS, SAMPLING_RATE

WINDOW = 640  # samples: 40 ms, three periods of the lowest pitch
TRIM_DB = 35.0  # threshold of the trimming, below the loudest 40 ms
TINY = 1e-10


def speech_part(waveform: np.ndarray) -> tuple[np.ndarray, float]:
    """Trim the silence at both ends and scale the rest to a root mean square (RMS) of 1.

    Args:
        waveform: float32 (num_samples,) at 16 kHz.

    Returns:
        samples: float32 (num_speech_samples,), at least `MIN_SECONDS`, without constant offset.
        rms: RMS before scaling of the samples above the threshold, full scale = 1.
    """
    samples = waveform - waveform.mean(dtype=np.float64)
    peak = max(np.abs(samples).max(), TINY)
    samples /= peak
    energy = uniform_filter1d(samples**2, WINDOW, mode="constant")
    sounding = np.flatnonzero(energy >= energy.max() * 10 ** (-TRIM_DB / 10))
    start, stop = sounding[0], sounding[-1] + 1
    shortest = round(MIN_SECONDS * SAMPLING_RATE)
    if stop - start < shortest:
        start = max(0, min((start + stop - shortest) // 2, len(samples) - shortest))
        stop = start + shortest
    rms = np.sqrt(energy[sounding].mean() + TINY)
    samples = samples[start:stop] / rms
    return np.pad(samples, (0, max(0, shortest - len(samples)))).astype(np.float32), float(peak * rms)
