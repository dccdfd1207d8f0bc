"""What several processes on one machine or on several must agree on: whose disk has what (PyTorch).

Machines may share a disk or not. Nothing is asked of the user: what a machine's disk lacks is sent to it.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Item = TypeVar("Item")


def one_disk(folder: Path) -> bool:
    """Say whether all processes see the same folder; all call it together.

    Args:
        folder: is made where there are several machines, and then looked into.
    """
    state = PartialState()
    if sum(gather_object([state.is_local_main_process])) == 1:
        return True
    mark = [secrets.token_hex(8)]
    broadcast_object_list(mark)
    path = folder / f".{mark[0]}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        path.touch()
    state.wait_for_everyone()
    # A list of the folder, for a network's disk may remember that a file was missing.
    seen = gather_object([path.name in os.listdir(folder)])  # noqa: PTH208 (no need of paths)
    if state.is_main_process:
        path.unlink()
    return all(seen)


def from_other_disks(items: Sequence[Item], have: Sequence[bool], read: Callable[[Item], object]) -> Iterator:
    """Yield `(item, what was read of it)` for what only another machine's disk has.

    All processes call it together, each with the same items, and all go through it to the end. Only the first
    process of a machine is given anything: it is to write it to its disk.

    Args:
        have: of each item whether this process's disk has it.
        read: returns what is to be sent of an item; it is called where the disk has it.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    have = np.asarray(have, dtype=bool)
    owned = np.stack(gather_object([have]))  # (num_processes, num_items)
    for number in np.flatnonzero(owned.any(axis=0) & ~owned.all(axis=0)):
        owner = int(owned[:, number].argmax())
        parcel = [read(items[number]) if state.process_index == owner else None]
        broadcast_object_list(parcel, from_process=owner)
        if state.is_local_main_process and not have[number]:
            yield items[number], parcel[0]
    state.wait_for_everyone()
