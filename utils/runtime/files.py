"""Atomic writes."""

import json
import secrets
from pathlib import Path


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
