"""The memory-mapped input of an encoder layer."""

import multiprocessing
from pathlib import Path

import numpy as np

from utils.encoders.frames import Frames

NUM_FILES = 400


def open_at_once(folder: Path, barrier, rank: int) -> None:
    """Open many new files at the same moments as the other processes, and fill the rows of this process."""
    for number in range(NUM_FILES):
        barrier.wait(20)
        frames = Frames(folder / str(number), 0, [3] * 100, 8)
        frames[rank] = np.full((3, 8), rank + 1)


def test_processes_that_create_the_file_at_once_all_write_to_it(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=open_at_once, args=(tmp_path, barrier, rank)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    for number in range(NUM_FILES):
        frames = Frames(tmp_path / str(number), 0, [3] * 100, 8)
        assert frames.missing() == list(range(3, 100))
        assert [frames[rank].mean() for rank in range(3)] == [1, 2, 3]


def test_a_file_of_another_size_is_emptied(tmp_path):
    Frames(tmp_path, 0, [2, 2], 4)[1] = np.ones((2, 4))
    assert Frames(tmp_path, 0, [2, 2], 4).missing() == [0]
    frames = Frames(tmp_path, 0, [2, 2, 2], 4)
    assert frames.missing() == [0, 1, 2] and not frames[1].any()
