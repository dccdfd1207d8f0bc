"""The emotion vocabulary: known emotions in a fixed order, and their synonyms."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from utils.runtime import InputError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""All emotions, in the order of tables, figures and model outputs."""

SYNONYMS = {
    "neutral": "neutral neu ntr normal neutrality neutralität",
    "calm": "calm cal calmness relaxed",
    "happy": "happy hap happiness joy joyful gioia freude glücklich",
    "sad": "sad sadness tristezza traurig trauer traurigkeit",
    "angry": "angry ang anger rabbia wut ärger wütend",
    "fearful": "fearful fea fear afraid scared paura angst",
    "disgust": "disgust dis disgusted disgusto ekel",
    "surprised": "surprised sur surprise pleasant_surprise pleasant_surprised ps sorpresa überraschung",
}
"""Emotion -> its labels in custom corpora, among them those of CREMA-D, TESS, EMO-DB and EMOVO."""

_EMOTION_OF = {label: emotion for emotion, labels in SYNONYMS.items() for label in labels.split()}


def find_emotion(label: str) -> str | None:
    """Return the emotion for a label of a custom corpus, or None if it is unknown.

    Case and a number before the label do not matter: `01Neutral`, `3-ANG`.
    """
    name = unicodedata.normalize("NFC", label).strip().lower()
    name = re.sub(r"^\d+[\s_.-]*", "", name)
    return _EMOTION_OF.get(re.sub(r"[\s-]+", "_", name))


def check_emotions(requested: Sequence[str]) -> None:
    """Raise an `InputError` if a requested emotion is unknown, or if there are fewer than two."""
    for emotion in requested:
        if emotion not in EMOTIONS:
            near = difflib.get_close_matches(emotion.lower(), EMOTIONS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(f"--emotions: unknown emotion '{emotion}'; {hint}known: {' '.join(EMOTIONS)}")
    if len(set(requested)) < 2:
        raise InputError(f"--emotions: expected at least two emotions, got {' '.join(requested)}")


def choose_emotions(
    available: dict[str, Iterable[str]], requested: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the emotions to train on, in the order of `EMOTIONS`.

    Args:
        available: corpus name -> its emotions.
        requested: the user's choice; None selects the emotions that all corpora have.

    Raises:
        InputError: an emotion is unknown or in no chosen corpus, or there are fewer than two.
    """
    if requested is None:
        requested = sorted(set(EMOTIONS).intersection(*map(set, available.values())))
    else:
        check_emotions(requested)
    for emotion in requested:
        if not any(emotion in emotions for emotions in available.values()):
            raise InputError(
                f"--emotions: no clip of {' '.join(available)} is '{emotion}'; "
                "drop it, or add a corpus that has it"
            )
    if len(set(requested)) < 2:
        raise InputError(f"--emotions: expected at least two emotions, got {' '.join(requested)}")
    return tuple(emotion for emotion in EMOTIONS if emotion in requested)
