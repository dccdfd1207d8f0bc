"""Unpack the clips in a zip into a folder, completely or not at all.

Zips with unsafe members, and zip bombs, are rejected.
"""

import errno
import itertools
import json
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock
from tqdm import tqdm

from utils.data.corpora import parse_clip
from utils.runtime import InputError, write_json

MARKER = ".unpacked.json"  # in each folder made by `unpack`: the zip that it was unpacked from

MAX_UNPACKED_BYTES = 10**10
"""Limit per zip. The largest corpus unpacks to 0.6 GB; a zip may contain several corpora, and copies."""

MAX_RATIO = 100
"""Limit on the ratio of unpacked to zipped size. RAVDESS has 2.5, the most compressible corpus 6; deflated
zeros have 1,000, and zip bombs of overlapping members have no limit."""

# These are unpacked in small pieces; the piece size of other methods is set by the zip, up to gigabytes.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# Exceptions of Python's zip reader for damaged and malicious zips.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)


def folder_for(zip_path: Path, folder: Path) -> Path:
    """Return the folder for the content of a zip: `folder`, or folder-2 ... if that belongs to another zip.

    Kaggle names every download archive.zip, so different zips often want the same folder.
    """
    names = itertools.chain([folder.name], (f"{folder.name}-{number}" for number in itertools.count(2)))
    for candidate in map(folder.with_name, names):
        if not candidate.exists() or _origin(candidate).get("zip") == str(zip_path.resolve()):
            return candidate


def _origin(folder: Path) -> dict:
    marker = folder / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip for reading; errors of the reader become an `InputError` that names the zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:  # is a ValueError, which `_DAMAGE` contains
        raise
    except _DAMAGE as error:
        raise InputError(f"{path} cannot be unpacked ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return cause and remedy, as the end of a message."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room"
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.strerror}: {error.filename}; unpack it elsewhere and name the folder with --data_dir"
    return f"{error}; if it is damaged, download it again"


def unpack(zip_path: Path, destination: Path) -> None:
    """Extract the clips in a zip, and no other files, to `destination`, completely or not at all.

    A folder that was unpacked from the same state of the zip is kept; one from another state is replaced.

    Raises:
        InputError: the zip is damaged, unsafe or a bomb; `destination` exists and was not made by this
            function; or the disk is full or read-only.
    """
    try:
        _unpack(zip_path, destination)
    except OSError as error:
        raise InputError(f"{zip_path} cannot be unpacked to {destination} ({_reason(error)})") from error


def _unpack(zip_path: Path, destination: Path) -> None:
    status = zip_path.stat()
    origin = {"zip": str(zip_path.resolve()), "num_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    partial = destination.with_name(f"{destination.name}.partial")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(destination.with_name(f".{destination.name}.lock")):
        if destination.exists() and not _origin(destination):
            raise InputError(
                f"{destination} exists and was not unpacked from a zip: rename it, or {zip_path}"
            )
        if _origin(destination) == origin:
            return
        shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
        if destination.exists():  # outdated; renamed first, so that an interruption leaves no partial folder
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
    clips = _safe_clips(archive)
    num_bytes = sum(member.file_size for member in clips.values())
    zip_bytes = (
        Path(archive.filename).stat().st_size
    )  # the compressed sizes that members declare may be false
    if num_bytes > min(MAX_UNPACKED_BYTES, MAX_RATIO * zip_bytes):
        largest = max(clips.values(), key=lambda member: member.file_size)
        raise InputError(
            f"{archive.filename}: its {zip_bytes:,} bytes would grow to {num_bytes:,}, of which "
            f"{largest.file_size:,} are {largest.filename!r}; at most {MAX_UNPACKED_BYTES:,} and "
            f"{MAX_RATIO} times its size are unpacked: if you trust it, unpack it by hand"
        )
    folder.mkdir()
    require_space(folder.parent, num_bytes)
    for path, member in tqdm(clips.items(), desc=f"unpacking {Path(archive.filename).name}", disable=None):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            # "x": on some file systems different names denote the same file; no clip may replace another.
            with archive.open(member) as source, (folder / path).open("xb") as target:
                shutil.copyfileobj(source, target)  # zipfile stops at `file_size` bytes
                if target.tell() != member.file_size:
                    raise EOFError(f"{member.file_size:,} bytes declared, {target.tell():,} present")
        except _DAMAGE as error:
            raise InputError(
                f"{archive.filename}: its member {member.filename!r} cannot be unpacked ({_reason(error)})"
            ) from error


def _safe_clips(archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return path -> member of each clip in a zip.

    Raises:
        InputError: any member is unsafe.
    """
    clips = {}
    names = {}  # path in lower case and one Unicode form, as file systems may treat it -> name
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))  # some Windows tools write backslashes
        is_clip = parse_clip(path) is not None and not member.is_dir()
        fault = _find_fault(member, path, is_clip)
        folded = PurePosixPath(unicodedata.normalize("NFC", str(path)).casefold())
        if is_clip and folded in names:
            fault = f"has the same path as {names[folded]!r}"
        if fault:
            raise InputError(
                f"{archive.filename}: its member {member.filename!r} {fault}; nothing was unpacked: get the "
                "zip from another source"
            )
        if is_clip:
            names[folded] = member.filename
            clips[path] = member
    return clips


def _find_fault(member: zipfile.ZipInfo, path: PurePosixPath, is_clip: bool) -> str:
    """Return what is wrong with a member, or "". Any unsafe member makes the whole zip suspect."""
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(path).drive:
        return "would be written elsewhere"
    if "\0" in member.orig_filename:
        return "has a zero byte in its name, which may hide another name"
    # The upper 16 bits are the Unix file mode, or 0.
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if is_clip and any(parse_clip(parent) for parent in path.parents):
        return "is inside another clip"
    if is_clip and member.flag_bits & 1:
        return "is encrypted"
    if is_clip and member.compress_type not in METHODS:
        return "is neither stored nor deflated"
    return ""


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise an `InputError` if the disk of `folder` has fewer than `num_bytes` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"{folder}: {num_bytes / 1e6:.0f} MB are needed there and {free / 1e6:.0f} MB are free: make room"
        )
