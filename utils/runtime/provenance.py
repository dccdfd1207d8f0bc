"""What a report records about a run: commit, package versions, and its command without secrets and paths."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from utils.runtime.folders import PROJECT_ROOT


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Return `{"python": version, name: version, ...}` for installed packages."""
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in names}


def git_commit() -> str | None:
    """Return the commit of the project, followed by "-dirty" if tracked files have changed.

    Returns:
        None without git, or if the project is not a git repository of its own.
    """
    git = ["git", "-C", str(PROJECT_ROOT)]
    try:
        root, commit, *_ = subprocess.run(
            [*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or downloaded without .git
    if Path(root).resolve() != PROJECT_ROOT:
        return None  # unpacked inside another repository
    return commit + ("-dirty" if changes else "")


def without_secrets_and_paths(value):
    """Return a copy of plain JSON data that can be published.

    Absolute paths become `/path/to/<last part>`, and the values of keys that end in "token" `<hidden>`.
    """
    if isinstance(value, dict):
        return {
            key: "<hidden>" if _is_secret(key) and item else without_secrets_and_paths(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets_and_paths(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return f"/path/to/{Path(value).name}"
    return value


def published_command(launcher: str, arguments: Sequence[str]) -> str:
    """Return a command line without tokens and absolute paths.

    Args:
        launcher: e.g. "python train_cnn.py".
        arguments: of the command.
    """
    shown = []
    hide_next = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if hide_next:
            shown.append("<hidden>")
        elif equals and option.startswith("-"):
            shown.append(f"{option}={'<hidden>' if _is_secret(option) else without_secrets_and_paths(value)}")
        else:
            shown.append(without_secrets_and_paths(argument))
        hide_next = _is_secret(argument) and not equals and argument.startswith("-")
    return f"{launcher} {shlex.join(shown)}".strip()


def _is_secret(name: str) -> bool:
    return str(name).lower().endswith("token")
