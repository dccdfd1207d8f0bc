"""The emotion vocabulary.

What people call emotions comes in; names of emotions, in one fixed order, go out.
"""

import difflib
from collections.abc import Iterable, Sequence

from utils.runtime import InputError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""Every emotion that the kit knows, in the order in which tables and models have them."""

SYNONYMS = {
    "anger": "angry",
    "calmness": "calm",
    "disgusted": "disgust",
    "fear": "fearful",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprise": "surprised",
    "pleasant_surprise": "surprised",
    "pleasant_surprised": "surprised",
    "ps": "surprised",
}
"""What else people call these emotions in their own labels."""


def find_emotion(label: str) -> str | None:
    """Return the emotion that a label of somebody's own means, in any case, or None if it means none."""
    name = label.strip().lower().replace(" ", "_")
    name = SYNONYMS.get(name, name)
    return name if name in EMOTIONS else None


def choose_emotions(
    available: dict[str, Iterable[str]], requested: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the emotions to train on, in the order of `EMOTIONS`.

    Args:
        available: corpus name -> the emotions that it has.
        requested: the user's choice, or None for the emotions that all corpora have.

    Raises:
        InputError: an unknown emotion, one that no chosen corpus has, or fewer than two emotions.
    """
    if requested is None:
        requested = sorted(set(EMOTIONS).intersection(*map(set, available.values())))
    for emotion in requested:
        if emotion not in EMOTIONS:
            near = difflib.get_close_matches(emotion.lower(), EMOTIONS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(f"--emotions: unknown emotion '{emotion}'; {hint}known: {' '.join(EMOTIONS)}")
        if not any(emotion in emotions for emotions in available.values()):
            raise InputError(
                f"--emotions: no clip of {' '.join(available)} is '{emotion}'; "
                "drop it, or add a corpus that has it"
            )
    if len(set(requested)) < 2:
        raise InputError(f"--emotions: expected at least two emotions, got {' '.join(requested)}")
    return tuple(emotion for emotion in EMOTIONS if emotion in requested)
