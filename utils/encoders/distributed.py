"""Share values, files and weights between the processes of a distributed run (PyTorch, accelerate).

Machines may or may not share a file system; the user does not have to say which. Files that a machine lacks
are sent to it. All processes must call these functions together; a single process may call them too.
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
    """Return the value of the main process in all processes."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def shares_disk_with_main(folder: Path) -> bool:
    """Return whether `folder` is the same directory in this process and in the main process.

    Args:
        folder: with several machines, it is created and a temporary file is written to it.
    """
    state = PartialState()
    num_machines = sum(gather_object([state.is_local_main_process]))
    if num_machines == 1:
        return True
    name = broadcast_from_main(f".{secrets.token_hex(8)}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        (folder / name).touch()
    state.wait_for_everyone()
    # List the directory: a network file system may have cached that the file does not exist.
    is_shared = name in os.listdir(folder)  # noqa: PTH208
    state.wait_for_everyone()
    if state.is_main_process:
        (folder / name).unlink()
    return is_shared


def receive_from_other_machines(
    items: Sequence[T], is_local: Sequence[bool], read: Callable[[T], object]
) -> Iterator:
    """Yield `(item, content)` for each item that only another machine has on its disk.

    All processes must call it with the same items and must exhaust the iterator. It yields only in the first
    process of each machine, which is expected to write the content to its disk.

    Args:
        items: what the machines may have on their disks, e.g. file names.
        is_local: for each item, whether it is on the disk of this process.
        read: returns the content of an item; called only for items on the disk of the calling process.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    is_local = np.asarray(is_local, dtype=bool)
    is_available = np.stack(gather_object([is_local]))  # (num_processes, num_items)
    for number in np.flatnonzero(is_available.any(axis=0) & ~is_available.all(axis=0)):
        sender = int(is_available[:, number].argmax())
        content = [read(items[number]) if state.process_index == sender else None]
        broadcast_object_list(content, from_process=sender)
        if state.is_local_main_process and not is_local[number]:
            yield items[number], content[0]
    state.wait_for_everyone()


def ensure_local(folder: Path, here: Path, shared: bool) -> Path:
    """Return a folder on the disk of this machine with the files that the main process has in `folder`.

    Args:
        folder: of the main process.
        here: where the files are written on machines without access to that folder.
        shared: the result of `shares_disk_with_main` for it.

    Returns:
        `folder` if it is `shared`, otherwise `here`.
    """
    PartialState().wait_for_everyone()
    names = broadcast_from_main([path.name for path in folder.glob("*") if path.is_file()])
    received = receive_from_other_machines(
        names, [shared] * len(names), lambda name: (folder / name).read_bytes()
    )
    for name, content in received:
        here.mkdir(parents=True, exist_ok=True)
        write_bytes(here / name, content)
    return folder if shared else here


def broadcast_weights(model: torch.nn.Module) -> None:
    """Copy the trainable weights of the main process to all processes.

    After training, the Trainer loads the best checkpoint from the disk of the main process.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            broadcast(parameter.data)
