"""How a script ends: errors for users in one line, logging."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger("speech-emotion")

DISK_TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors that a user can fix: the disk is full, or must not be written to."""


class InputError(ValueError):
    """An error that the user can fix, in an option, a file or the data. Scripts print it as one line."""


def is_main_process() -> bool:
    """Return whether this is the process that writes and prints: the only one, or the one with rank 0."""
    return int(os.environ.get("RANK", 0)) == 0


def run_script(main: Callable[..., T], *args: object) -> T:
    """Call the main function of a script, with logging and one-line errors.

    An `InputError` or a full disk is printed as one line and ends the script with exit code 2, Ctrl-C with
    130.

    Args:
        main: the function.
        args: its arguments.

    Returns:
        the result of `main`.
    """
    # A notebook sets its own backend, which scripts inherit but may not be able to import.
    os.environ["MPLBACKEND"] = "agg"
    level, level_of_libraries = logging.INFO, logging.WARNING
    if not is_main_process():
        level = level_of_libraries = logging.ERROR
    logging.basicConfig(level=level_of_libraries, format="%(message)s", stream=sys.stdout)
    logger.setLevel(level)
    try:
        return main(*args)
    except InputError as error:
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # one line per machine
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK_TROUBLES:
            raise
        reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"error: {reason}; make room, or name another folder", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if is_main_process():
            print("\nInterrupted. All finished steps are saved.", file=sys.stderr)
        sys.exit(130)


@contextmanager
def interruptible() -> Iterator[None]:
    """If the user interrupts the training inside, log how to continue it."""
    try:
        yield
    except KeyboardInterrupt:
        logger.info("\nThe same command with --resume_from_checkpoint true continues from the last epoch.")
        raise


def refuse_arguments(message: str) -> None:
    """Raise InputError; replaces `ArgumentParser.error`, which prints hundreds of lines of usage."""
    raise InputError(f"{message}; --help lists the options")


def shorten(names: Sequence[str], limit: int = 12) -> str:
    """Return a list of names as text, with the number of those beyond the limit."""
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


def first_line(error: Exception) -> str:
    """Return the first line of the message of an exception, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
