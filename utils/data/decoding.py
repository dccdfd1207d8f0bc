"""Decode a whole corpus once: audio files in, one memory-mapped Dataset of waveforms out."""

import collections
import contextlib
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
import xxhash
from tqdm.auto import tqdm

from utils.runtime import DISK_TROUBLES, InputError, first_line, write_text

if TYPE_CHECKING:
    from datasets import Dataset
from utils.data.audio import (
    MAX_FILE_BYTES,
    MAX_PEAK,
    MAX_RATE,
    MAX_SECONDS,
    MIN_RATE,
    MIN_SECONDS,
    SAMPLING_RATE,
    SILENCE_PEAK,
    AudioError,
    read_waveform,
)

BATCH_CLIPS = 64
"""Clips that are decoded, and written, together: 15 MB of waveforms."""

CLOCK_STEP = 2_000_000_000
"""Nanoseconds: the coarsest times that a file system keeps (FAT)."""

DECODING_VERSION = 1  # to be raised whenever the same bytes shall give other waveforms


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
