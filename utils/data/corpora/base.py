"""What is known about a corpus, and what the name of one of its files says."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

AUDIO_SUFFIXES = (".wav", ".flac", ".aif", ".aiff")


@dataclass(frozen=True)
class Archive:
    """A published archive: `checksum` is `"<hashlib name>:<hex digest>"`."""

    url: str
    filename: str
    num_bytes: int
    checksum: str


@dataclass(frozen=True)
class Clip:
    """What is known of one clip.

    Attributes:
        clip: file name without its suffix.
        corpus, speaker, emotion: as in the labelled table, e.g. `ravdess`, `ravdess-01`, `happy`.
        gender: female, male or unknown.
        intensity: normal or strong.
        text: the sentence or word.
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
        parse: file name without its suffix -> its `Clip`, or None if it is not one of this corpus.
        validation_speakers, test_speakers: of the `holdout` protocol. Without validation speakers, every fifth
            text of the training speakers validates.
        folds: the test speakers of each fold of the `folds` protocol.
        sampling_rate: Hz, as published.
        kaggle, hub_id: where Kaggle and the Hub have it.
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
