"""Data classes for corpora, their archives and their clips."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

LOSSY_SUFFIXES = (".mp3", ".ogg", ".oga", ".opus")

AUDIO_SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64", ".sph", *LOSSY_SUFFIXES)
"""Suffixes of clips. `audio.read_waveform` detects the format from the content."""


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        url: download address.
        filename: file name under which it is published.
        num_bytes: its size.
        checksum: `"<hashlib name>:<hex digest>"`.
    """

    url: str
    filename: str
    num_bytes: int
    checksum: str


@dataclass(frozen=True)
class Clip:
    """Labels of one clip.

    Attributes:
        clip: file name without its suffix and the marks of a copy.
        corpus, speaker, emotion: e.g. `ravdess`, `ravdess-01`, `happy`.
        gender: female, male or unknown.
        intensity: normal or strong.
        text: the spoken sentence or word.
    """

    clip: str
    corpus: str
    speaker: str
    gender: str
    emotion: str
    intensity: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Facts about one corpus.

    Attributes:
        name: key in `CORPORA` and value of the column `corpus`.
        title: name in logs, figures and cards.
        emotions: its emotions, names from `labels.EMOTIONS`.
        num_clips, num_speakers: of the published corpus.
        sampling_rate: in Hz, as published.
        validation_speakers, test_speakers: of the `holdout` protocol. A corpus without validation speakers is
            validated on every fifth text of its training speakers.
        folds: test speakers of each fold of the `folds` protocol.
        archive: the archive to download, if there is one.
        kaggle, hub_id: identifiers of the dataset on Kaggle and on the Hugging Face Hub.
        parse: file name without its suffix -> its `Clip`, or None for other files.
    """

    name: str
    title: str
    emotions: tuple[str, ...]
    num_clips: int
    num_speakers: int
    sampling_rate: int
    license: str
    license_url: str
    citation: str
    homepage: str
    validation_speakers: tuple[str, ...]
    test_speakers: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    archive: Archive | None = None
    kaggle: str | None = None
    hub_id: str | None = None
    parse: Callable[[str], Clip | None] | None = None


def speaker_ids(prefix: str, numbers: Iterable[int]) -> tuple[str, ...]:
    """Return speaker ids such as `ravdess-01`."""
    return tuple(f"{prefix}-{number:02d}" for number in numbers)
