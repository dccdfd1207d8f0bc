"""Audio files or their bytes come in, waveforms go out: float32, mono, 16 kHz.

One file at a time with `read_waveform`; a whole corpus with `decode_files`, decoded once and from
then on memory-mapped from disk.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLING_RATE = 16_000
"""Hz; what every wav2vec2-like encoder was pretrained on."""

MIN_SECONDS = 0.25
"""A shorter clip holds no speech to speak of, and encoders with SpecAugment refuse it in training."""

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
        float32 array (num_samples,) at 16 kHz, full scale = 1.

    Raises:
        AudioError: empty, unreadable, truncated, not finite, silent, or shorter than `MIN_SECONDS`.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not content:
        raise AudioError("empty file")
    missing = _missing_bytes(content)
    if missing > 0:
        raise AudioError(f"truncated: its last {missing:,} bytes are missing")
    try:
        samples, sampling_rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise AudioError(f"not readable as audio ({reason})") from None
    waveform = samples.mean(axis=1)
    if len(waveform) < MIN_SECONDS * sampling_rate:
        raise AudioError(f"too short: {len(waveform) / sampling_rate:.3f} s, at least {MIN_SECONDS} s needed")
    if not np.isfinite(waveform).all():
        raise AudioError("has samples that are not finite")
    if np.abs(waveform - waveform.mean()).max() < SILENCE_PEAK:
        raise AudioError("silent")
    if sampling_rate != SAMPLING_RATE:
        waveform = soxr.resample(waveform, sampling_rate, SAMPLING_RATE, quality="HQ")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _missing_bytes(content: bytes) -> int:
    """Return how many bytes of sample data a WAV or AIFF file declares but does not have.

    libsndfile silently plays what is left of a cut file. Chunks are walked, for the data chunk may
    stand anywhere. Programs that stream to a pipe write sizes near 2**31 or 2**32: those say nothing.
    """
    order = {b"RIFF": "little", b"FORM": "big"}.get(content[:4])
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
        return hashlib.sha256(path.read_bytes()).hexdigest()
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
    """
    from datasets import Dataset, Features, List, Value

    settings = [DECODING_VERSION, SAMPLING_RATE, MIN_SECONDS, SILENCE_PEAK]
    libraries = [soundfile.__libsndfile_version__, soxr.__version__]
    key = hashlib.sha256(json.dumps([settings, libraries, list(digests)]).encode()).hexdigest()[:32]
    cache_dir.mkdir(parents=True, exist_ok=True)

    def decode(path: str, digest: str) -> tuple[np.ndarray, str]:
        try:
            if not digest:
                raise AudioError("cannot be read: no permission, or a failing disk")
            return read_waveform(path), ""
        except AudioError as error:
            return np.zeros(0, np.float32), str(error)

    # Threads, not processes: libsndfile and soxr work outside Python's global lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:

        def decode_batch(batch: dict) -> dict:
            decoded = list(threads.map(decode, batch["path"], batch["digest"]))
            return {
                "waveform": [waveform for waveform, _ in decoded],
                "problem": [problem for _, problem in decoded],
            }

        return Dataset.from_dict({"path": [str(path) for path in paths], "digest": list(digests)}).map(
            decode_batch,
            batched=True,
            batch_size=64,
            writer_batch_size=64,
            remove_columns=["path", "digest"],
            features=Features({"waveform": List(Value("float32")), "problem": Value("string")}),
            cache_file_name=str(cache_dir / f"{name}-{key}.arrow"),
            new_fingerprint=key,
            load_from_cache_file=True,
            desc=f"Decoding {name}",
        )
