"""Corpus names and places to look in come in; per corpus the paths of its clips go out.

On the way zips are unpacked, and what is nowhere on this machine is downloaded and verified.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path, PurePath, PureWindowsPath

import requests  # hub 1 brings httpx, hub 2 httpx2; this one comes with librosa and evaluate everywhere
from filelock import FileLock
from tqdm import tqdm

from utils.data.corpora import AUDIO_SUFFIXES, CORPORA, Archive, Corpus, parse_clip
from utils.data.unpack import folder_for, opened_zip, require_space, unpack
from utils.runtime import KAGGLE, PROJECT_ROOT, InputError, logger, unpublished_folder

UNPACKED_PER_ZIP = 3  # RAVDESS grows that much
CHUNK_BYTES = 2**16  # at most so much is lost when a connection is cut
TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces of the body
RETRY_WAITS = (1, 2, 4, 8)  # seconds between requests that bring nothing new
MAX_RETRY_AFTER = 120  # seconds


def find_corpora(
    names: Sequence[str],
    data_dirs: Sequence[Path] = (),
    project_root: Path = PROJECT_ROOT,
    kaggle: Path = KAGGLE,
    archives: dict[str, Archive] | None = None,
    offline: bool = False,
    retry_waits: Sequence[float] = RETRY_WAITS,
) -> dict[str, list[Path]]:
    """Return corpus name -> the files of its clips, sorted, copies included.

    Per corpus the first place that has any is used: `data_dirs`; `project_root/data` and the zips in both
    folders; the Kaggle mounts; the network. What is unpacked and downloaded goes to `project_root/data`, on
    Kaggle to the `runtime.unpublished_folder` for it.

    Args:
        names: keys of `CORPORA`.
        data_dirs: the values of `--data_dir`: folders, searched at any depth, and zips.
        kaggle: has the folders `input`, `working` and `temp`.
        archives: corpus name -> what to download; None means those of `CORPORA`.
        retry_waits: seconds between requests that bring nothing new; after the last of them, give up.

    Raises:
        InputError: a corpus is nowhere to be had, or a `--data_dir`, a zip or a download is unsound.
    """
    data_dirs = [Path(place).expanduser() for place in data_dirs]
    for place in data_dirs:
        if not (place.is_dir() or (place.is_file() and place.suffix.lower() == ".zip")):
            raise InputError(f"--data_dir {place}: expected a folder or zip that exists; correct the path")
    given = _files(data_dirs)  # listed once for all corpora: mounted drives are slow
    loose, data = project_root / "data", unpublished_folder(project_root / "data", kaggle)
    found = {}
    for corpus in (CORPORA[name] for name in names):
        archive = corpus.archive if archives is None else archives.get(corpus.name)
        searched = []
        for place, clips in _local_places(corpus, data_dirs, given, loose, data, kaggle):
            searched.append(place)
            if clips:
                break
            if data_dirs and len(searched) == 1:
                searched[0] += _strangers(given)
        if archive and not clips:
            searched.append(_mirrored(archive.url) + " (left out: offline)" * offline)
            try:
                clips = [] if offline else _fetch(corpus, archive, data, retry_waits)
            except requests.RequestException as error:
                searched[-1] += f" ({_reason(error)})"
            except OSError as error:  # those of requests are OSErrors, too
                raise InputError(
                    f"{data}: {corpus.title} cannot be kept there ({error.strerror}); make room, or give its "
                    "clips with --data_dir"
                ) from error
        if not clips:
            raise InputError(_nothing_found(corpus, archive, searched, project_root))
        logger.info("%s: %d files from %s", corpus.title, len(clips), searched[-1])
        found[corpus.name] = clips
    return found


def _local_places(
    corpus: Corpus, data_dirs: list[Path], given: list[Path], loose: Path, data: Path, kaggle: Path
) -> Iterator[tuple[str, list[Path]]]:
    """Yield (a place, the clips of the corpus there). A place is not touched before its turn."""
    if data_dirs:
        place = f"--data_dir {' '.join(map(str, data_dirs))}"
        clips = _clips(given, corpus) or _clips(_files(_unpack_zips(given, corpus, data)), corpus)
        if not clips:
            logger.warning("%s: no clip in %s; looking elsewhere", corpus.title, place)
        yield place, clips
    clips = _clips(_files([loose, data]), corpus)
    if _unpack_zips(sorted([*loose.parent.glob("*"), *loose.glob("*")]), corpus, data, loose=clips):
        clips = _clips(_files([loose, data]), corpus)
    yield f"{loose}, zips there and in {loose.parent}", clips
    if corpus.kaggle:
        for mount in (corpus.kaggle.split("/")[1], f"datasets/{corpus.kaggle}"):
            place = kaggle / "input" / mount
            yield str(place), _clips(_files([place]), corpus)


def _strangers(files: list[Path]) -> str:
    """Say how many audio files there are that are called like no clip of any corpus."""
    audio = [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES and file.name[0] != "."]
    names = [file.name for file in audio if not parse_clip(file)]
    return f" ({len(names)} audio files there have names of no corpus, as {names[0]})" if names else ""


def _fetch(corpus: Corpus, archive: Archive, data: Path, retry_waits: Sequence[float]) -> list[Path]:
    data.mkdir(parents=True, exist_ok=True)
    # Never called .zip, so that nobody takes it for a zip of the user's, which would have to stay.
    partial = data / f"{archive.filename}.partial"
    with FileLock(data / f".{archive.filename}.lock"):
        if clips := _clips(_files([data]), corpus):  # another process has just fetched them
            return clips
        download(archive, partial, retry_waits)
        folder = folder_for(partial, data / Path(archive.filename).stem)
        unpack(partial, folder)
        partial.unlink()
    return _clips(_files([folder]), corpus)


def _nothing_found(corpus: Corpus, archive: Archive | None, searched: list[str], project_root: Path) -> str:
    lines = [f"no clip of {corpus.title} was found. Searched:", *(f"- {place}" for place in searched)]
    lines += ["Any of these helps:", "- give --data_dir FOLDER_OR_ZIP"]
    if archive:
        lines.append(f"- download {_mirrored(archive.url)} by hand and put the zip into {project_root}")
    if corpus.kaggle:
        lines.append(f"- on Kaggle, add the dataset {corpus.kaggle}")
    return "\n".join([*lines, "- try things out without data: --demo"])


def _files(places: Iterable[Path]) -> list[Path]:
    """Return these files and all files in these folders, except in hidden and in partial folders."""
    files, seen = set(), set()  # as text, which is faster: there may be many
    for place in places:
        if place.is_file():
            files.add(str(place))
        for folder, subfolders, names in os.walk(place, followlinks=True):
            if (real := os.path.realpath(folder)) in seen:  # links in a circle, or overlapping places
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = [name for name in subfolders if name[0] != "." and not name.endswith(".partial")]
            files.update(os.path.join(folder, name) for name in names)  # noqa: PTH118
    return sorted(map(Path, files), key=attrgetter("parts"))


def _clips(files: Iterable[PurePath], corpus: Corpus) -> list:
    return [file for file in files if (clip := parse_clip(file)) and clip.corpus == corpus.name]


def _unpack_zips(files: list[Path], corpus: Corpus, data: Path, loose: Sequence[Path] = ()) -> list[Path]:
    """Unpack the zips among `files` that have clips beyond the `loose` ones; return their folders."""
    folders = []
    for path in files:
        if path.suffix.lower() != ".zip" or path.name[0] == ".":
            continue
        with opened_zip(path) as archive:
            names = {clip.name for clip in _clips(map(PureWindowsPath, archive.namelist()), corpus)}
        folder = folder_for(path, data / path.stem)
        if names and (folder.exists() or not names <= {clip.name for clip in loose}):
            unpack(path, folder)
            folders.append(folder)
    return folders


def download(archive: Archive, path: Path, retry_waits: Sequence[float] = RETRY_WAITS) -> None:
    """Complete the file at `path`, of which a part may be there already, and verify it.

    Raises:
        requests.RequestException: the server cannot be reached or refuses.
        InputError: what it sent is not the published archive (`path` is deleted), or the disk is full.
    """
    url, algorithm, expected = _mirrored(archive.url), *archive.checksum.split(":")
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
            answer = error.response  # None when there was none
            refused = answer is not None and answer.status_code < 500 and answer.status_code not in (416, 429)
            if wait is None or refused:
                raise
            if answer is not None and (asked := answer.headers.get("Retry-After", "")).isdigit():
                wait = min(int(asked), MAX_RETRY_AFTER)
            logger.info("%s; going on from byte %d in %g s", _reason(error), _size(path), wait)
            time.sleep(wait)
    with path.open("rb") as file:
        got = hashlib.file_digest(file, algorithm).hexdigest()
    if got != expected:
        path.unlink()
        raise InputError(
            f"{url}: expected {algorithm} {expected}, got {got}; the download was deleted. Run again, or get "
            f"{archive.filename} elsewhere and name it with --data_dir"
        )


def _receive(url: str, path: Path, archive: Archive) -> None:
    """Append to `path` what one request brings; start over if the server does not resume."""
    start = _size(path)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416:  # what is here is longer than what is there
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
                if file.tell() > archive.num_bytes:  # a body without a length may go on for ever
                    break
    if _size(path) > archive.num_bytes:
        path.unlink()
        raise InputError(f"{url}: expected {archive.num_bytes} bytes, the server sends more")
    if _size(path) < archive.num_bytes:
        raise requests.ConnectionError("the body ended too early")


def _reason(error: requests.RequestException) -> str:
    """Return in a few words what `requests` says in paragraphs."""
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    return "no connection, or one that was cut"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mirrored(url: str) -> str:
    hub = "https://huggingface.co/"
    mirror = os.environ.get("HF_ENDPOINT") or hub
    return f"{mirror.rstrip('/')}/{url.removeprefix(hub)}" if url.startswith(hub) else url
