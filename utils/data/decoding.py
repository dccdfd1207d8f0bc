"""Decode a whole corpus once into a memory-mapped Dataset of waveforms, cached on disk."""

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
from utils.runtime import DISK_TROUBLES, InputError, first_line, write_text

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_CLIPS = 64
"""Number of clips that are decoded and written together: 15 MB of waveforms."""

CLOCK_STEP = 2_000_000_000
"""Nanoseconds: the coarsest resolution of file times (FAT)."""

DECODING_VERSION = 2  # increase it with any change that gives other waveforms for the same bytes


def file_digest(path: Path) -> str:
    """Return the 128-bit XXH3 of a file's content as 32 hexadecimal digits, or "" if it cannot be read.

    XXH3 is faster than a cryptographic hash and as good at detecting different contents; protection against
    forgery is not needed here.
    """
    try:
        if not path.is_file():  # reading a pipe would block, reading a device would never end
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except OSError:
        return ""


def file_digests(paths: Sequence[Path], cache_dir: Path, silent: bool | None = None) -> list[str]:
    """Return the `file_digest` of each file; unchanged files are not read again.

    As in git, a file counts as unchanged if its size, times and inode are unchanged, and if it was last
    modified more than `CLOCK_STEP` before it was read. A later modification could have left the times
    unchanged.

    Args:
        paths: the files.
        cache_dir: folder in which the digests are stored, if it is writable.
        silent: passed to the progress bar as `disable`.
    """
    index = cache_dir / "xxh3.json"
    try:
        known = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}

    def read(path: Path) -> list:
        read_at = time.time_ns()
        state = _file_state(path)
        return [*state, read_at, file_digest(path)] if state else [""]

    paths = [path.absolute() for path in paths]
    unchanged = {}
    for path in paths:
        entry = known.get(str(path))
        if entry and _file_state(path) == entry[:4] and max(entry[1:3]) < entry[4] - CLOCK_STEP:
            unchanged[path] = entry
    changed = [path for path in dict.fromkeys(paths) if path not in unchanged]
    new = {}
    if changed:
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashing releases Python's global lock
            entries = tqdm(threads.map(read, changed), "Reading files", len(changed), disable=silent)
            new = dict(zip(changed, entries, strict=True))
        with contextlib.suppress(OSError):  # without a stored index the files are read again next time
            cache_dir.mkdir(parents=True, exist_ok=True)
            readable = {str(path): entry for path, entry in new.items() if entry[-1]}
            write_text(index, json.dumps(known | readable))
    return [(unchanged.get(path) or new[path])[-1] for path in paths]


def _file_state(path: Path) -> list[int] | None:
    """Return size, modification time, change time and inode of a file, or None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def decode_files(
    paths: Sequence[Path], digests: Sequence[str], cache_dir: Path, name: str, silent: bool | None = None
) -> "Dataset":
    """Decode files into one memory-mapped Dataset, or open the Dataset that an earlier run cached.

    The cache key is computed from the contents of the files and the settings of the decoder, not from paths.

    Args:
        paths, digests: the files and their `file_digest`s, in the order of the rows.
        cache_dir: folder of the cache; created if it does not exist.
        name: label of the progress bar and prefix of the cache file.
        silent: passed to the progress bar as `disable`.

    Returns:
        Dataset with a row per file: `waveform` (float32 list at 16 kHz; empty if the file cannot be used) and
        `problem` (the reason, or "").

    Raises:
        InputError: `cache_dir` is not writable or its disk is full. No partial file is left in it.
    """
    from datasets import Dataset

    entry = cache_dir / f"{name}-{_cache_key(digests)}.arrow"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        if not entry.exists():
            # The temporary folder and its content are removed if the disk becomes full.
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


def _cache_key(digests: Sequence[str]) -> str:
    """Return a hash of everything that determines the decoded waveforms."""
    settings = [DECODING_VERSION, SAMPLING_RATE, MIN_SECONDS, MAX_SECONDS, MIN_RATE, MAX_RATE]
    settings += [MAX_FILE_BYTES, MAX_PEAK, SILENCE_PEAK]
    libraries = [soundfile.__libsndfile_version__, soxr.__version__]
    return hashlib.sha256(json.dumps([settings, libraries, list(digests)]).encode()).hexdigest()[:32]


class Waveforms(Sequence):
    """The `waveform` column of a Dataset: `waveforms[row]` is a new NumPy array, float32 (num_samples,).

    Replaces the NumPy format of Datasets. Before 4.8.4, that format imports torchvision's video reader
    whenever torchvision is loaded, and torchvision 0.26 has none (huggingface/datasets#8085).
    """

    def __init__(self, dataset: "Dataset"):
        self._rows = dataset.select_columns("waveform").with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> np.ndarray:
        # A copy, since PyTorch warns about arrays that are not writable.
        return self._rows[int(row)]["waveform"][0].values.to_numpy(zero_copy_only=False, writable=True)


def _decode_all(paths: Sequence[Path], digests: Sequence[str]) -> Iterator[tuple[np.ndarray, str]]:
    """Yield (waveform, problem) of each file, while up to two further batches are decoded."""

    def decode(path: Path, digest: str) -> tuple[np.ndarray, str]:
        try:
            if not digest:
                raise AudioError("cannot be read: no permission, a failing disk, or no regular file")
            return read_waveform(path), ""
        except AudioError as error:
            return np.zeros(0, np.float32), str(error)

    # Threads suffice: libsndfile and soxr release Python's global lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        pending = collections.deque()
        for start in range(0, len(paths), BATCH_CLIPS):
            batch = slice(start, start + BATCH_CLIPS)
            pending.append(threads.map(decode, paths[batch], digests[batch]))
            if len(pending) > 2:
                yield from pending.popleft()
        for batch in pending:
            yield from batch


def _write_arrow(path: Path, decoded: Iterable[tuple[np.ndarray, str]]) -> None:
    """Write rows of `waveform` and `problem` in the format of `Dataset.from_file`, batch by batch."""
    import pyarrow
    from datasets import Features, List, Value

    schema = Features({"waveform": List(Value("float32")), "problem": Value("string")}).arrow_schema
    decoded = iter(decoded)
    buffer = np.empty(0, np.float32)  # reused: allocating new memory costs more than the copy
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
