"""Augment a training clip: speed, time shift, noise and gain, and masks in its spectrogram."""

import numpy as np
import soxr

SPEEDS = (0.85, 1.15)
"""Range of the speed factor; the pitch changes with it (speed perturbation, Ko et al. 2015)."""

GAIN_DB = (-6.0, 6.0)

NOISE_SNR_DB = (10.0, 40.0)
"""Signal-to-noise ratio of the added white noise."""

SHIFT_SECONDS = 0.2
"""Maximum time shift in either direction; the gap is filled with zeros."""

NUM_MASKS, MAX_MASKED_BINS, MAX_MASKED_FRAMES = 2, 0.15, 0.1
"""Masks of a spectrogram along each axis, and the maximum width of one as a share of the axis."""


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


def mask_spectrogram(spectrogram: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a copy of a spectrogram in which random bands and periods have its mean value.

    This is SpecAugment without time warping (Park et al. 2019).

    Args:
        spectrogram: float32 (num_bins, num_frames), logarithmic.
        generator: source of the positions and widths of the masks.
    """
    masked, mean = spectrogram.copy(), spectrogram.mean()
    for axis, share in ((0, MAX_MASKED_BINS), (1, MAX_MASKED_FRAMES)):
        for _ in range(NUM_MASKS):
            width = generator.integers(int(share * spectrogram.shape[axis]) + 1)
            start = generator.integers(spectrogram.shape[axis] - width + 1)
            np.swapaxes(masked, 0, axis)[start : start + width] = mean
    return masked
