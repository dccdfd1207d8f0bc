"""The files in which layer means are cached: digests of clips -> float32 (num_states, hidden_size)."""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.runtime import write_bytes


def write_shard(folder: Path, shard: dict[str, np.ndarray]) -> None:
    """Write the means of some clips to a file of their own; its name depends on their digests."""
    buffer = io.BytesIO()
    np.savez(buffer, digests=np.array(list(shard)), means=np.stack(list(shard.values())))
    name = hashlib.sha256("".join(shard).encode()).hexdigest()[:32]
    write_bytes(folder / f"{name}.npz", buffer.getvalue())


def cached_digests(folder: Path) -> set[str]:
    """Return the digests of all clips in the cache."""
    return {digest for digests, _ in _read_shards(folder) for digest in digests}


def map_means(folder: Path, digests: Sequence[str]) -> np.memmap:
    """Return the means of clips, in their order, in a memory-mapped temporary file beside the shards.

    Args:
        folder: of the cache.
        digests: of the clips; all must be in the cache.

    Returns:
        float32 (num_clips, num_states, hidden_size).
    """
    rows_of = {}
    for row, digest in enumerate(digests):
        rows_of.setdefault(digest, []).append(row)
    means = None
    for shard_digests, shard in _read_shards(folder):
        if not any(digest in rows_of for digest in shard_digests):
            continue
        values = shard["means"]
        if means is None:
            with tempfile.TemporaryFile(dir=folder) as file:
                means = np.memmap(file, np.float32, "w+", shape=(len(digests), *values.shape[1:]))
        for digest, clip_means in zip(shard_digests, values, strict=True):
            means[rows_of.pop(digest, [])] = clip_means
    assert not rows_of, "clips without cached means"
    return means


def _read_shards(folder: Path) -> Iterator[tuple[list[str], np.lib.npyio.NpzFile]]:
    """Yield the digests in each shard and the open file; numpy reads its means only on access."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as shard:
            yield shard["digests"].tolist(), shard
