"""Audio files or their bytes come in, waveforms go out: float32, mono, 16 kHz.

One file at a time with `read_waveform`; a whole corpus with `decode_files`, decoded once and from
then on memory-mapped from disk.
"""

import collections
import contextlib
import hashlib
import io
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile
import soxr
import xxhash
from tqdm.auto import tqdm

from utils.runtime import DISK_TROUBLES, InputError, first_line, write_text

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

BATCH_CLIPS = 64
"""Clips that are decoded, and written, together: 15 MB of waveforms."""

CLOCK_STEP = 2_000_000_000
"""Nanoseconds: the coarsest times that a file system keeps (FAT)."""

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


def file_digest(path: Path) -> str:
    """Return the XXH3 of a file's bytes as 32 hexadecimal digits, or "" if it cannot be read.

    It tells contents apart as well as a cryptographic digest does, in less time; nobody who could
    forge one gains anything by it.
    """
    try:
        if not path.is_file():  # a pipe would be waited for, and a device never ends
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except OSError:
        return ""


def file_digests(paths: Sequence[Path], cache_dir: Path, silent: bool | None = None) -> list[str]:
    """Return the `file_digest` of each file, read anew only where it may have changed since an earlier call.

    As git does, a file is taken to be the same while its size, times and inode are, unless it was changed
    within `CLOCK_STEP` of when it was read: then a second change could have left the times as they were.

    Args:
        paths: of the files.
        cache_dir: the digests are kept there, where that can be written to.
        silent: as `disable` of the progress bar.
    """
    note = cache_dir / "xxh3.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}

    def read(path: Path) -> list:
        seen = time.time_ns()
        state = _state(path)
        return [*state, seen, file_digest(path)] if state else [""]

    paths = [path.absolute() for path in paths]
    unchanged = {}
    for path in paths:
        entry = known.get(str(path))
        if entry and _state(path) == entry[:4] and max(entry[1:3]) < entry[4] - CLOCK_STEP:
            unchanged[path] = entry
    changed = [path for path in dict.fromkeys(paths) if path not in unchanged]
    new = {}
    if changed:
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashing releases Python's global lock
            entries = tqdm(threads.map(read, changed), "Reading files", len(changed), disable=silent)
            new = dict(zip(changed, entries, strict=True))
        with contextlib.suppress(OSError):  # then they are read again
            cache_dir.mkdir(parents=True, exist_ok=True)
            readable = {str(path): entry for path, entry in new.items() if entry[-1]}
            write_text(note, json.dumps(known | readable))
    return [(unchanged.get(path) or new[path])[-1] for path in paths]


def _state(path: Path) -> list[int] | None:
    """Return what changes when a file does: its size, times and inode; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def decode_files(
    paths: Sequence[Path], digests: Sequence[str], cache_dir: Path, name: str, silent: bool | None = None
) -> "Dataset":
    """Decode many files into one memory-mapped Dataset, or open the one that an earlier run made.

    The cache entry is found by the files' contents and the settings of decoding, not by their paths.

    Args:
        paths, digests: the files and their `file_digest`s, in the order that the rows shall have.
        cache_dir: folder of the cache; made where it is missing.
        name: shown in the progress bar and in the entry's file name.
        silent: as `disable` of the progress bar.

    Returns:
        Dataset with a row per file: `waveform` (float32 list; empty where the file cannot be used)
        and `problem` (the reason, else "").

    Raises:
        InputError: `cache_dir` cannot be written to, or its disk is full; nothing half-done is left in it.
    """
    from datasets import Dataset

    settings = [DECODING_VERSION, SAMPLING_RATE, MIN_SECONDS, MAX_SECONDS, MIN_RATE, MAX_RATE]
    settings += [MAX_FILE_BYTES, MAX_PEAK, SILENCE_PEAK]
    libraries = [soundfile.__libsndfile_version__, soxr.__version__]
    key = hashlib.sha256(json.dumps([settings, libraries, list(digests)]).encode()).hexdigest()[:32]
    entry = cache_dir / f"{name}-{key}.arrow"

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        if not entry.exists():
            # A folder of its own, which goes with what it holds when the disk is full.
            with tempfile.TemporaryDirectory(dir=cache_dir, prefix="decoding-") as scratch:
                decoded = tqdm(_decode_all(paths, digests), f"Decoding {name}", len(paths), disable=silent)
                _write_arrow(Path(scratch) / entry.name, decoded)
                (Path(scratch) / entry.name).replace(entry)
    except OSError as error:
        if error.errno not in DISK_TROUBLES:
            raise
        raise InputError(
            f"--cache_dir {cache_dir}: decoded audio cannot be kept there ({first_line(error)}); make room, "
            "or name another folder"
        ) from error
    return Dataset.from_file(str(entry))


class Waveforms(Sequence):
    """The `waveform` column of a Dataset: `waveforms[row]` is a new NumPy array, float32 (num_samples,).

    Datasets has a NumPy format of its own, but before 4.8.4 it looks for torchvision's video reader whenever
    torchvision is loaded, and torchvision 0.26 has none (huggingface/datasets#8085).
    """

    def __init__(self, dataset: "Dataset"):
        self._rows = dataset.select_columns("waveform").with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> np.ndarray:
        # A copy: PyTorch warns of arrays that cannot be written to.
        return self._rows[int(row)]["waveform"][0].values.to_numpy(zero_copy_only=False, writable=True)


def _decode_all(paths: Sequence[Path], digests: Sequence[str]) -> Iterator[tuple[np.ndarray, str]]:
    """Yield (waveform, problem) of each file, while up to two batches of others are decoded."""

    def decode(path: Path, digest: str) -> tuple[np.ndarray, str]:
        try:
            if not digest:
                raise AudioError("cannot be read: no permission, a failing disk, or no regular file")
            return read_waveform(path), ""
        except AudioError as error:
            return np.zeros(0, np.float32), str(error)

    # Threads, not processes: libsndfile and soxr work outside Python's global lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ahead = collections.deque()
        for start in range(0, len(paths), BATCH_CLIPS):
            batch = slice(start, start + BATCH_CLIPS)
            ahead.append(threads.map(decode, paths[batch], digests[batch]))
            if len(ahead) > 2:
                yield from ahead.popleft()
        for batch in ahead:
            yield from batch


def _write_arrow(path: Path, decoded: Iterable[tuple[np.ndarray, str]]) -> None:
    """Write rows of `waveform` and `problem` as `Dataset.from_file` reads them, batch by batch."""
    import pyarrow
    from datasets import Features, List, Value

    schema = Features({"waveform": List(Value("float32")), "problem": Value("string")}).arrow_schema
    decoded = iter(decoded)
    buffer = np.empty(0, np.float32)  # used again and again: fresh memory costs more than the copy
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        while batch := list(itertools.islice(decoded, BATCH_CLIPS)):
            ends = np.cumsum([0, *(len(waveform) for waveform, _ in batch)], dtype=np.int32)
            if ends[-1] > len(buffer):
                buffer = np.empty(2 * ends[-1], np.float32)
            samples = np.concatenate([waveform for waveform, _ in batch], out=buffer[: ends[-1]])
            columns = [
                pyarrow.ListArray.from_arrays(pyarrow.array(ends), pyarrow.array(samples)),
                pyarrow.array([problem for _, problem in batch], pyarrow.string()),
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
