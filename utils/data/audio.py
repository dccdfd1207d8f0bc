"""Decode one audio file to a waveform: float32, mono, 16 kHz.

`decoding.decode_files` does this for a whole corpus, once, into a memory-mapped cache.
"""

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from utils.data.truncation import is_mp3_without_length, missing_bytes

SAMPLING_RATE = 16_000
"""Hz. Pretrained encoders of the wav2vec2 family take audio at this rate."""

MIN_SECONDS = 0.25
"""Shorter clips are rejected: they hold hardly any speech, and SpecAugment fails on them in training."""

MAX_SECONDS = 60
"""Longer files are rejected: they are not clips of one emotion (the longest of RAVDESS has 5.3 s), and the
memory of attention grows quadratically (wav2vec2-base: 0.4 GB per layer for one minute, 43 GB for ten)."""

MIN_RATE, MAX_RATE = 8_000, 192_000
"""Accepted sampling rates in Hz: from telephone speech to the highest rate of sound cards."""

OPENS_DESCRIPTORS = os.name != "nt"
"""Whether libsndfile can read from an open file descriptor."""

MAX_FILE_BYTES = 300_000_000
"""One minute of six channels of 32 bits at `MAX_RATE`. Files are read completely, so larger ones are
rejected."""

MAX_PEAK = 2.0**31
"""Peak of 32-bit integer samples stored as floats. Larger values overflow in power spectra."""

FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "MP3", "OGG")
"""Those that are decoded. libsndfile decodes others too, such as VOC and MATLAB files; they do not occur in
corpora, and would be used without an error when their end is cut off."""

BLOCK_SAMPLES = 2**16
"""Samples (over all channels) decoded at a time, so that a false length in a header allocates no more."""

UNKNOWN_LENGTH = 2**63 - 1
"""Number of samples that libsndfile states for a FLAC file without a length."""

SILENCE_PEAK = 1e-4
"""A clip that deviates less than this from its mean (-80 dB of full scale) is silent. The quietest clips of
RAVDESS peak at 0.01."""


CONVERT = "if other programs play it, convert it to WAV or FLAC"
"""The cure for files of other formats."""


class AudioError(ValueError):
    """Audio that cannot be used. The message gives the reason without a file name."""


class _SequentialFile(soundfile.SoundFile):
    """A file that is read from its start to its end.

    Otherwise soundfile seeks after each block, which fails at the end of a FLAC file without a length, as
    programs write it to a pipe.
    """

    def seekable(self) -> bool:
        return False


def read_waveform(source: str | os.PathLike | bytes) -> np.ndarray:
    """Decode one clip, mix it to mono and resample it.

    Args:
        source: path or content of a file in one of `FORMATS`; it is detected from the content, not from the
            suffix.

    Returns:
        float32 array (num_samples,) at 16 kHz, full scale = 1; finite.

    Raises:
        AudioError: the file is empty, unreadable, truncated or larger than `MAX_FILE_BYTES`; its sampling
            rate is outside `MIN_RATE` to `MAX_RATE`; the clip is longer than `MAX_SECONDS`, shorter than
            `MIN_SECONDS`, not finite, louder than `MAX_PEAK`, or silent.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb", buffering=0) as file:
        num_bytes = file.seek(0, io.SEEK_END)
        if num_bytes > MAX_FILE_BYTES:
            raise AudioError(f"too large: {num_bytes:,} bytes, at most {MAX_FILE_BYTES:,}")
        if not num_bytes:
            raise AudioError("empty file")
        missing = missing_bytes(file, num_bytes)
        if missing > 0:
            raise AudioError(f"truncated: its last {missing:,} bytes are missing")
        if is_mp3_without_length(file):
            raise AudioError(f"not readable as audio (MP3 of varying bit rate without a length); {CONVERT}")
        file.seek(0)
        try:
            waveform, sampling_rate = _decode(file)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".") or "damaged or truncated"
            raise AudioError(f"not readable as audio ({reason}); {CONVERT}") from None
    _check_samples(waveform, sampling_rate)
    if sampling_rate != SAMPLING_RATE:
        waveform = soxr.resample(waveform, sampling_rate, SAMPLING_RATE, quality="HQ")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _check_samples(waveform: np.ndarray, sampling_rate: int) -> None:
    """Raise an `AudioError` if a decoded clip is too short, not finite, too loud or silent."""
    if len(waveform) < MIN_SECONDS * sampling_rate:
        raise AudioError(f"too short: {len(waveform) / sampling_rate:.3f} s, at least {MIN_SECONDS} s needed")
    low, high = waveform.min(), waveform.max()  # NaN if any sample is NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise AudioError("has samples that are not finite")
    if (peak := max(-low, high)) > MAX_PEAK:
        raise AudioError(f"has samples up to {peak:.0e}, where full scale is 1")
    mean = waveform.mean()
    if max(high - mean, mean - low) < SILENCE_PEAK:
        raise AudioError("silent")


def _decode(file: BinaryIO) -> tuple[np.ndarray, int]:
    """Decode block by block, so that false or extreme lengths in a header cannot exhaust the memory.

    Returns:
        waveform: float32 (num_samples,), the mean of the channels.
        sampling_rate: in Hz.

    Raises:
        AudioError: the format is none of `FORMATS`, the sampling rate is out of range, the clip is longer
            than `MAX_SECONDS`, or the end of a FLAC file is missing.
    """
    # libsndfile gets the file descriptor: a Python object would be called for each piece, under the global
    # lock. It gets no name either, since it would take the suffix for the format. On Windows a descriptor
    # does not work (python-soundfile#63), so the content is read first.
    if isinstance(file, io.BytesIO):
        source = file
    else:
        source = file.fileno() if OPENS_DESCRIPTORS else io.BytesIO(file.read())
    with _SequentialFile(source, closefd=False) as file:
        if file.format not in FORMATS or file.subtype in ("MPEG_LAYER_I", "MPEG_LAYER_II"):
            raise AudioError(f"not readable as audio ({file.format}, {file.subtype}); {CONVERT}")
        if not MIN_RATE <= file.samplerate <= MAX_RATE:
            raise AudioError(
                f"sampled at {file.samplerate:,} Hz; from {MIN_RATE:,} to {MAX_RATE:,} Hz are decoded"
            )
        blocks, num_samples = [], 0
        while len(block := file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)):
            with np.errstate(invalid="ignore", over="ignore"):  # `_check_samples` rejects non-finite values
                # The mean over one channel would only cost time.
                blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1))
            num_samples += len(block)
            if num_samples > MAX_SECONDS * file.samplerate:
                raise AudioError(f"too long: at most {MAX_SECONDS} s are accepted as one clip")
        if file.format == "FLAC" and num_samples < file.frames < UNKNOWN_LENGTH:  # cut between two frames
            raise AudioError(f"truncated: its last {file.frames - num_samples:,} samples are missing")
        return np.concatenate([*blocks, np.zeros(0, np.float32)]), file.samplerate
