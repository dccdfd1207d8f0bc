"""A training waveform comes in, a changed one goes out: other speed, gain, position, some noise.

Every change keeps the emotion's label; how strong each may be is said in the constants.
"""

import numpy as np
import soxr

SPEEDS = (0.85, 1.15)
"""Range of the factor on the speed; pitch moves with it (speed perturbation, Ko et al. 2015)."""

GAIN_DB = (-6.0, 6.0)

NOISE_SNR_DB = (10.0, 40.0)
"""White noise, relative to the clip's own power."""

SHIFT_SECONDS = 0.2
"""The clip moves by up to this much to either side; silence fills the gap."""


def augment(
    waveform: np.ndarray,
    generator: np.random.Generator,
    sampling_rate: int,
    max_shift_seconds: float = SHIFT_SECONDS,
) -> np.ndarray:
    """Return a changed copy of a float32 waveform (num_samples,); its length follows its speed."""
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
