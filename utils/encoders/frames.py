"""How many frames clips have comes in; a file goes out that holds what a layer is given of each clip.

It is mapped into memory, so it may be larger than that. Several processes fill it, a killed one goes on where
it was.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Frames:
    """What one layer of an encoder is given of each clip: `frames[row]`, float32 (num_frames, hidden_size).

    Args:
        folder: for the files; made where it is missing. About 0.5 MB per clip of a base encoder.
        layer: which one, 0 = the first.
        num_frames: of each clip.
        hidden_size: of the encoder.
    """

    def __init__(self, folder: Path, layer: int, num_frames: Sequence[int], hidden_size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.layer = layer
        self.ends = np.cumsum(num_frames)
        self.values = _open(folder / "frames.f32", (self.ends[-1], hidden_size), np.float32)
        self._done = _open(folder / "done.u8", (len(self.ends),), np.uint8)

    def missing(self) -> list[int]:
        """Return the rows that nobody has filled yet."""
        return np.flatnonzero(self._done == 0).tolist()

    def __setitem__(self, row: int, frames: np.ndarray) -> None:
        self.values[self._place(row)] = frames
        self._done[row] = 1

    def __getitem__(self, row: int) -> np.ndarray:
        return np.array(self.values[self._place(row)])

    def _place(self, row: int) -> slice:
        return slice(self.ends[row - 1] if row else 0, self.ends[row])


def _open(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Map a file, and make it, of zeros, where it is missing or another size."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    mode = "r+" if path.exists() and path.stat().st_size == size else "w+"
    return np.memmap(path, dtype, mode, shape=shape)
