"""RAVDESS, speech and song (Livingstone and Russo 2018), and the parser of its file names."""

import re

from utils.data.corpora.base import Archive, Clip, Corpus, speaker_ids

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}

# modality-channel-emotion-intensity-sentence-repetition-actor; modality 03 is audio only.
_NAME = re.compile(r"03-(0[123])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1[0-9]|2[0-4])")
_SENTENCES = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}


def parse_name(stem: str, channel: str, corpus: str, speaker_prefix: str = "ravdess") -> Clip | None:
    """Parse a file name in the format of RAVDESS (https://zenodo.org/records/1188976).

    Args:
        stem: file name without its suffix.
        channel: vocal channel of the corpus: 01 speech, 02 song.
        corpus: name of the corpus.
        speaker_prefix: prefix of the speaker ids. Speech and song of one actor share one speaker id.

    Returns:
        the labels of the clip, or None if the name has another format or channel.
    """
    match = _NAME.fullmatch(stem)
    if not match or match[1] != channel:
        return None
    _, emotion, intensity, sentence, _, actor = match.groups()
    return Clip(
        clip=stem,
        corpus=corpus,
        speaker=f"{speaker_prefix}-{actor}",
        gender="male" if int(actor) % 2 else "female",
        emotion=EMOTIONS[emotion],
        intensity={"01": "normal", "02": "strong"}[intensity],
        text=_SENTENCES[sentence],
    )


_COMMON = {
    "sampling_rate": 48_000,
    "license": "cc-by-nc-sa-4.0",
    "license_url": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "citation": "Livingstone SR, Russo FA (2018). The Ryerson Audio-Visual Database of Emotional Speech and "
    "Song (RAVDESS). PLoS ONE 13(5): e0196391. doi:10.1371/journal.pone.0196391",
    "homepage": "https://zenodo.org/records/1188976",
    "validation_speakers": speaker_ids("ravdess", range(19, 21)),
    "test_speakers": speaker_ids("ravdess", range(21, 25)),
    # The folds of EmoBox (Ma et al. 2024, "EmoBox: Multilingual Multi-corpus Speech Emotion Recognition
    # Toolkit and Benchmark"), so that results can be compared with published ones.
    "folds": (
        speaker_ids("ravdess", (1, 11, 20, 21)),
        speaker_ids("ravdess", (4, 10, 12, 14)),
        speaker_ids("ravdess", (8, 9, 19, 23)),
        speaker_ids("ravdess", (3, 5, 7, 24)),
        speaker_ids("ravdess", (2, 15, 16, 18)),
        speaker_ids("ravdess", (6, 13, 17, 22)),
    ),
}

RAVDESS = Corpus(
    name="ravdess",
    title="RAVDESS speech",
    emotions=tuple(EMOTIONS.values()),
    num_clips=1440,
    num_speakers=24,
    archive=Archive(
        url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
        filename="Audio_Speech_Actors_01-24.zip",
        num_bytes=208_468_073,
        checksum="md5:bc696df654c87fed845eb13823edef8a",
    ),
    kaggle="uwrfkaggler/ravdess-emotional-speech-audio",
    parse=lambda stem: parse_name(stem, "01", "ravdess"),
    **_COMMON,
)

RAVDESS_SONG = Corpus(
    name="ravdess_song",
    title="RAVDESS song",
    emotions=tuple(EMOTIONS.values())[:6],
    num_clips=1012,
    num_speakers=23,  # actor 18 did not sing
    archive=Archive(
        url="https://zenodo.org/records/1188976/files/Audio_Song_Actors_01-24.zip?download=1",
        filename="Audio_Song_Actors_01-24.zip",
        num_bytes=225_505_317,
        checksum="md5:5411230427d67a21e18aa4d466e6d1b9",
    ),
    kaggle="uwrfkaggler/ravdess-emotional-song-audio",
    parse=lambda stem: parse_name(stem, "02", "ravdess_song"),
    **_COMMON,
)
