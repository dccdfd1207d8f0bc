"""What all scripts need: errors for users, logging, options in files, tokens, folders, and atomic writes.

All other modules may import it. It imports none of the packages, and re-exports `devices` and `provenance`.
"""

import errno
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from utils.devices import check_gpu, describe_device, gpu_is_served  # noqa: F401
from utils.provenance import (  # noqa: F401
    PROJECT_ROOT,
    git_commit,
    package_versions,
    published_command,
    without_secrets_and_paths,
)

T = TypeVar("T")

KAGGLE = Path("/kaggle")
"""On Kaggle: `input` has attached datasets, `working` is published with the notebook, `temp` is not kept."""

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


def read_options(path: Path) -> list[str]:
    """Return the options in a YAML or JSON file as command-line arguments, for the parser of the script.

    Raises:
        InputError: the file cannot be read, or has no option names with values.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        options = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as options ({first_line(error)})") from None
    if not isinstance(options, dict):
        raise InputError(f"{path}: expected option names with values, got {type(options).__name__}")
    arguments = []
    for name, value in options.items():
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, (dict, bool)) else value}")
    return arguments


def hub_token() -> str | None:
    """Return the token for the Hub, from HF_TOKEN, `hf auth login`, or the secrets of Colab or Kaggle."""
    from huggingface_hub import get_token

    token = get_token()  # reads Colab's secrets too, only in the process of the notebook
    if token is None and "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        from kaggle_secrets import UserSecretsClient

        try:
            token = UserSecretsClient().get_secret("HF_TOKEN")
        except Exception as error:  # its exceptions are not public: no such secret, no network
            logger.info("The Kaggle secret HF_TOKEN cannot be read (%s)", first_line(error))
    return token


def first_line(error: Exception) -> str:
    """Return the first line of the message of an exception, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unpublished_folder(folder: Path, kaggle: Path = KAGGLE) -> Path:
    """Return the folder to use for recordings instead of `folder`: the same one, except on Kaggle.

    Kaggle publishes /kaggle/working with the notebook. The licences of the corpora do not allow this for
    recordings (TESS: no derivatives), so they are stored in the folder of the same name in /kaggle/temp.

    Args:
        folder: where the recordings would be stored.
        kaggle: the root of Kaggle's folders.
    """
    resolved, working = folder.resolve(), (kaggle / "working").resolve()
    if resolved.is_relative_to(working):
        return kaggle / "temp" / resolved.relative_to(working)
    return folder


def cache_folder() -> Path:
    """Return the folder for decoded audio, in the cache of Hugging Face Datasets (see HF_HOME)."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "speech-emotion"


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically (see `write_bytes`)."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new one, never a part.

    The temporary file has a random name, so several processes or threads can write the same file.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    """Write indented JSON, atomically.

    Raises:
        ValueError: `value` contains NaN or infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
