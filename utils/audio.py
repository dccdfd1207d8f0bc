"""Audio files or their bytes come in, waveforms go out: float32, mono, 16 kHz.

One file at a time with `read_waveform`; a whole corpus with `decode_files`, decoded once and from
then on memory-mapped from disk.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from utils.runtime import DISK_TROUBLES, InputError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

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

DECODING_VERSION = 1  # to be raised whenever the same bytes shall give other waveforms


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
    num_bytes = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if num_bytes > MAX_FILE_BYTES:
        raise AudioError(f"too large: {num_bytes:,} bytes, at most {MAX_FILE_BYTES:,}")
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not content:
        raise AudioError("empty file")
    missing = _missing_bytes(content)
    if missing > 0:
        raise AudioError(f"truncated: its last {missing:,} bytes are missing")
    try:
        waveform, sampling_rate = _decode(content)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise AudioError(f"not readable as audio ({reason})") from None
    if len(waveform) < MIN_SECONDS * sampling_rate:
        raise AudioError(f"too short: {len(waveform) / sampling_rate:.3f} s, at least {MIN_SECONDS} s needed")
    if not np.isfinite(waveform).all():
        raise AudioError("has samples that are not finite")
    if (peak := np.abs(waveform).max()) > MAX_PEAK:
        raise AudioError(f"has samples up to {peak:.0e}, where full scale is 1")
    if np.abs(waveform - waveform.mean()).max() < SILENCE_PEAK:
        raise AudioError("silent")
    if sampling_rate != SAMPLING_RATE:
        waveform = soxr.resample(waveform, sampling_rate, SAMPLING_RATE, quality="HQ")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _decode(content: bytes) -> tuple[np.ndarray, int]:
    """Return the mean of the channels, (num_samples,), and the sampling rate in Hz.

    Block by block, for a header may declare more than memory holds, and a file of silence be days long.
    """
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        if not MIN_RATE <= file.samplerate <= MAX_RATE:
            raise AudioError(
                f"sampled at {file.samplerate:,} Hz; from {MIN_RATE:,} to {MAX_RATE:,} Hz are decoded"
            )
        blocks, num_samples = [], 0
        while len(block := file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)):
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused later
                blocks.append(block.mean(axis=1))
            num_samples += len(block)
            if num_samples > MAX_SECONDS * file.samplerate:
                raise AudioError(f"too long: at most {MAX_SECONDS} s are taken for one clip")
        return np.concatenate([*blocks, np.zeros(0, np.float32)]), file.samplerate


def _missing_bytes(content: bytes) -> int:
    """Return how many bytes of sample data a WAV or AIFF file declares but does not have.

    libsndfile silently plays what is left of a cut file. Chunks are walked, for the data chunk may
    stand anywhere. Programs that stream to a pipe write sizes near 2**31 or 2**32: those say nothing.
    """
    order = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}.get(content[:4])
    if order is None:
        return 0
    position = 12
    while position + 8 <= len(content):
        name = content[position : position + 4]
        size = int.from_bytes(content[position + 4 : position + 8], order)
        position += 8
        if name in (b"data", b"SSND"):
            return size - (len(content) - position) if size < 2**31 - 2**12 else 0
        position += size + size % 2  # chunks are padded to even lengths
    return position - len(content) if position > len(content) else 0


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits, or "" if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for, and a device never ends
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def decode_files(paths: Sequence[Path], digests: Sequence[str], cache_dir: Path, name: str) -> "Dataset":
    """Decode many files into one memory-mapped Dataset, or open the one that an earlier run made.

    The cache entry is found by the files' contents and the settings of decoding, not by their paths.

    Args:
        paths, digests: the files and their `file_digest`s, in the order that the rows shall have.
        cache_dir: folder of the cache; made where it is missing.
        name: shown in the progress bar and in the entry's file name.

    Returns:
        Dataset with a row per file: `waveform` (float32 list; empty where the file cannot be used)
        and `problem` (the reason, else "").

    Raises:
        InputError: `cache_dir` cannot be written to, or its disk is full; nothing half-done is left in it.
    """
    from datasets import Dataset, Features, List, Value

    settings = [DECODING_VERSION, SAMPLING_RATE, MIN_SECONDS, MAX_SECONDS, MIN_RATE, MAX_RATE]
    settings += [MAX_FILE_BYTES, MAX_PEAK, SILENCE_PEAK]
    libraries = [soundfile.__libsndfile_version__, soxr.__version__]
    key = hashlib.sha256(json.dumps([settings, libraries, list(digests)]).encode()).hexdigest()[:32]
    entry = cache_dir / f"{name}-{key}.arrow"

    def decode(path: str, digest: str) -> tuple[np.ndarray, str]:
        try:
            if not digest:
                raise AudioError("cannot be read: no permission, a failing disk, or no regular file")
            return read_waveform(path), ""
        except AudioError as error:
            return np.zeros(0, np.float32), str(error)

    def decode_batch(batch: dict) -> dict:
        decoded = list(threads.map(decode, batch["path"], batch["digest"]))
        return {
            "waveform": [waveform for waveform, _ in decoded],
            "problem": [problem for _, problem in decoded],
        }

    files = Dataset.from_dict({"path": [str(path) for path in paths], "digest": list(digests)})
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        if not entry.exists():
            # A folder of its own: when the disk is full, `map` leaves what it has written so far.
            with (
                tempfile.TemporaryDirectory(dir=cache_dir, prefix="decoding-") as scratch,
                # Threads, not processes: libsndfile and soxr work outside Python's global lock.
                ThreadPoolExecutor(os.cpu_count()) as threads,
            ):
                files.map(
                    decode_batch,
                    batched=True,
                    batch_size=64,
                    writer_batch_size=64,
                    remove_columns=["path", "digest"],
                    features=Features({"waveform": List(Value("float32")), "problem": Value("string")}),
                    cache_file_name=str(Path(scratch) / entry.name),
                    new_fingerprint=key,
                    desc=f"Decoding {name}",
                )
                (Path(scratch) / entry.name).replace(entry)
    except OSError as error:
        if error.errno not in DISK_TROUBLES:
            raise
        raise InputError(
            f"--cache_dir {cache_dir}: decoded audio cannot be kept there ({first_line(error)}); make room, "
            "or name another folder"
        ) from error
    return Dataset.from_file(str(entry))
