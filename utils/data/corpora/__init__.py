"""The supported corpora, one module each, and the parser of their file names.

Takes the name of an audio file; returns its corpus, speaker, gender, emotion, intensity and text.
"""

import functools
import re
from pathlib import PurePath

from utils.data.corpora.base import AUDIO_SUFFIXES, LOSSY_SUFFIXES, Archive, Clip, Corpus
from utils.data.corpora.demo import DEMO
from utils.data.corpora.ravdess import RAVDESS, RAVDESS_SONG
from utils.data.corpora.tess import TESS

CORPORA = {corpus.name: corpus for corpus in (RAVDESS, RAVDESS_SONG, TESS, DEMO)}
"""Name -> corpus. `custom_corpus` adds the user's recordings."""

REAL_CORPORA = tuple(name for name in CORPORA if name != "demo")

_PARSERS = tuple(corpus.parse for corpus in CORPORA.values())

# What Google Drive, browsers, Windows and macOS add to the name of a copy.
_COPY = re.compile(r"^copy of |( - copy| copy)?( ?\([0-9]+\)| [0-9]+)?\Z", re.IGNORECASE)

__all__ = [
    "AUDIO_SUFFIXES",
    "CORPORA",
    "LOSSY_SUFFIXES",
    "REAL_CORPORA",
    "Archive",
    "Clip",
    "Corpus",
    "parse_clip",
]


def parse_clip(path: str | PurePath) -> Clip | None:
    """Return the labels in the name of an audio file, or None if it belongs to no known corpus."""
    return _parse_name(path.name if isinstance(path, PurePath) else PurePath(path).name)


@functools.cache  # each name is parsed three times when a run starts
def _parse_name(name: str) -> Clip | None:
    stem, dot, suffix = name.rpartition(".")
    if dot + suffix.lower() not in AUDIO_SUFFIXES:
        return None
    stem = _COPY.sub("", stem)
    return next((clip for parse in _PARSERS if (clip := parse(stem))), None)
