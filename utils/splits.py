"""A table comes in; the table with a `split` column (train, validation, test) goes out.

No test speaker who also trains or validates is ever handed on, except by `random`, which exists to
show what that does to a figure.
"""

import hashlib

import numpy as np
import pandas as pd

from utils.corpora import CORPORA
from utils.runtime import InputError, logger

SPLITS = ("train", "validation", "test")
PROTOCOLS = ("holdout", "random")

PROTOCOL_WORDS = {
    "holdout": "speaker-independent hold-out: no test speaker was heard in training or validation",
    "random": "random split over clips: the test speakers were heard in training",
}


def split_table(table: pd.DataFrame, protocol: str, emotions: tuple[str, ...], seed: int = 0) -> pd.DataFrame:
    """Keep the clips of `emotions` and give each a `split`.

    Args:
        table: columns `corpus`, `clip`, `speaker`, `emotion`, `text`.
        protocol: `holdout` takes the fixed speakers of `corpora`; `random` draws 70/10/20 % of the
            clips, stratified by corpus and emotion, as most notebooks do.
        seed: for `random` alone.

    Raises:
        InputError: a split is empty, or an emotion is missing from training.
    """
    used = table["emotion"].isin(emotions)
    if not used.all():
        others = ", ".join(sorted(table["emotion"][~used].unique()))
        logger.info("Left out: %d clips of other emotions (%s)", (~used).sum(), others)
    table = table[used].copy()
    if protocol == "holdout":
        table["split"] = _holdout(table)
    elif protocol == "random":
        table["split"] = _random(table, seed)
    else:
        raise InputError(f"--protocol: expected one of {', '.join(PROTOCOLS)}, got '{protocol}'")
    check_split(table, protocol, emotions)
    return table


def _holdout(table: pd.DataFrame) -> pd.Series:
    split = pd.Series("train", index=table.index)
    for name in table["corpus"].unique():
        corpus, rows = CORPORA[name], table["corpus"] == name
        split[rows & table["speaker"].isin(corpus.validation_speakers)] = "validation"
        split[rows & table["speaker"].isin(corpus.test_speakers)] = "test"
        if not corpus.validation_speakers:
            # TESS has no speaker to spare: its training speaker validates on every fifth of her words.
            spoken = rows & (split == "train")
            held_out = sorted(table["text"][spoken].unique())[::5]
            split[spoken & table["text"].isin(held_out)] = "validation"
    return split


def _random(table: pd.DataFrame, seed: int) -> pd.Series:
    split = pd.Series("train", index=table.index)
    generator = np.random.default_rng(seed)
    for _, rows in table.groupby(["corpus", "emotion"], sort=True):
        shuffled = generator.permutation(rows.index)
        num_test, num_validation = round(0.2 * len(rows)), round(0.1 * len(rows))
        split[shuffled[:num_test]] = "test"
        split[shuffled[num_test : num_test + num_validation]] = "validation"
    return split


def check_split(table: pd.DataFrame, protocol: str, emotions: tuple[str, ...]) -> None:
    """Raise if a split is empty, training lacks an emotion, or a speaker or recording is in two splits.

    Validation speakers do not train either, except in a corpus that has no speaker to spare (TESS);
    there the validation words are not among the training words.
    """
    for split in SPLITS:
        if not (table["split"] == split).any():
            speakers = ", ".join(sorted(table["speaker"].unique())[:12])
            raise InputError(
                f"--protocol {protocol}: no clip is left for the {split} split. The clips found are by "
                f"{speakers}; get the whole corpora (see README, Data), or try --protocol random"
            )
    train, validation, test = (table[table["split"] == split] for split in SPLITS)
    missing = [emotion for emotion in emotions if emotion not in set(train["emotion"])]
    if missing:
        raise InputError(f"--emotions: no training clip is {' or '.join(missing)}; drop it or add a corpus")
    if table["digest"].duplicated().any():
        raise AssertionError("one recording is in the table twice")
    if protocol == "random":
        return
    heard = set(train["speaker"]) | set(validation["speaker"])
    if overlap := sorted(heard & set(test["speaker"])):
        raise AssertionError(f"test speakers also train or validate: {overlap}")
    for speaker in sorted(set(train["speaker"]) & set(validation["speaker"])):
        own = table["speaker"] == speaker
        lone = all(not CORPORA[name].validation_speakers for name in table["corpus"][own].unique())
        words = [set(rows["text"][rows["speaker"] == speaker]) for rows in (train, validation)]
        if not lone or words[0] & words[1]:
            raise AssertionError(f"{speaker} both trains and validates")


def split_digest(table: pd.DataFrame) -> str:
    """Return a SHA-256 over which clip, with which emotion, is in which split.

    Two runs with equal digests trained, validated and tested on the same clips under the same labels.
    """
    columns = ["corpus", "clip", "emotion", "split"]
    rows = sorted("\t".join(row) for row in table[columns].itertuples(index=False))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def describe_split(table: pd.DataFrame) -> dict[str, dict]:
    """Return per split: `clips`, `speakers` (sorted ids), `clips_per_emotion` and `minutes`."""
    return {
        split: {
            "clips": len(rows),
            "minutes": round(float(rows["duration_seconds"].sum()) / 60, 1),
            "speakers": sorted(rows["speaker"].unique()),
            "clips_per_emotion": {name: int(n) for name, n in rows["emotion"].value_counts().items()},
        }
        for split in SPLITS
        for rows in [table[table["split"] == split]]
    }
