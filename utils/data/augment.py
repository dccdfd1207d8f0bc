"""Augment a training waveform: speed, time shift, noise and gain. The label stays valid."""

import numpy as np
import soxr

SPEEDS = (0.85, 1.15)
"""Range of the speed factor; the pitch changes with it (speed perturbation, Ko et al. 2015)."""

GAIN_DB = (-6.0, 6.0)

NOISE_SNR_DB = (10.0, 40.0)
"""Signal-to-noise ratio of the added white noise."""

SHIFT_SECONDS = 0.2
"""Maximum time shift in either direction; the gap is filled with zeros."""


def augment(
    waveform: np.ndarray,
    generator: np.random.Generator,
    sampling_rate: int,
    max_shift_seconds: float = SHIFT_SECONDS,
) -> np.ndarray:
    """Return an augmented copy of a waveform.

    Args:
        waveform: float32 (num_samples,), full scale = 1.
        generator: source of the random parameters and the noise.
        sampling_rate: in Hz.
        max_shift_seconds: maximum time shift in either direction.

    Returns:
        float32 (num_samples / speed,), clipped to -1..1.
    """
    speed = generator.uniform(*SPEEDS)
    changed = soxr.resample(waveform, sampling_rate * speed, sampling_rate, quality="MQ")

    shift = int(generator.uniform(-max_shift_seconds, max_shift_seconds) * sampling_rate)
    moved = np.zeros_like(changed)
    if shift >= 0:
        moved[shift:] = changed[: len(changed) - shift]
    else:
        moved[:shift] = changed[-shift:]

    snr_db = generator.uniform(*NOISE_SNR_DB)
    noise_level = np.sqrt(np.mean(moved**2)) * 10 ** (-snr_db / 20)
    moved = moved + noise_level * generator.standard_normal(len(moved), dtype=np.float32)
    gain = 10 ** (generator.uniform(*GAIN_DB) / 20)
    return np.clip(moved * gain, -1.0, 1.0).astype(np.float32)
