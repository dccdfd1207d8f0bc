"""TESS, the Toronto emotional speech set (Pichora-Fuller and Dupuis 2020)."""

import re

from utils.data.corpora.base import Archive, Clip, Corpus

_EMOTIONS = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fear": "fearful",
    "disgust": "disgust",
    "ps": "surprised",  # "pleasant surprise"
}

# speaker_word_emotion. One file of speaker OAF is published as OA_bite_neutral.
# re.ASCII: otherwise IGNORECASE matches the long s and the Kelvin sign as s and k.
_NAME = re.compile(
    r"(OAF|OA|YAF)_([a-z]+)_(angry|disgust|fear|happy|neutral|ps|sad)", re.IGNORECASE | re.ASCII
)


def _parse(stem: str) -> Clip | None:
    match = _NAME.fullmatch(stem)
    if not match:
        return None
    speaker, word, emotion = match.groups()
    return Clip(
        clip=stem,
        corpus="tess",
        speaker="tess-YAF" if speaker.upper() == "YAF" else "tess-OAF",
        gender="female",
        emotion=_EMOTIONS[emotion.lower()],
        intensity="normal",
        text=word.lower(),
    )


TESS = Corpus(
    name="tess",
    title="TESS",
    emotions=tuple(_EMOTIONS.values()),
    num_clips=2800,
    num_speakers=2,
    sampling_rate=24_414,
    license="cc-by-nc-nd-4.0",
    license_url="https://creativecommons.org/licenses/by-nc-nd/4.0/",
    citation="Pichora-Fuller MK, Dupuis K (2020). Toronto emotional speech set (TESS). "
    "Borealis. doi:10.5683/SP2/E8H2MF",
    homepage="https://doi.org/10.5683/SP2/E8H2MF",
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
    parse=_parse,
)
