"""List the files in folders, and say which of them a run does not use."""

import os
from collections import Counter
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path, PurePath

from utils.runtime import shorten

QUIET_SUFFIXES = (
    *("", ".txt", ".md", ".pdf", ".doc", ".docx", ".rtf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".svg"),
    *(".csv", ".tsv", ".json", ".jsonl", ".yaml", ".xml", ".xls", ".xlsx", ".lab", ".textgrid", ".npy"),
    *(".py", ".ipynb", ".log", ".lock", ".ini", ".db", ".zip"),
)
"""Suffixes of what often lies beside clips and holds no audio; zips are searched."""


def list_files(places: Iterable[Path]) -> list[Path]:
    """Return the files in `places` and in their subfolders, except hidden and partial folders."""
    files, visited = set(), set()  # as strings: comparing many paths is slow
    for place in places:
        if place.is_file():
            files.add(str(place))
        for folder, subfolders, names in os.walk(place, followlinks=True):
            if (real := os.path.realpath(folder)) in visited:  # circular links, or overlapping places
                subfolders.clear()
                continue
            visited.add(real)
            subfolders[:] = [name for name in subfolders if name[0] != "." and not name.endswith(".partial")]
            files.update(os.path.join(folder, name) for name in names)  # noqa: PTH118
    return sorted(map(Path, files), key=attrgetter("parts"))


def describe_unused(files: Iterable[PurePath]) -> str:
    """Return e.g. "not used: 12 .m4a, 3 .wav files, such as a/1.m4a", of files that a run does not use.

    Hidden files and those with `QUIET_SUFFIXES` do not count; "" if there are no others.
    """
    unused = [file for file in files if file.name[0] != "." and file.suffix.lower() not in QUIET_SUFFIXES]
    if not unused:
        return ""
    numbers = Counter(file.suffix.lower() for file in unused).most_common()
    kinds = shorten([f"{number:,} {suffix}" for suffix, number in numbers])
    example = next(file for file in unused if file.suffix.lower() == numbers[0][0])
    return f"not used: {kinds} file{'s' if len(unused) > 1 else ''}, such as {example}"
