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

BLOCK_SAMPLES = 2**20
"""Samples (over all channels) decoded at a time, so that a false length in a header allocates no more."""

SILENCE_PEAK = 1e-4
"""A clip that deviates less than this from its mean (-80 dB of full scale) is silent. The quietest clips of
RAVDESS peak at 0.01."""


class AudioError(ValueError):
    """Audio that cannot be used. The message gives the reason without a file name."""


def read_waveform(source: str | os.PathLike | bytes) -> np.ndarray:
    """Decode one clip, mix it to mono and resample it.

    Args:
        source: path or content of a file in any format that libsndfile reads (WAV, AIFF, FLAC, MP3, Ogg ...).
            The format is detected from the content, not from the suffix.

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
        missing = _missing_bytes(file, num_bytes)
        if missing > 0:
            raise AudioError(f"truncated: its last {missing:,} bytes are missing")
        file.seek(0)
        try:
            waveform, sampling_rate = _decode(file)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise AudioError(f"not readable as audio ({reason})") from None
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
        AudioError: the sampling rate is out of range, or the clip is longer than `MAX_SECONDS`.
    """
    # libsndfile gets the file descriptor: a Python object would be called for each piece, under the global
    # lock. It gets no name either, since it would take the suffix for the format. On Windows a descriptor
    # does not work (python-soundfile#63), so the content is read first.
    if isinstance(file, io.BytesIO):
        source = file
    else:
        source = file.fileno() if OPENS_DESCRIPTORS else io.BytesIO(file.read())
    with soundfile.SoundFile(source, closefd=False) as file:
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
        return np.concatenate([*blocks, np.zeros(0, np.float32)]), file.samplerate


def _missing_bytes(file: BinaryIO, num_bytes: int) -> int:
    """Return how many bytes of declared sample data a WAV or AIFF file lacks; 0 for other formats.

    libsndfile decodes truncated files without an error. The chunks are walked, since the data chunk may stand
    anywhere. Declared sizes near 2**31 or 2**32 are ignored: programs that stream to a pipe write them.
    """
    file.seek(0)
    order = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}.get(file.read(4))
    if order is None:
        return 0
    position = 12
    while position + 8 <= num_bytes:
        file.seek(position)
        name, size = file.read(4), int.from_bytes(file.read(4), order)
        position += 8
        if name in (b"data", b"SSND"):
            return size - (num_bytes - position) if size < 2**31 - 2**12 else 0
        position += size + size % 2  # chunks are padded to even lengths
    return position - num_bytes if position > num_bytes else 0
