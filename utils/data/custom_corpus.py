"""A folder of somebody's own labelled clips comes in; a corpus like the others goes out.

The labels stand in a CSV file in the folder, with a row per clip:

    file,emotion,speaker
    anna/1.wav,angry,anna

or each emotion has a folder of its own, as `audiofolder` of Hugging Face Datasets has them:

    angry/1.wav
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from utils.data.corpora import AUDIO_SUFFIXES, CORPORA, Clip, Corpus
from utils.data.labels import EMOTIONS, find_emotion
from utils.runtime import InputError, first_line, logger

CUSTOM_SUFFIXES = (*AUDIO_SUFFIXES, ".mp3", ".ogg", ".opus")
"""What custom clips may be; the published corpora have none of the last three."""

CUSTOM_LICENSE = "unknown"
"""Of custom clips: only their owner knows it."""

COLUMNS = {
    "file": ("file", "file_name", "path", "filename"),
    "emotion": ("emotion", "label"),
    "speaker": ("speaker", "speaker_id"),
    "gender": ("gender", "sex"),
    "text": ("text", "sentence", "transcription"),
}
"""What a column may be called; the first two are needed."""

NUM_PARTS = 5
"""Of the speakers of one's own corpus a fifth is tested under `holdout`, and a fifth validates."""

UNKNOWN_SPEAKER = "unknown"
"""Who speaks where nobody says so: all such clips are taken to be of one voice, which is never tested."""

_GENDERS = {"f": "female", "m": "male", "female": "female", "male": "male", "woman": "female", "man": "male"}


def find_custom_corpora(
    option: str, folders: Sequence[Path]
) -> tuple[dict[str, list[Path]], dict[Path, Clip]]:
    """Take in folders of own clips; `CORPORA` knows each of them from then on.

    Args:
        option: the option that named the folders, for errors.
        folders: of clips, with a CSV file or a folder per emotion.

    Returns:
        files: corpus name -> its audio files, as `download.find_corpora` returns them.
        clips: file -> what its label says.

    Raises:
        InputError: a folder or a file is missing, or a label is none of `EMOTIONS`.
    """
    files, clips = {}, {}
    for folder in folders:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise InputError(f"{option} {folder}: expected a folder that exists; correct the path")
        name = "own-" + (re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "clips")
        if name in files:
            raise InputError(f"{option}: two folders are called {folder.name}; rename one of them")
        labels = _from_csv(option, folder, name) or _from_folders(option, folder, name)
        CORPORA[name] = _as_corpus(name, folder, list(labels.values()))
        speakers = sorted({clip.speaker.removeprefix(f"{name}-") for clip in labels.values()})
        logger.info("%s: %d clips by %s", folder, len(labels), ", ".join(speakers[:12]))
        files[name] = sorted(labels)
        clips |= labels
    return files, clips


def find_training_corpora(
    train_on: Sequence[str], evaluate_on: Sequence[str]
) -> tuple[dict[str, list[Path]], dict[Path, Clip]]:
    """Return the `find_custom_corpora` of --train_on.

    Raises:
        InputError: theirs, and those of --evaluate_on, so that a mistake is known before the training; or a
            file is in both.
    """
    evaluated = {path.resolve() for path in find_custom_corpora("--evaluate_on", evaluate_on)[1]}
    files, clips = find_custom_corpora("--train_on", train_on)
    for path in clips:
        if path.resolve() in evaluated:
            raise InputError(f"--evaluate_on: {path} is among the clips of --train_on; name other clips")
    return files, clips


def _from_csv(option: str, folder: Path, corpus: str) -> dict[Path, Clip]:
    """Return file -> clip by the folder's one CSV file; nothing where there is none."""
    tables = sorted(path for path in folder.glob("*.csv") if path.name[0] != ".")
    if not tables:
        return {}
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise InputError(f"{option} {folder}: expected one CSV file with the labels, found {names}")
    try:
        with tables[0].open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{option}: {tables[0]} cannot be read ({first_line(error)})") from None
    columns = {(name or "").strip().lower(): name for name in names}
    known = {
        key: next((columns[name] for name in allowed if name in columns), None)
        for key, allowed in COLUMNS.items()
    }
    for key in ("file", "emotion"):
        if known[key] is None:
            raise InputError(
                f"{option}: {tables[0]} has no column '{key}', only {', '.join(columns) or 'nothing'}; "
                "expected file,emotion[,speaker][,gender][,text]"
            )
    clips, unnamed = {}, None
    for number, row in enumerate(rows, start=2):
        values = {key: (row[column] or "").strip() if column else "" for key, column in known.items()}
        path = folder / values["file"]
        where = f"{tables[0]}, line {number}"
        if not values["file"] or not path.is_file():
            raise InputError(f"{option}: {where}: there is no file '{values['file']}' in {folder}")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{option}: {where}: '{values['file']}' is outside of {folder}")
        if path in clips:
            raise InputError(f"{option}: {where}: '{values['file']}' is listed twice")
        clips[path] = _as_clip(option, where, corpus, Path(values["file"]), values)
        unnamed = unnamed or (where if not values["speaker"] else None)
    if not clips:
        raise InputError(f"{option}: {tables[0]} lists no clip")
    if unnamed and len({clip.speaker for clip in clips.values()}) > 1:
        raise InputError(
            f"{option}: {unnamed}: has no speaker, where others have one; name all, so that nobody is tested "
            "who was heard in training, or leave the column out"
        )
    return clips


def _from_folders(option: str, folder: Path, corpus: str) -> dict[Path, Clip]:
    """Return file -> clip by the folder that each file lies in."""
    clips = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in CUSTOM_SUFFIXES or any(part[0] == "." for part in parts):
            continue
        if len(parts) < 2:
            raise InputError(
                f"{option} {folder}: {path.name} has no label; expected a CSV file with file,emotion"
                "[,speaker] there, or a folder per emotion, as angry/1.wav"
            )
        clips[path] = _as_clip(option, str(path), corpus, Path(*parts), {"emotion": parts[-2]})
    if not clips:
        raise InputError(
            f"{option} {folder}: no clip was found; expected a CSV file with file,emotion[,speaker], or a "
            "folder per emotion"
        )
    return clips


def _as_clip(option: str, where: str, corpus: str, name: Path, values: dict[str, str]) -> Clip:
    emotion = find_emotion(values["emotion"])
    if emotion is None:
        raise InputError(
            f"{option}: {where}: unknown emotion '{values['emotion']}'; known: {' '.join(EMOTIONS)}. Leave "
            "other clips out"
        )
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


def _as_corpus(name: str, folder: Path, clips: list[Clip]) -> Corpus:
    speakers = sorted({clip.speaker for clip in clips} - {f"{name}-{UNKNOWN_SPEAKER}"})
    enough = len(speakers) >= 3  # else one trains and the other is tested, or the only one trains
    emotions = {clip.emotion for clip in clips}
    return Corpus(
        name=name,
        title=f"own clips '{folder.resolve().name}'",
        emotions=tuple(emotion for emotion in EMOTIONS if emotion in emotions),
        num_clips=len({clip.clip for clip in clips}),
        num_speakers=max(1, len(speakers)),
        sampling_rate=0,
        license=CUSTOM_LICENSE,
        license_url="",
        citation="Clips of whoever trained or evaluated this model; their owner knows their terms.",
        homepage="",
        validation_speakers=tuple(speakers[1::NUM_PARTS]) if enough else (),
        test_speakers=tuple(speakers[0::NUM_PARTS]) if len(speakers) > 1 else (),
        folds=tuple(tuple(speakers[part::NUM_PARTS]) for part in range(min(NUM_PARTS, len(speakers)))),
    )
