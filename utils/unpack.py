"""A zip comes in; a folder with the clips in it, whole or not at all, goes out."""

import itertools
import json
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock
from tqdm import tqdm

from utils.corpora import parse_clip
from utils.runtime import InputError, write_json

MARKER = ".unpacked.json"  # in each folder made by `unpack`: from which zip it came


def folder_for(zip_path: Path, folder: Path) -> Path:
    """Return `folder`, or folder-2 ... if it is another's: Kaggle calls every download archive.zip."""
    names = itertools.chain([folder.name], (f"{folder.name}-{number}" for number in itertools.count(2)))
    for candidate in map(folder.with_name, names):
        if not candidate.exists() or _origin(candidate).get("zip") == str(zip_path.resolve()):
            return candidate


def _origin(folder: Path) -> dict:
    marker = folder / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:  # a ValueError, too
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}); if it is damaged, get it anew") from error


def unpack(zip_path: Path, destination: Path) -> None:
    """Extract the clips in a zip, and only those, to `destination`, which appears whole or not at all.

    What was unpacked from the same state of the zip stays; what came from another state is replaced.

    Raises:
        InputError: the zip is damaged or unsafe, `destination` is not ours, or the disk is full.
    """
    status = zip_path.stat()
    origin = {"zip": str(zip_path.resolve()), "num_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    partial = destination.with_name(f"{destination.name}.partial")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(destination.with_name(f".{destination.name}.lock")):
        if destination.exists() and not _origin(destination):
            raise InputError(f"{destination} is in the way of {zip_path}: rename one of them")
        if _origin(destination) == origin:
            return
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        if destination.exists():  # outdated; renamed first, so that a kill leaves no half of it
            destination.replace(partial)
            shutil.rmtree(partial)
        try:
            with opened_zip(zip_path) as archive:
                _extract_clips(archive, partial)
            write_json(partial / MARKER, origin)
            partial.replace(destination)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _extract_clips(archive: zipfile.ZipFile, folder: Path) -> None:
    clips = []
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))  # some Windows tools write backslashes
        astray = path.is_absolute() or ".." in path.parts or PureWindowsPath(path).drive
        if astray or stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(
                f"{archive.filename}: its member {member.filename} would be written elsewhere or is a link; "
                "nothing of such a zip is unpacked: get it from another source"
            )
        if parse_clip(path) and not member.is_dir():
            clips.append((member, folder / path))
    folder.mkdir()
    require_space(folder.parent, sum(member.file_size for member, _ in clips))
    for member, path in tqdm(clips, desc=f"unpacking {Path(archive.filename).name}", disable=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)


def require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"{folder}: {num_bytes / 1e6:.0f} MB are needed there and {free / 1e6:.0f} MB are free: make room"
        )
