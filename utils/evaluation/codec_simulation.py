"""Encoding and decoding of a waveform with audio codecs (soundfile with libsndfile; soxr).

The functions take float waveforms (num_samples,) and return the decoded waveforms at the same rate and level.
"""

import functools
import io

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, correlate, sosfilt

from utils.data.audio import SAMPLING_RATE
from utils.data.speech import speech_part

CODECS = {"MP3": ("MP3", "MPEG_LAYER_III"), "Opus": ("OGG", "OPUS")}
"""Name -> format and subtype in libsndfile, used at their default quality with a variable bit rate."""

NOMINAL_LEVEL_DB = -26.0
"""Speech level at which codecs are tested, relative to full scale (ITU-T G.191, P.56). A clip is scaled to
this level before the codec and back afterwards; otherwise some clips would be encoded far too quiet."""


def encode_and_decode(waveform: np.ndarray, file_format: str, subtype: str) -> np.ndarray:
    """Return the waveform after a codec, float32, aligned with the input and of the same length.

    Args:
        waveform: float32 (num_samples,) at 16 kHz.
        file_format, subtype: names in libsndfile, as in `CODECS`.
    """
    decoded = _round_trip(waveform, SAMPLING_RATE, file_format, subtype)
    return fit_length(decoded[codec_delay(file_format, subtype) or 0 :], len(waveform))


def mu_law_8khz(waveform: np.ndarray) -> np.ndarray:
    """Return the waveform, float32 at 16 kHz, after ITU-T G.711: 8 kHz, 8-bit µ-law."""
    narrowband = soxr.resample(waveform, SAMPLING_RATE, 8_000)
    decoded = soxr.resample(_round_trip(narrowband, 8_000, "WAV", "ULAW"), 8_000, SAMPLING_RATE)
    return fit_length(decoded, len(waveform))


@functools.cache
def codec_delay(file_format: str, subtype: str) -> int | None:
    """Return the delay of encoding and decoding in samples; None if the codec is not available."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(SAMPLING_RATE).astype(np.float32)
    noise = sosfilt(butter(2, 2_000, fs=SAMPLING_RATE, output="sos"), noise).astype(np.float32)
    try:
        decoded = _round_trip(noise, SAMPLING_RATE, file_format, subtype)
    except (RuntimeError, ValueError):  # raised by libsndfile, and by soundfile for an unknown format
        return None
    delay = int(correlate(decoded, noise, method="fft").argmax()) - (len(noise) - 1)
    return max(delay, 0)


def unavailable_codecs() -> dict[str, str]:
    """Return codec -> reason why it cannot be used on this machine."""
    return {
        name: f"libsndfile {soundfile.__libsndfile_version__} cannot write and read this format"
        for name, codec in CODECS.items()
        if codec_delay(*codec) is None
    }


def fit_length(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Return the waveform cut or padded with zeros at its end to `num_samples`."""
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))


def _round_trip(waveform: np.ndarray, sampling_rate: int, file_format: str, subtype: str) -> np.ndarray:
    """Write and read a file in memory at `NOMINAL_LEVEL_DB`; return the waveform at its original level."""
    peak = np.abs(waveform).max()
    factor = 10 ** (NOMINAL_LEVEL_DB / 20) / max(speech_part(waveform)[1], 1e-10)
    factor = min(factor, 0.9 / max(peak, 1e-10))  # integer codecs clip above full scale
    file = io.BytesIO()
    soundfile.write(file, waveform * np.float32(factor), sampling_rate, format=file_format, subtype=subtype)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return decoded / np.float32(factor)
