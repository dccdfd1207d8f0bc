"""Prosody of a clip in physical units: durations, level, pitch."""

import numpy as np
import scipy.signal
from scipy.ndimage import uniform_filter1d

from utils.data.audio import SAMPLING_RATE, SILENCE_PEAK
from utils.data.speech import TINY, TRIM_DB, speech_part
from utils.features.acoustics import decibel, spectra, track_pitch
from utils.features.contours import FLOOR_DB
from utils.features.functionals import MIN_FRAMES

PROSODY = "prosody"
"""A feature set for exploration, beside `FEATURE_SETS`: in physical units, NaN where not measurable."""


def prosody(waveform: np.ndarray) -> dict[str, float]:
    """Measure the prosody of a clip.

    All measures except the level are computed as in the set "full", on the part between the silences at both
    ends.

    Args:
        waveform: float32 (num_samples,) at 16 kHz.

    Returns:
        name -> value; NaN where not measurable:

        speech_seconds: length of that part, at least `MIN_SECONDS`.
        level_dbfs: RMS of its non-silent samples before normalisation; 0 = an RMS of full scale.
        level_range_db: 10th to 95th percentile of the level of its non-silent frames, as in the loudness
            range of EBU Tech 3342; a frame is non-silent if it is at most `TRIM_DB` below the loudest one.
        sounding_percent: share of non-silent frames.
        peaks_per_second: rate of level peaks with a prominence of 2 dB, which mark syllables (de Jong & Wempe
            2009, Behav. Res. Methods 41:385).
        pitch_hz: median fundamental frequency of the voiced frames.
        pitch_range_semitones: 5th to 95th percentile of the voiced frames.
        voiced_percent: share of voiced frames.
    """
    samples, rms = speech_part(waveform)
    _, power, frame_rms = spectra(samples)
    level = np.maximum(decibel(frame_rms**2), -FLOOR_DB)
    hertz, _, voiced = track_pitch(power, frame_rms)
    pitch = hertz[voiced] if voiced.sum() >= MIN_FRAMES else np.full(1, np.nan)
    sounding = level > level.max() - TRIM_DB
    smooth = np.pad(uniform_filter1d(level, 7), 1, constant_values=-FLOOR_DB)  # silence before and after
    peaks, _ = scipy.signal.find_peaks(smooth, height=smooth.max() - 25, prominence=2)
    seconds = len(samples) / SAMPLING_RATE
    row = {
        "speech_seconds": seconds,
        "level_dbfs": 20 * np.log10(max(rms, TINY)),
        "level_range_db": np.ptp(np.percentile(level[sounding], [10, 95])),
        "sounding_percent": 100 * sounding.mean(),
        "peaks_per_second": len(peaks) / seconds,
        "pitch_hz": np.median(pitch),
        "pitch_range_semitones": np.ptp(12 * np.log2(np.percentile(pitch, [5, 95]))),
        "voiced_percent": 100 * voiced.mean(),
    }
    silent = np.abs(waveform - waveform.mean()).max() < SILENCE_PEAK
    return dict.fromkeys(row, np.nan) if silent else row
