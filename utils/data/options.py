"""Options: which clips, which labels, which split."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from utils.data.corpora import REAL_CORPORA
from utils.data.labels import check_emotions
from utils.options import PROTOCOLS
from utils.runtime import InputError, cache_folder


@dataclass
class DataOptions:
    """Which clips, which labels, which split."""

    _argument_group_name = "data"

    corpora: list[str] = field(
        default_factory=lambda: ["ravdess", "tess"],
        metadata={"help": f"Any of: {', '.join(REAL_CORPORA)}. none: those of --train_on alone."},
    )
    data_dir: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders or zips with the clips, searched recursively. Without it: zips in the "
                  "project folder or data/, Kaggle inputs, then a download."},
    )  # fmt: skip
    train_on: list[str] = field(
        default_factory=list, metadata={"help": "Folders of your labelled recordings: train on them too."}
    )
    distinct_speakers: bool = field(
        default=False,
        metadata={"help": "Speakers with the same name in two --train_on folders are different people."},
    )
    emotions: list[str] = field(
        default_factory=list, metadata={"help": "Labels; by default those that all chosen corpora have."}
    )
    protocol: str = field(
        default="holdout",
        metadata={"help": "holdout: unseen test speakers. folds, loso, cross-corpus: one model per fold. "
                  "random: clips at random, to show the inflation.", "choices": PROTOCOLS},
    )  # fmt: skip
    allow_partial: bool = field(
        default=False, metadata={"help": "Run although clips are missing or unusable; the card says so."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for decoded audio and features; default: Hugging Face cache."}
    )
    demo: bool = field(default=False, metadata={"help": "Synthetic voices, offline; no real results."})

    def __post_init__(self):
        if self.corpora == ["none"]:
            if not self.train_on:
                raise InputError("--corpora none: expected --train_on with folders of your own recordings")
            self.corpora = []
        for name in self.corpora:
            if name not in REAL_CORPORA:
                near = difflib.get_close_matches(name.lower(), REAL_CORPORA, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise InputError(f"--corpora: unknown corpus '{name}'; {hint}known: {' '.join(REAL_CORPORA)}")
        if self.emotions:
            check_emotions(self.emotions)

    def cache_folder(self) -> Path:
        """Return the folder for decoded audio, features and embeddings."""
        return Path(self.cache_dir or cache_folder())
