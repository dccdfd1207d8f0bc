"""Find the clips of corpora on this machine; unpack zips, and download what is missing."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath

import requests
from filelock import FileLock

from utils.data.corpora import AUDIO_SUFFIXES, CORPORA, LOSSY_SUFFIXES, Archive, Corpus, parse_clip
from utils.data.http import RETRY_WAITS, describe_error, download_archive, mirror_url
from utils.data.listing import describe_unused, list_files
from utils.data.unpack import folder_for, opened_zip, unpack
from utils.runtime import KAGGLE, PROJECT_ROOT, InputError, logger, unpublished_folder


@dataclass(frozen=True)
class _Places:
    """Where clips are searched.

    Attributes:
        data_dirs: the values of `--data_dir`.
        given: the files in `data_dirs`, listed once for all corpora, since network drives are slow.
        unused: which of them are no clips of the corpora, see `describe_unused`.
        project_data: the folder `data` of the project.
        data: where unpacked and downloaded clips are written.
        kaggle: root of the Kaggle folders.
    """

    data_dirs: list[Path]
    given: list[Path]
    unused: str
    project_data: Path
    data: Path
    kaggle: Path


def find_corpora(
    names: Sequence[str],
    data_dirs: Sequence[Path] = (),
    project_root: Path = PROJECT_ROOT,
    kaggle: Path = KAGGLE,
    archives: dict[str, Archive] | None = None,
    offline: bool = False,
    retry_waits: Sequence[float] = RETRY_WAITS,
) -> dict[str, list[Path]]:
    """Return corpus name -> the files of its clips, sorted, including copies.

    For each corpus, the first place that contains clips is used: `data_dirs`; `project_root/data` and the
    zips in both folders; the Kaggle inputs; a download. Unpacked and downloaded files are written to
    `project_root/data`, on Kaggle to its `runtime.unpublished_folder`.

    Args:
        names: keys of `CORPORA`.
        data_dirs: the values of `--data_dir`: folders, searched recursively, and zips.
        project_root: folder of the kit.
        kaggle: folder that contains `input`, `working` and `temp`.
        archives: corpus name -> archive to download; None: those of `CORPORA`.
        offline: do not download.
        retry_waits: see `http.download_archive`.

    Raises:
        InputError: a corpus was not found, or a `--data_dir`, a zip or a download is invalid.
    """
    places = _open_places(data_dirs, names, project_root, kaggle)
    found = {}
    for corpus in (CORPORA[name] for name in names):
        archive = corpus.archive if archives is None else archives.get(corpus.name)
        searched, clips = [], []
        for place, clips in _search_locally(corpus, places):
            searched.append(place)
            if clips:
                break
        if archive and not clips:
            place, clips = _search_online(corpus, archive, places.data, offline, retry_waits)
            searched.append(place)
        if not clips:
            raise InputError(_describe_failure(corpus, archive, searched, project_root))
        logger.info("%s: %d files from %s", corpus.title, len(clips), searched[-1])
        found[corpus.name] = clips
    return found


def _open_places(
    data_dirs: Sequence[Path], names: Sequence[str], project_root: Path, kaggle: Path
) -> _Places:
    """Check and list the data folders, and log what is in them and no clip of the named corpora.

    Raises:
        InputError: a `--data_dir` is neither a folder nor a zip.
    """
    data_dirs = [Path(place).expanduser() for place in data_dirs]
    for place in data_dirs:
        if not (place.is_dir() or (place.is_file() and place.suffix.lower() == ".zip")):
            raise InputError(f"--data_dir {place}: expected a folder or zip that exists; correct the path")
    given = list_files(data_dirs)
    unused = _describe_others(given, [CORPORA[name] for name in names])
    if unused:
        logger.warning(
            "--data_dir: %s. A clip of %s is used once, by its published name: convert other formats to WAV, "
            "and give other recordings with --train_on",
            unused,
            " or ".join(CORPORA[name].title for name in names),
        )
    data = project_root / "data"
    return _Places(data_dirs, given, unused, data, unpublished_folder(data, kaggle), kaggle)


def _describe_others(files: Sequence[Path], corpora: Sequence[Corpus]) -> str:
    """Return `describe_unused` of the files, and of the members of zips, that are no clips of the corpora."""
    files = _with_members(files)
    used = {clip for corpus in corpora for clip in _clips(files, corpus)}
    return describe_unused(file for file in files if file not in used)


def _search_locally(corpus: Corpus, places: _Places) -> Iterator[tuple[str, list[Path]]]:
    """Yield (description of a place, the clips of the corpus there), one place at a time."""
    data_dirs, data, project_data = places.data_dirs, places.data, places.project_data
    if data_dirs:
        place = f"--data_dir {' '.join(map(str, data_dirs))}"
        clips = _clips(places.given, corpus)
        clips = clips or _clips(list_files(_unpack_zips(places.given, corpus, data)), corpus)
        if not clips:
            logger.warning("%s: no clip in %s; searching elsewhere", corpus.title, place)
            place += f" ({places.unused})" if places.unused else ""
        yield place, clips
    files = list_files([project_data, data])
    clips = _clips(files, corpus)
    candidates = sorted([*project_data.parent.glob("*"), *project_data.glob("*")])
    if _unpack_zips(candidates, corpus, data, loose=clips):
        clips = _clips(list_files([project_data, data]), corpus)
    if not clips:
        _warn_of_other_formats([*files, *candidates], corpus)
    yield f"{project_data}, zips there and in {project_data.parent}", clips
    if corpus.kaggle:
        for mount in (corpus.kaggle.split("/")[1], f"datasets/{corpus.kaggle}"):
            place = places.kaggle / "input" / mount
            files = list_files([place])
            if not (clips := _clips(files, corpus)):
                _warn_of_other_formats(files, corpus)
            yield str(place), clips


def _warn_of_other_formats(files: Iterable[Path], corpus: Corpus) -> None:
    """Log how many files have the name of a clip of the corpus, and a suffix of no format that is read."""
    others = {path for path in _with_members(files) if path.suffix.lower() not in AUDIO_SUFFIXES}
    unused = describe_unused(path for path in sorted(others) if _clips([path.with_suffix(".wav")], corpus))
    if unused:
        logger.warning("%s: %s; convert them to WAV", corpus.title, unused)


def _search_online(
    corpus: Corpus, archive: Archive, data: Path, offline: bool, retry_waits: Sequence[float]
) -> tuple[str, list[Path]]:
    """Return (description of the download, the clips); no clips if the server cannot be reached.

    Raises:
        InputError: the download is invalid, or `data` is full or read-only.
    """
    place = mirror_url(archive.url)
    if offline:
        return f"{place} (skipped: offline)", []
    try:
        return place, _fetch(corpus, archive, data, retry_waits)
    except requests.RequestException as error:
        return f"{place} ({describe_error(error)})", []
    except OSError as error:  # after RequestException, which is an OSError too
        raise InputError(
            f"{data}: {corpus.title} cannot be kept there ({error.strerror}); make room, or give its "
            "clips with --data_dir"
        ) from error


def _fetch(corpus: Corpus, archive: Archive, data: Path, retry_waits: Sequence[float]) -> list[Path]:
    """Download and unpack an archive, unless another process has just done so; return its clips."""
    data.mkdir(parents=True, exist_ok=True)
    # The name does not end in .zip, so that it cannot be mistaken for a zip of the user, which is never
    # deleted.
    partial = data / f"{archive.filename}.partial"
    with FileLock(data / f".{archive.filename}.lock"):
        if clips := _clips(list_files([data]), corpus):
            return clips
        download_archive(archive, partial, retry_waits)
        folder = folder_for(partial, data / Path(archive.filename).stem)
        unpack(partial, folder)
        partial.unlink()
    return _clips(list_files([folder]), corpus)


def _describe_failure(
    corpus: Corpus, archive: Archive | None, searched: list[str], project_root: Path
) -> str:
    lines = [f"no clip of {corpus.title} was found. Searched:", *(f"- {place}" for place in searched)]
    lines += ["Possible solutions:", "- give --data_dir FOLDER_OR_ZIP"]
    if archive:
        lines.append(f"- download {mirror_url(archive.url)} by hand and put the zip into {project_root}")
    if corpus.kaggle:
        lines.append(f"- on Kaggle, add the dataset {corpus.kaggle}")
    return "\n".join([*lines, "- try the kit without data: --demo"])


def _clips(files: Iterable[PurePath], corpus: Corpus) -> list:
    """Return the clips of the corpus among files; of a clip in several formats not the lossy ones."""
    named = [(file, clip.clip) for file in files if (clip := parse_clip(file)) and clip.corpus == corpus.name]
    exact = {name for file, name in named if file.suffix.lower() not in LOSSY_SUFFIXES}
    return [file for file, name in named if name not in exact or file.suffix.lower() not in LOSSY_SUFFIXES]


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.name[0] != "."


def _with_members(files: Iterable[Path]) -> list[Path]:
    """Return the files and the members of the zips among them."""
    files = list(files)
    for path in filter(_is_zip, files[:]):
        with contextlib.suppress(InputError):  # raised where the zip is unpacked
            files += _members(path)
    return files


def _members(zip_path: Path) -> list[Path]:
    """Return the files in a zip, as paths below it."""
    with opened_zip(zip_path) as archive:
        return [
            zip_path / PureWindowsPath(name).as_posix() for name in archive.namelist() if name[-1:] != "/"
        ]


def _unpack_zips(files: list[Path], corpus: Corpus, data: Path, loose: Sequence[Path] = ()) -> list[Path]:
    """Unpack the zips among `files` that contain clips of the corpus; return the folders.

    A zip whose clips are all among the `loose` files is skipped, unless it was unpacked before.
    """
    folders = []
    for path in filter(_is_zip, files):
        names = {clip.name for clip in _clips(_members(path), corpus)}
        folder = folder_for(path, data / path.stem)
        if names and (folder.exists() or not names <= {clip.name for clip in loose}):
            unpack(path, folder)
            folders.append(folder)
    return folders
