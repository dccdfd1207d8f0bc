"""Download an archive over HTTP: retry, resume partial files, verify the checksum."""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import requests  # comes with librosa and evaluate; httpx comes with hub 1 only, hub 2 has httpx2
from tqdm import tqdm

from utils.data.corpora import Archive
from utils.data.unpack import require_space
from utils.runtime import InputError, logger

UNPACKED_PER_ZIP = 3  # growth of RAVDESS when it is unpacked
CHUNK_BYTES = 2**16  # at most this much is lost when a connection breaks
TIMEOUT_SECONDS = (10, 60)  # for the connection, and between two pieces of the body
RETRY_WAITS = (1, 2, 4, 8)  # seconds between requests that bring no new bytes
MAX_RETRY_AFTER = 120  # seconds


def download_archive(archive: Archive, path: Path, retry_waits: Sequence[float] = RETRY_WAITS) -> None:
    """Download an archive to `path`, resuming a partial file there, and verify its checksum.

    Args:
        archive: what to download.
        path: file to write; may hold the beginning of the archive.
        retry_waits: seconds between requests that bring no new bytes; after the last one the download fails.

    Raises:
        requests.RequestException: the server cannot be reached or refuses.
        InputError: the received file is not the published archive (`path` is deleted), or there is too little
            disk space.
    """
    url, algorithm, expected = mirror_url(archive.url), *archive.checksum.split(":")
    most, waits = _size(path), iter(retry_waits)
    require_space(path.parent, (1 + UNPACKED_PER_ZIP) * archive.num_bytes - most)
    logger.info("downloading %s (%.0f MB)", url, archive.num_bytes / 1e6)
    while _size(path) < archive.num_bytes:
        try:
            _receive(url, path, archive)
        except requests.RequestException as error:
            if _size(path) > most:
                most, waits = _size(path), iter(retry_waits)
            wait = next(waits, None)
            if wait is None or _is_refused(error):
                raise
            wait = _retry_after(error, wait)
            logger.info("%s; resuming at byte %d in %g s", describe_error(error), _size(path), wait)
            time.sleep(wait)
    with path.open("rb") as file:
        received = hashlib.file_digest(file, algorithm).hexdigest()
    if received != expected:
        path.unlink()
        raise InputError(
            f"{url}: expected {algorithm} {expected}, got {received}; the download was deleted. Run again, "
            f"or get {archive.filename} elsewhere and name it with --data_dir"
        )


def _receive(url: str, path: Path, archive: Archive) -> None:
    """Append the body of one request to `path`; start over if the server does not support ranges.

    Raises:
        requests.RequestException: the request failed or the body ended early; what arrived is kept.
        InputError: the server has more or fewer bytes than the archive; `path` is deleted.
    """
    start = _size(path)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416:  # the partial file is longer than the file on the server
            path.unlink(missing_ok=True)
        response.raise_for_status()
        if response.status_code != 206:
            start = 0
        length = response.headers.get("Content-Length", "")
        num_bytes = start + int(length) if length.isdecimal() else archive.num_bytes
        if num_bytes != archive.num_bytes:
            path.unlink(missing_ok=True)
            raise InputError(f"{url}: expected {archive.num_bytes} bytes, the server has {num_bytes}")
        in_bytes = {"total": num_bytes, "initial": start, "unit": "B", "unit_scale": True, "disable": None}
        with path.open("ab" if start else "wb") as file, tqdm(desc=archive.filename, **in_bytes) as progress:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                progress.update(len(chunk))
                if file.tell() > archive.num_bytes:  # a body without declared length may be endless
                    break
    if _size(path) > archive.num_bytes:
        path.unlink()
        raise InputError(f"{url}: expected {archive.num_bytes} bytes, the server sends more")
    if _size(path) < archive.num_bytes:
        raise requests.ConnectionError("the body ended too early")


def _is_refused(error: requests.RequestException) -> bool:
    """Whether the server answered with an error that a repetition would not change."""
    response = error.response  # None if there was no answer
    return response is not None and response.status_code < 500 and response.status_code not in (416, 429)


def _retry_after(error: requests.RequestException, default: float) -> float:
    """Return the seconds to wait that the server requests, up to `MAX_RETRY_AFTER`, or the default."""
    requested = "" if error.response is None else error.response.headers.get("Retry-After", "")
    return min(int(requested), MAX_RETRY_AFTER) if requested.isdigit() else default


def describe_error(error: requests.RequestException) -> str:
    """Return a short description of a failed request."""
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    return "no connection, or it was interrupted"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def mirror_url(url: str) -> str:
    """Return the address of a file on the Hugging Face Hub at the mirror HF_ENDPOINT; others unchanged."""
    hub = "https://huggingface.co/"
    mirror = os.environ.get("HF_ENDPOINT") or hub
    return f"{mirror.rstrip('/')}/{url.removeprefix(hub)}" if url.startswith(hub) else url
