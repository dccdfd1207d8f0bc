"""Audio files or their bytes come in, waveforms go out: float32, mono, 16 kHz.

One file at a time with `read_waveform`; a whole corpus with `decode_files`, decoded once and from
then on memory-mapped from disk.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile
import soxr

if TYPE_CHECKING:
    pass

SAMPLING_RATE = 16_000
"""Hz; what every wav2vec2-like encoder was pretrained on."""

MIN_SECONDS = 0.25
"""A shorter clip holds no speech to speak of, and encoders with SpecAugment refuse it in training."""

MAX_SECONDS = 60
"""A longer file is no clip of one emotion. The longest of RAVDESS has 5.3 s, and attention needs memory by
the square: in wav2vec2-base 0.4 GB a layer for a minute, 43 GB for ten."""

MIN_RATE, MAX_RATE = 8_000, 192_000
"""Hz; from a telephone's to the highest that sound cards record at. Others are a damaged header."""

MAX_FILE_BYTES = 300_000_000
"""A minute of six channels of 32 bits at `MAX_RATE`; files are read whole."""

MAX_PEAK = 2.0**31
"""What 32-bit integers reach that were written as floats. Beyond it, powers soon overflow."""

BLOCK_SAMPLES = 2**20
"""Of all channels, decoded at a time: however much a file declares, so much is allocated."""

SILENCE_PEAK = 1e-4
"""A clip that never leaves its mean by more than this (-80 dB of full scale) is silent. The quietest
clips of RAVDESS peak at 0.01."""


class AudioError(ValueError):
    """Audio that cannot be used; the message says why, and names no file."""


def read_waveform(source: str | os.PathLike | bytes) -> np.ndarray:
    """Decode, mix down and resample one clip.

    Args:
        source: a path, or the bytes of a file, in any format that libsndfile knows (WAV, AIFF, FLAC,
            MP3, Ogg ...); the content decides, not the suffix.

    Returns:
        float32 array (num_samples,) at 16 kHz, full scale = 1; finite.

    Raises:
        AudioError: empty, unreadable, truncated, too large, sampled at a rate beyond `MIN_RATE` and
            `MAX_RATE`, longer than `MAX_SECONDS`, shorter than `MIN_SECONDS`, not finite, louder than
            `MAX_PEAK`, or silent.
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
    if len(waveform) < MIN_SECONDS * sampling_rate:
        raise AudioError(f"too short: {len(waveform) / sampling_rate:.3f} s, at least {MIN_SECONDS} s needed")
    low, high = waveform.min(), waveform.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # the least of samples with a NaN among them is NaN
        raise AudioError("has samples that are not finite")
    if (peak := max(-low, high)) > MAX_PEAK:
        raise AudioError(f"has samples up to {peak:.0e}, where full scale is 1")
    mean = waveform.mean()
    if max(high - mean, mean - low) < SILENCE_PEAK:
        raise AudioError("silent")
    if sampling_rate != SAMPLING_RATE:
        waveform = soxr.resample(waveform, sampling_rate, SAMPLING_RATE, quality="HQ")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _decode(file: BinaryIO) -> tuple[np.ndarray, int]:
    """Return the mean of the channels, (num_samples,), and the sampling rate in Hz.

    Block by block, for a header may declare more than memory holds, and a file of silence be days long.
    """
    # Of a file on disk libsndfile gets the descriptor: it would call Python for each piece of an object, and
    # threads would wait for each other. No name goes with it, whose suffix could be taken for a format.
    source = file if isinstance(file, io.BytesIO) else file.fileno()
    with soundfile.SoundFile(source, closefd=False) as file:
        if not MIN_RATE <= file.samplerate <= MAX_RATE:
            raise AudioError(
                f"sampled at {file.samplerate:,} Hz; from {MIN_RATE:,} to {MAX_RATE:,} Hz are decoded"
            )
        blocks, num_samples = [], 0
        while len(block := file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)):
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused later
                # The mean of one channel is that channel, and NumPy would take long for it.
                blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1))
            num_samples += len(block)
            if num_samples > MAX_SECONDS * file.samplerate:
                raise AudioError(f"too long: at most {MAX_SECONDS} s are taken for one clip")
        return np.concatenate([*blocks, np.zeros(0, np.float32)]), file.samplerate


def _missing_bytes(file: BinaryIO, num_bytes: int) -> int:
    """Return how many bytes of sample data a WAV or AIFF file declares but does not have.

    libsndfile silently plays what is left of a cut file. Chunks are walked, for the data chunk may
    stand anywhere. Programs that stream to a pipe write sizes near 2**31 or 2**32: those say nothing.
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
