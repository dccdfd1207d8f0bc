"""What is known about each corpus.

A file name comes in; corpus, speaker, gender, emotion, intensity and text go out. Beside it stands,
per corpus, what a run has to check or to cite: codes, counts, licence, source, held-out speakers.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import PurePath

AUDIO_SUFFIXES = (".wav", ".flac", ".aif", ".aiff")
OWN_SUFFIXES = (*AUDIO_SUFFIXES, ".mp3", ".ogg", ".opus")
"""What clips of one's own may be, beside; the published corpora have none of these."""

OWN_LICENSE = "unknown"
"""Of clips of one's own: their owner knows."""


@dataclass(frozen=True)
class Archive:
    """A published archive: `checksum` is `"<hashlib name>:<hex digest>"`."""

    url: str
    filename: str
    num_bytes: int
    checksum: str


@dataclass(frozen=True)
class Corpus:
    """Facts about one corpus. `validation_speakers` and `test_speakers` are those of `holdout`; `folds`
    are the speakers that each fold tests."""

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


@dataclass(frozen=True)
class Clip:
    """What a file name says. `clip` is the name without its suffix; `gender` female, male or unknown;
    `intensity` normal or strong; `text` the sentence or word."""

    clip: str
    corpus: str
    speaker: str
    gender: str
    emotion: str
    intensity: str
    text: str


def _actors(corpus: str, numbers) -> tuple[str, ...]:
    return tuple(f"{corpus}-{number:02d}" for number in numbers)


RAVDESS_EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}

_TESS_EMOTIONS = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fear": "fearful",
    "disgust": "disgust",
    "ps": "surprised",  # "pleasant surprise"
}

_RAVDESS_CITATION = (
    "Livingstone SR, Russo FA (2018). The Ryerson Audio-Visual Database of Emotional Speech and Song "
    "(RAVDESS). PLoS ONE 13(5): e0196391. doi:10.1371/journal.pone.0196391"
)
_RAVDESS_COMMON = {
    "sampling_rate": 48_000,
    "license": "cc-by-nc-sa-4.0",
    "license_url": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "citation": _RAVDESS_CITATION,
    "homepage": "https://zenodo.org/records/1188976",
    "validation_speakers": _actors("ravdess", range(19, 21)),
    "test_speakers": _actors("ravdess", range(21, 25)),
    # The folds of EmoBox (Ma et al. 2024, "EmoBox: Multilingual Multi-corpus Speech Emotion Recognition
    # Toolkit and Benchmark"), on which others publish.
    "folds": tuple(
        _actors("ravdess", numbers)
        for numbers in (
            (1, 11, 20, 21),
            (4, 10, 12, 14),
            (8, 9, 19, 23),
            (3, 5, 7, 24),
            (2, 15, 16, 18),
            (6, 13, 17, 22),
        )
    ),
}

CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="ravdess",
            title="RAVDESS speech",
            emotions=tuple(RAVDESS_EMOTIONS.values()),
            num_clips=1440,
            num_speakers=24,
            archive=Archive(
                url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
                filename="Audio_Speech_Actors_01-24.zip",
                num_bytes=208_468_073,
                checksum="md5:bc696df654c87fed845eb13823edef8a",
            ),
            kaggle="uwrfkaggler/ravdess-emotional-speech-audio",
            **_RAVDESS_COMMON,
        ),
        Corpus(
            name="ravdess_song",
            title="RAVDESS song",
            emotions=tuple(RAVDESS_EMOTIONS.values())[:6],
            num_clips=1012,
            num_speakers=23,  # actor 18 did not sing
            archive=Archive(
                url="https://zenodo.org/records/1188976/files/Audio_Song_Actors_01-24.zip?download=1",
                filename="Audio_Song_Actors_01-24.zip",
                num_bytes=225_505_317,
                checksum="md5:5411230427d67a21e18aa4d466e6d1b9",
            ),
            kaggle="uwrfkaggler/ravdess-emotional-song-audio",
            **_RAVDESS_COMMON,
        ),
        Corpus(
            name="tess",
            title="TESS",
            emotions=tuple(_TESS_EMOTIONS.values()),
            num_clips=2800,
            num_speakers=2,
            sampling_rate=24_414,
            license="cc-by-nc-nd-4.0",
            license_url="https://creativecommons.org/licenses/by-nc-nd/4.0/",
            citation=(
                "Pichora-Fuller MK, Dupuis K (2020). Toronto emotional speech set (TESS). "
                "Borealis. doi:10.5683/SP2/E8H2MF"
            ),
            homepage="https://doi.org/10.5683/SP2/E8H2MF",
            # Two speakers only: validation is a fifth of the training speaker's words (see splits).
            validation_speakers=(),
            test_speakers=("tess-YAF",),
            folds=(("tess-YAF",), ("tess-OAF",)),
            archive=Archive(
                url="https://huggingface.co/datasets/myleslinder/tess/resolve/main/tess.zip",
                filename="tess.zip",
                num_bytes=224_036_453,
                checksum="sha256:752556de8c109b1d27d163e2a00b0ec8b8186600fd233ab8bd369d003d3cb218",
            ),
            kaggle="ejlok1/toronto-emotional-speech-set-tess",
            hub_id="myleslinder/tess",
        ),
        Corpus(
            name="demo",
            title="synthetic demo voices",
            emotions=tuple(RAVDESS_EMOTIONS.values()),
            num_clips=480,  # 16 speakers x 2 sentences x (neutral once, 7 emotions at 2 intensities)
            num_speakers=16,
            sampling_rate=16_000,
            license="apache-2.0",
            license_url="https://www.apache.org/licenses/LICENSE-2.0",
            citation="Synthesised by utils/demo.py of this kit. No person spoke.",
            homepage="",
            validation_speakers=_actors("demo", (11, 12)),
            test_speakers=_actors("demo", (13, 14, 15, 16)),
            folds=tuple(_actors("demo", range(first, first + 4)) for first in (1, 5, 9, 13)),
        ),
    )
}

REAL_CORPORA = tuple(name for name in CORPORA if name != "demo")

# Modality 03 is audio only. Vocal channel 01 is speech and 02 song; 03 is ours, for synthetic voices
# in RAVDESS naming, so that no synthetic clip can pass for a real one.
_RAVDESS_NAME = re.compile(r"03-(0[123])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1[0-9]|2[0-4])")
_RAVDESS_CHANNELS = {"01": "ravdess", "02": "ravdess_song", "03": "demo"}
_RAVDESS_SENTENCES = {
    "01": "kids are talking by the door",
    "02": "dogs are sitting by the door",
}
# One file of the published corpus is named OA_bite_neutral; it is OAF's.
# ASCII: else the long s and the Kelvin sign would pass for s and k.
_TESS_NAME = re.compile(
    r"(OAF|OA|YAF)_([a-z]+)_(angry|disgust|fear|happy|neutral|ps|sad)", re.IGNORECASE | re.ASCII
)


def parse_clip(path: str | PurePath) -> Clip | None:
    """Return what the name of an audio file says, or None if it is no clip of a known corpus.

    RAVDESS: `modality-channel-emotion-intensity-sentence-repetition-actor`, two digits each, odd
    actors male (https://zenodo.org/records/1188976). TESS: `speaker_word_emotion`, two women.
    """
    return _parse_name(path.name if isinstance(path, PurePath) else PurePath(path).name)


@functools.cache  # a start asks three times for each file
def _parse_name(name: str) -> Clip | None:
    stem, dot, suffix = name.rpartition(".")
    if dot + suffix.lower() not in AUDIO_SUFFIXES:
        return None
    if match := _RAVDESS_NAME.fullmatch(stem):
        channel, emotion, intensity, sentence, _, actor = match.groups()
        corpus = _RAVDESS_CHANNELS[channel]
        # Speech and song of one actor are one speaker.
        person = "demo" if corpus == "demo" else "ravdess"
        return Clip(
            clip=stem,
            corpus=corpus,
            speaker=f"{person}-{actor}",
            gender="male" if int(actor) % 2 else "female",
            emotion=RAVDESS_EMOTIONS[emotion],
            intensity={"01": "normal", "02": "strong"}[intensity],
            text=_RAVDESS_SENTENCES[sentence],
        )
    if match := _TESS_NAME.fullmatch(stem):
        speaker, word, emotion = match.groups()
        return Clip(
            clip=stem,
            corpus="tess",
            speaker="tess-YAF" if speaker.upper() == "YAF" else "tess-OAF",
            gender="female",
            emotion=_TESS_EMOTIONS[emotion.lower()],
            intensity="normal",
            text=word.lower(),
        )
    return None
