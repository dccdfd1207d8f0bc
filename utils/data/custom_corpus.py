"""Turn a folder of your own labelled recordings into a corpus.

The labels are read from a table in the folder (CSV, TSV or JSON Lines), with a row per clip:

    file,emotion,speaker
    anna/1.wav,angry,anna

or, as in the `audiofolder` format of Hugging Face Datasets, from one subfolder per emotion:

    angry/1.wav
"""

import codecs
import csv
import dataclasses
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.data.corpora import AUDIO_SUFFIXES, CORPORA, Clip, Corpus
from utils.data.labels import EMOTIONS, find_emotion
from utils.data.listing import describe_unused, list_files
from utils.data.speakers import join_corpora
from utils.runtime import InputError, first_line, logger, shorten

CUSTOM_LICENSE = "unknown"
"""License of a custom corpus; only its owner knows it."""

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Types of the table with the labels, in any case."""

COLUMNS = {
    "file": ("file", "file_name", "path", "filename"),
    "emotion": ("emotion", "label"),
    "speaker": ("speaker", "speaker_id"),
    "gender": ("gender", "sex"),
    "text": ("text", "sentence", "transcription"),
}
"""Column -> accepted names in the CSV file; `file` and `emotion` are required."""

NUM_PARTS = 5
"""The speakers are divided into so many parts: under `holdout`, one part is tested and one validates."""

UNKNOWN_SPEAKER = "unknown"
"""Speaker of clips without a speaker label. They count as one speaker, who is never in a test split."""

_GENDERS = {"f": "female", "m": "male", "female": "female", "male": "male", "woman": "female", "man": "male"}


def find_custom_corpora(
    option: str, folders: Sequence[Path], distinct_speakers: bool = False
) -> tuple[dict[str, list[Path]], dict[Path, Clip]]:
    """Read the labels of folders of recordings and add each folder to `CORPORA`.

    Args:
        option: the option that named the folders, for error messages.
        folders: folders of clips, with a table of labels or a subfolder per emotion.
        distinct_speakers: speakers with the same name in two folders are two people.

    Returns:
        files: corpus name -> its audio files, as returned by `download.find_corpora`.
        clips: file -> its labels.

    Raises:
        InputError: a folder or a file is missing, or no clip has a known emotion.
    """
    files, clips = {}, {}
    for folder in folders:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise InputError(f"{option} {folder}: expected a folder that exists; correct the path")
        slug = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
        name = f"custom-{slug or 'clips'}"
        if name in files:
            raise InputError(
                f"{option}: two folders have the name {name}, made of the letters a to z and digits of "
                f"'{folder.name}'; rename one of them"
            )
        listed = list_files([folder])
        labels, unknown = _read_table(option, folder, name) or _read_subfolders(option, folder, listed, name)
        _report_unknown_emotions(option, folder, labels, Counter(unknown.values()))
        used = set(map(_fold, labels | unknown))
        if unused := describe_unused(path for path in listed if _fold(path) not in used):
            logger.warning("%s: %s; convert them to WAV, or list them in the table of labels", folder, unused)
        speakers = sorted({clip.speaker.removeprefix(f"{name}-") for clip in labels.values()})
        logger.info("%s: %d clips by %s", folder, len(labels), shorten(speakers))
        files[name] = sorted(labels)
        clips |= labels
    clips = _merge_speakers(clips, distinct_speakers)
    known = [clip for clip in clips.values() if not clip.speaker.endswith(f"-{UNKNOWN_SPEAKER}")]
    samples = join_corpora([clip.corpus for clip in known], [clip.speaker for clip in known])
    sample_of = {clip.corpus: sample for clip, sample in zip(known, samples, strict=True)}
    for name, folder in zip(files, folders, strict=True):
        own = [clip for clip in clips.values() if clip.corpus == name]
        # Folders with common speakers are split together.
        speakers = {clip.speaker for clip in known if sample_of[clip.corpus] == sample_of.get(name)}
        CORPORA[name] = _make_corpus(name, Path(folder), own, sorted(speakers))
    return files, clips


def _merge_speakers(clips: dict[Path, Clip], distinct: bool) -> dict[Path, Clip]:
    """Return the clips with one speaker id for all ways of writing a name, in all folders or (`distinct`) in
    each, and log who was taken for one person."""
    first, spellings = {}, {}
    for path, clip in clips.items():
        name = clip.speaker.removeprefix(f"{clip.corpus}-")
        if name == UNKNOWN_SPEAKER:
            continue
        spelling = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()
        key = (clip.corpus if distinct else "", spelling)
        clips[path] = dataclasses.replace(clip, speaker=first.setdefault(key, clip.speaker))
        spellings.setdefault(key, {})[clip.speaker] = f"'{name}' of {clip.corpus}"
    same = [" and ".join(names.values()) for names in spellings.values() if len(names) > 1]
    if same:
        logger.info(
            "Taken for one person: %s. If equal names are different people: --distinct_speakers true",
            shorten(same),
        )
    return clips


def find_training_corpora(
    train_on: Sequence[str], evaluate_on: Sequence[str], distinct_speakers: bool = False
) -> tuple[dict[str, list[Path]], dict[Path, Clip]]:
    """Return the `find_custom_corpora` of --train_on, and check those of --evaluate_on before the training.

    Args:
        distinct_speakers: see `find_custom_corpora`.

    Raises:
        InputError: as `find_custom_corpora`, for either option; or a file is in both.
    """
    evaluated = {path.resolve() for path in find_custom_corpora("--evaluate_on", evaluate_on)[1]}
    files, clips = find_custom_corpora("--train_on", train_on, distinct_speakers)
    for path in clips:
        if path.resolve() in evaluated:
            raise InputError(f"--evaluate_on: {path} is among the clips of --train_on; name other clips")
    return files, clips


def _report_unknown_emotions(option: str, folder: Path, clips: dict, unknown: Counter) -> None:
    """Log the labels that are no emotion of the kit, with their numbers of clips, which are not used."""
    if not unknown:
        return
    labels = ", ".join(f"{number} '{label}'" for label, number in sorted(unknown.items()))
    known = f"known: {' '.join(EMOTIONS)}"
    if not clips:
        raise InputError(f"{option} {folder}: unknown emotions: {labels}; {known}")
    logger.warning("%s: left out are clips of unknown emotions: %s; %s", folder, labels, known)


def _read_table(option: str, folder: Path, corpus: str) -> tuple[dict[Path, Clip], dict[Path, str]] | None:
    """Return file -> clip and file -> unknown label, from the table in a folder; None without a table."""
    tables = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.name[0] != "."
    )
    if not tables:
        return None
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise InputError(f"{option} {folder}: expected one table with the labels, found {names}")
    table = tables[0]
    clips, unknown, without_speaker = {}, {}, None
    for number, values in enumerate(_read_rows(option, table), start=2):
        if not any(values.values()):  # Excel writes rows of separators alone
            continue
        where = f"{table}, line {number}"
        path = _find_file(folder, values["file"])
        if not path:
            raise InputError(f"{option}: {where}: there is no file '{values['file']}' in {folder}")
        if path in clips or path in unknown:
            raise InputError(f"{option}: {where}: '{values['file']}' is listed twice")
        if emotion := find_emotion(values["emotion"]):
            clips[path] = _make_clip(corpus, path.relative_to(folder), values, emotion)
        else:
            unknown[path] = values["emotion"]
        without_speaker = without_speaker or (where if not values["speaker"] else None)
    if not clips and not unknown:
        raise InputError(f"{option}: {table} lists no clip")
    if without_speaker and len({clip.speaker for clip in clips.values()}) > 1:
        raise InputError(
            f"{option}: {without_speaker}: has no speaker, while other rows have one; name the speaker of "
            "every row, so that no test speaker is in the training split, or remove the column"
        )
    return clips, unknown


def _find_file(folder: Path, name: str) -> Path | None:
    """Return the file with this name in a folder, or None.

    Names may have backslashes, and letters in another Unicode form than on the disk. A link counts as the
    place where it stands: the snapshots of a Hub cache consist of links.
    """
    for each in (name, name.replace("\\", "/")):
        for spelling in (each, *(unicodedata.normalize(form, each) for form in ("NFC", "NFD"))):
            is_inside = not Path(spelling).is_absolute() and ".." not in Path(spelling).parts
            if name and is_inside and (folder / spelling).is_file():
                return folder / spelling
    return None


def _fold(path: Path) -> str:
    """Return the same text for spellings of a path that are one file on some file systems."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _read_rows(option: str, table: Path) -> list[dict[str, str]]:
    """Return the rows of a table under the keys of `COLUMNS`; "" for missing columns and values.

    Raises:
        InputError: the file cannot be read, or lacks a required column.
    """
    try:
        content = table.read_bytes()
        encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        text = content.decode(encoding)
        if table.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            names = list(dict.fromkeys(name for row in rows for name in row))
            rows = [{name: str(value) for name, value in row.items()} for row in rows]
        else:
            head = text.partition("\n")[0]
            delimiter = max(",;\t", key=head.count)  # Excel writes what the country of the user has
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
            names, rows = reader.fieldnames or (), list(reader)
    except UnicodeDecodeError:
        raise InputError(f"{option}: {table} is not in UTF-8; save it as 'CSV UTF-8'") from None
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise InputError(f"{option}: {table} cannot be read ({first_line(error)})") from None
    columns = {(name or "").strip().lower(): name for name in names}
    known = {
        key: next((columns[name] for name in accepted if name in columns), None)
        for key, accepted in COLUMNS.items()
    }
    for key in ("file", "emotion"):
        if known[key] is None:
            raise InputError(
                f"{option}: {table} has no column '{key}', only {', '.join(columns) or 'nothing'}; "
                "expected file,emotion[,speaker][,gender][,text]"
            )
    return [
        {key: (row.get(column) or "").strip() if column else "" for key, column in known.items()}
        for row in rows
    ]


def _read_subfolders(
    option: str, folder: Path, files: Sequence[Path], corpus: str
) -> tuple[dict[Path, Clip], dict[Path, str]]:
    """Return file -> clip and file -> unknown label; the label is the name of the subfolder with the file."""
    clips, unknown = {}, {}
    for path in files:
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name[0] == ".":
            continue
        if len(parts) < 2:
            raise InputError(
                f"{option} {folder}: {path.name} has no label; expected a CSV file with file,emotion"
                "[,speaker] there, or a folder per emotion, e.g. angry/1.wav"
            )
        if emotion := find_emotion(parts[-2]):
            clips[path] = _make_clip(corpus, Path(*parts), {}, emotion)
        else:
            unknown[path] = parts[-2]
    if not clips and not unknown:
        unused = describe_unused(files)
        raise InputError(
            f"{option} {folder}: no clip was found{f' ({unused}; convert them to WAV)' if unused else ''}; "
            "expected a CSV file with file,emotion[,speaker], or a folder per emotion"
        )
    return clips, unknown


def _make_clip(corpus: str, name: Path, values: dict[str, str], emotion: str) -> Clip:
    clip = name.with_suffix("").as_posix()
    return Clip(
        clip=clip,
        corpus=corpus,
        speaker=f"{corpus}-{values.get('speaker') or UNKNOWN_SPEAKER}",
        gender=_GENDERS.get(values.get("gender", "").lower(), "unknown"),
        emotion=emotion,
        intensity="normal",
        text=values.get("text") or clip,
    )


def _make_corpus(name: str, folder: Path, clips: list[Clip], speakers: list[str]) -> Corpus:
    """Return the corpus of a folder; `speakers` are those of all folders that share some with it."""
    can_validate = len(speakers) >= 3  # of two speakers, one trains and the other is tested
    emotions = {clip.emotion for clip in clips}
    return Corpus(
        name=name,
        title=f"recordings '{folder.resolve().name}'",
        emotions=tuple(emotion for emotion in EMOTIONS if emotion in emotions),
        num_clips=len({clip.clip for clip in clips}),
        num_speakers=len({clip.speaker for clip in clips}),
        sampling_rate=0,
        license=CUSTOM_LICENSE,
        license_url="",
        citation="Recordings of whoever trained or evaluated this model; only their owner knows the terms.",
        homepage="",
        validation_speakers=tuple(speakers[1::NUM_PARTS]) if can_validate else (),
        test_speakers=tuple(speakers[0::NUM_PARTS]) if len(speakers) > 1 else (),
        folds=tuple(tuple(speakers[part::NUM_PARTS]) for part in range(min(NUM_PARTS, len(speakers)))),
    )
