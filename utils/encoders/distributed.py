"""What one of several processes knows or has on its disk comes in; all of them know it, or have it on theirs.

Machines may share a disk or not, and nothing is asked of the user: what a machine's disk lacks is sent to it.
All processes call these functions together (PyTorch); one that is alone gets its own answer.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object

from utils.runtime import write_bytes

T = TypeVar("T")


def broadcast_from_main(value: T) -> T:
    """Return the value that the first of all processes has."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def shares_disk_with_main(folder: Path) -> bool:
    """Say whether this process sees the folder that the first of all processes sees under that name.

    Args:
        folder: is made where there are several machines, and then looked into.
    """
    state = PartialState()
    if sum(gather_object([state.is_local_main_process])) == 1:
        return True  # one machine
    name = broadcast_from_main(f".{secrets.token_hex(8)}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        (folder / name).touch()
    state.wait_for_everyone()
    # A list of the folder, for a disk in the network may remember that a file was missing.
    seen = name in os.listdir(folder)  # noqa: PTH208
    state.wait_for_everyone()
    if state.is_main_process:
        (folder / name).unlink()
    return seen


def receive_from_other_machines(
    items: Sequence[T], have: Sequence[bool], read: Callable[[T], object]
) -> Iterator:
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


def ensure_local(folder: Path, here: Path, shared: bool) -> Path:
    """Return a folder on this machine's disk with the files that the first process has in `folder`.

    Args:
        here: where they are put on machines that do not see that folder.
        shared: what `shares_disk_with_main` said of it.

    Returns:
        `folder` where it is `shared`, else `here`.
    """
    PartialState().wait_for_everyone()
    names = broadcast_from_main([path.name for path in folder.glob("*") if path.is_file()])
    missing = receive_from_other_machines(
        names, [shared] * len(names), lambda name: (folder / name).read_bytes()
    )
    for name, content in missing:
        here.mkdir(parents=True, exist_ok=True)
        write_bytes(here / name, content)
    return folder if shared else here


def broadcast_weights(model: torch.nn.Module) -> None:
    """Give all processes the trained weights of the first: the best ones are loaded from its disk."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            broadcast(parameter.data)
