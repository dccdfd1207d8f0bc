"""How a clip is spoken, in units that people read: durations, level, pitch."""

from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
import scipy.signal
from scipy.ndimage import uniform_filter1d

from utils.data.audio import SAMPLING_RATE, SILENCE_PEAK
from utils.data.speech import TINY, TRIM_DB, speech_part
from utils.features.acoustics import decibel, spectra, track_pitch
from utils.features.contours import FLOOR_DB

if TYPE_CHECKING:
    pass
from utils.features.functionals import MIN_FRAMES

PROSODY = "prosody"
"""A set to look at, beside `FEATURE_SETS`: in units that people read, NaN where not measurable."""


def prosody(waveform: np.ndarray) -> dict[str, float]:
    """Describe how a clip is spoken, in units that people read; what cannot be measured is NaN.

    All but the level are measured as for the "full" set, on the part between the silences at both ends.

    Returns:
        speech_seconds: length of that part, at least `MIN_SECONDS`.
        level_dbfs: RMS of its sounding samples, before any levelling; 0 = an RMS of full scale.
        level_range_db: 10th to 95th percentile of the level of its frames that sound, as in the loudness
            range of EBU Tech 3342; sounding is what is at most `TRIM_DB` below the loudest frame.
        sounding_percent: frames that sound, as a share of all.
        peaks_per_second: peaks of the level that stand out by 2 dB, which mark syllables (de Jong & Wempe
            2009, Behav. Res. Methods 41:385), per second.
        pitch_hz: median of the voiced frames.
        pitch_range_semitones: 5th to 95th percentile of the voiced frames.
        voiced_percent: voiced frames, as a share of all.
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
