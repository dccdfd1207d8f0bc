"""The input of one encoder layer for all clips of a corpus, in a memory-mapped file.

The file may be larger than memory. Several processes can fill it, and a killed pass can be resumed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Frames:
    """The input of one encoder layer for each clip: `frames[row]`, float32 (num_frames, hidden_size).

    Args:
        folder: for the files, about 0.5 MB per clip with an encoder of base size; created if missing.
        layer: index of the layer, 0 = the first.
        num_frames: number of frames of each clip.
        hidden_size: of the encoder.
    """

    def __init__(self, folder: Path, layer: int, num_frames: Sequence[int], hidden_size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.layer = layer
        self.ends = np.cumsum(num_frames)
        self.values = _open_memmap(folder / "frames.f32", (self.ends[-1], hidden_size), np.float32)
        self._is_filled = _open_memmap(folder / "done.u8", (len(self.ends),), np.uint8)

    def missing(self) -> list[int]:
        """Return the rows that are not filled yet."""
        return np.flatnonzero(self._is_filled == 0).tolist()

    def __setitem__(self, row: int, frames: np.ndarray) -> None:
        self.values[self._slice(row)] = frames
        self._is_filled[row] = 1

    def __getitem__(self, row: int) -> np.ndarray:
        return np.array(self.values[self._slice(row)])

    def _slice(self, row: int) -> slice:
        return slice(self.ends[row - 1] if row else 0, self.ends[row])


def _open_memmap(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Map a file; create it with zeros if it does not exist or has another size.

    Several processes may do this at once. `np.memmap` with mode "w+" would cut the file that another process
    has just created to length 0; setting the length of a new file does not.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        if path.stat().st_size not in (0, size):
            file.truncate(0)
        file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
