"""Split the clips of a table into train, validation and test, by speaker.

No test speaker also trains or validates, except under `random`, which shows how much that inflates a score.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.data.custom_corpus import UNKNOWN_SPEAKER
from utils.data.speakers import join_corpora
from utils.runtime import InputError, logger, shorten

SPLITS = ("train", "validation", "test")

PROTOCOL_WORDS = {
    "holdout": "speaker-independent hold-out: no test speaker was seen in training or validation",
    "folds": "speaker-independent folds: each clip was tested by a model that had not seen its speaker",
    "loso": "leave one speaker out: each clip was tested by a model that had not seen its speaker",
    "cross-corpus": "across corpora: each clip was tested by a model that had not seen its corpus",
    "random": "random split over clips: the test speakers were seen in training",
}

SINGLE_MODEL = ("holdout", "random")
"""Protocols that test one model; the others test one per fold."""


class Plan(NamedTuple):
    """The splits of all models that a protocol trains, each a table with `split`.

    Attributes:
        folds: name -> split of each model that is tested.
        models: name -> split of each model that is trained: those of the folds, then the published one.
        final: split of the published model, the last of `models`; under `SINGLE_MODEL` also the one fold.
    """

    folds: dict[str, pd.DataFrame]
    models: dict[str, pd.DataFrame]
    final: pd.DataFrame

    def digest(self) -> str:
        """Return the digest of the splits of all folds."""
        return folds_digest(list(self.folds.values()))

    def without_validation(self) -> "Plan":
        """Return the plan for models that need no validation clips: these train as well."""
        models = {
            name: split.assign(split=split["split"].replace("validation", "train"))
            for name, split in self.models.items()
        }
        return Plan({name: models[name] for name in self.folds}, models, list(models.values())[-1])

    def last_test_clips(self) -> pd.DataFrame:
        """Return the test clips of the last fold, for examples and timings."""
        last = list(self.folds.values())[-1]
        return last[last["split"] == "test"]


def select_emotions(table: pd.DataFrame, emotions: tuple[str, ...]) -> pd.DataFrame:
    """Return the clips of `emotions`; say how many others there were."""
    used = table["emotion"].isin(emotions)
    if not used.all():
        others = ", ".join(sorted(table["emotion"][~used].unique()))
        logger.info("Left out: %d clips of other emotions (%s)", (~used).sum(), others)
    return table[used].copy()


def split_table(table: pd.DataFrame, protocol: str, emotions: tuple[str, ...], seed: int = 0) -> pd.DataFrame:
    """Keep the clips of `emotions` and give each a `split`, for the protocols with a single model.

    Args:
        table: columns `corpus`, `clip`, `speaker`, `emotion`, `text`.
        protocol: `holdout` takes the fixed speakers of `corpora`; `random` draws 70/10/20 % of the
            clips, stratified by corpus and emotion, as most notebooks do.
        seed: for `random` alone.

    Raises:
        InputError: a split is empty, or an emotion is missing from training.
    """
    table = select_emotions(table, emotions)
    if protocol == "holdout":
        test = {speaker for name in table["corpus"].unique() for speaker in CORPORA[name].test_speakers}
        table["split"] = _by_speaker(table, test)
    elif protocol == "random":
        table["split"] = _random(table, seed)
    else:
        raise InputError(f"--protocol: expected one of {', '.join(SINGLE_MODEL)}, got '{protocol}'")
    check_split(table, protocol, emotions)
    return table


def split_folds(table: pd.DataFrame, protocol: str, emotions: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Keep the clips of `emotions` and split them once per fold; each clip is in one fold's test split.

    Args:
        table: as for `split_table`.
        protocol: `folds` takes the corpus' own speaker folds (RAVDESS: those of EmoBox, Ma et al. 2024;
            TESS: each speaker in turn), validated on the next fold; `loso` tests each speaker and
            validates on the next two of the corpus; `cross-corpus` tests each corpus with a model of the
            others. Corpora with common speakers are one corpus.

    Returns:
        fold name -> table with `split`.
    """
    table = select_emotions(table, emotions)
    samples = check_protocol(protocol, list(table["corpus"].unique()))
    sample_of = {name: names[0] for names in samples for name in names}
    known = table[~_is_unknown(table["speaker"])]
    speakers_of = known.groupby(known["corpus"].map(sample_of), sort=False)["speaker"].unique()
    plan = {}
    if protocol == "cross-corpus":
        for name in sample_of.values():
            plan[f"to {name}"] = set(table["speaker"][table["corpus"].map(sample_of) == name]), None
    elif protocol == "folds":
        folds = CORPORA[samples[0][0]].folds
        for number, fold in enumerate(folds):
            validation = set(folds[(number + 1) % len(folds)]) if len(folds) > 2 else None
            plan[f"fold {number + 1}"] = set(fold), validation
    elif protocol == "loso":
        # Validated within the corpus, so that the other speaker of a corpus of two trains.
        for speakers in map(sorted, speakers_of):
            for number, speaker in enumerate(speakers):
                following = {speakers[(number + step) % len(speakers)] for step in (1, 2)}
                plan[speaker] = {speaker}, following if len(speakers) > 3 else None
    else:
        raise InputError(f"--protocol: expected folds, loso or cross-corpus, got '{protocol}'")
    tables = {}
    for fold, (test, validation) in plan.items():
        tables[fold] = table.assign(split=_by_speaker(table, test, validation))
        check_split(tables[fold], protocol, emotions)
    return tables


def split_final(table: pd.DataFrame, emotions: tuple[str, ...]) -> pd.DataFrame:
    """Return the split of the model that is published beside scores of folds: nobody is tested, all but
    the validation speakers of `corpora` train."""
    table = select_emotions(table, emotions)
    return table.assign(split=_by_speaker(table, test=set()))


def split_models(table: pd.DataFrame, protocol: str, emotions: tuple[str, ...], seed: int = 0) -> Plan:
    """Split the clips once for each model that a protocol trains.

    Args:
        table, emotions, seed: as for `split_table`.

    Raises:
        InputError: a split of one of them is empty, or an emotion is missing from its training clips.
    """
    if protocol in SINGLE_MODEL:
        final = split_table(table, protocol, emotions, seed)
        folds = {protocol: final}
        return Plan(folds, folds, final)
    final = split_final(table, emotions)
    folds = split_folds(table, protocol, emotions)
    check_split(final, protocol, emotions, needed=("train", "validation"))
    return Plan(folds, folds | {"final": final}, final)


def selection_unit(rows: pd.DataFrame, protocol: str) -> str:
    """Return the column whose values must not be on both sides of a cross-validation of training clips.

    It is the speaker; the text if three or fewer speakers train; under `random` the clip itself.
    """
    if protocol == "random":
        return "clip"
    return "speaker" if rows["speaker"].nunique() > 3 else "text"


def selection_groups(rows: pd.DataFrame, protocol: str) -> pd.Series:
    """Return the group of each training clip in a cross-validation, by its `selection_unit`."""
    groups = rows[selection_unit(rows, protocol)]
    if protocol != "random" and groups.nunique() < 2:
        raise InputError(
            f"the training clips are by {' '.join(sorted(rows['speaker'].unique()))} and all say "
            f"'{groups.iloc[0]}': nothing can be chosen by cross-validation; add speakers or texts"
        )
    return groups


def selection_folds(rows: pd.DataFrame, protocol: str, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return up to four folds of training clips for a cross-validation by `selection_groups`.

    Returns:
        the positions of the clips to fit, and of those held out, of each fold.
    """
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    if protocol == "random":
        return list(StratifiedKFold(4, shuffle=True, random_state=seed).split(rows, rows["emotion"]))
    groups = selection_groups(rows, protocol)
    return list(GroupKFold(min(4, groups.nunique())).split(rows, groups=groups))


class TrainingPart(NamedTuple):
    """The training clips of a model.

    Attributes:
        rows: their positions in the table.
        groups: their `selection_groups`.
        are_speakers: whether the groups are speakers.
    """

    rows: np.ndarray
    groups: np.ndarray
    are_speakers: bool = True


def training_parts(splits: Iterable[pd.DataFrame], protocol: str) -> list[TrainingPart]:
    """Return the training clips of each split."""
    parts = []
    for split in splits:
        positions = np.flatnonzero(split["split"] == "train")
        rows = split.iloc[positions]
        groups = selection_groups(rows, protocol).to_numpy()
        parts.append(TrainingPart(positions, groups, selection_unit(rows, protocol) == "speaker"))
    return parts


def check_protocol(protocol: str, corpora: Sequence[str]) -> list[list[str]]:
    """Return the names of corpora, those with common speakers together.

    Raises:
        InputError: `folds` with several corpora, or `cross-corpus` with a single one.
    """
    pairs = [
        (name, speaker) for name in corpora for speaker in sum(CORPORA[name].folds, ()) or (f"only {name}",)
    ]
    samples = {}
    for (name, _), first in zip(pairs, join_corpora(*zip(*pairs, strict=True)), strict=True):
        samples.setdefault(first, {})[name] = None
    got = f"got {' '.join(corpora)}"
    for names in samples.values():
        if len(names) > 1:
            got += f"; {' and '.join(names)} have the same speakers and count as one"
    if protocol == "cross-corpus" and len(samples) < 2:
        raise InputError(f"--protocol cross-corpus: expected at least two corpora, {got}")
    if protocol == "folds" and len(samples) > 1:
        raise InputError(f"--protocol folds: expected one corpus at a time, {got}")
    return [list(names) for names in samples.values()]


def _by_speaker(table: pd.DataFrame, test: set[str], validation: set[str] | None = None) -> pd.Series:
    """Split by speaker; without `validation`, by the validation speakers of `corpora`.

    Where nobody is left to validate (TESS alone), the training speakers do so, on every fifth of their texts.
    They do not validate beside others: nearly every model classifies their clips correctly, so they select
    nothing, and they make a model appear better calibrated than it is for others.
    """
    split = pd.Series("train", index=table.index)
    names = table["corpus"].unique()
    if validation is None:
        validation = {speaker for name in names for speaker in CORPORA[name].validation_speakers}
    split[table["speaker"].isin(validation)] = "validation"
    split[table["speaker"].isin(test)] = "test"
    if (split == "validation").any():
        return split
    for name in names:
        # Clips of unknown speakers are in the training split alone: they might be of a test speaker.
        spoken = (table["corpus"] == name) & (split == "train") & ~_is_unknown(table["speaker"])
        texts = sorted(table["text"][spoken].unique())
        if not set(CORPORA[name].validation_speakers) - test and len(texts) > 1:
            split[spoken & table["text"].isin(texts[::5])] = "validation"
    return split


def _is_unknown(speakers: pd.Series) -> pd.Series:
    """Return which clips have no speaker label."""
    return speakers.str.endswith(f"-{UNKNOWN_SPEAKER}")


def _random(table: pd.DataFrame, seed: int) -> pd.Series:
    split = pd.Series("train", index=table.index)
    generator = np.random.default_rng(seed)
    for _, rows in table.groupby(["corpus", "emotion"], sort=True):
        shuffled = generator.permutation(rows.index)
        num_test, num_validation = round(0.2 * len(rows)), round(0.1 * len(rows))
        split[shuffled[:num_test]] = "test"
        split[shuffled[num_test : num_test + num_validation]] = "validation"
    return split


def check_split(
    table: pd.DataFrame, protocol: str, emotions: tuple[str, ...], needed: Sequence[str] = SPLITS
) -> None:
    """Raise if a `needed` split is empty, training lacks an emotion, or a speaker or recording is in two
    splits; say so where the one test or the validation lacks an emotion.

    Validation speakers do not train either, except where there is no speaker to spare (TESS alone); there the
    validation words are not among the training words.
    """
    for split in needed:
        if not (table["split"] == split).any():
            speakers = shorten(sorted(table["speaker"].unique()))
            cure = "get the whole corpora (see README, Data)"
            if _is_unknown(table["speaker"]).any():
                cure = "clips of unknown speakers only train, so name the speakers of your recordings"
            raise InputError(
                f"--protocol {protocol}: no clip is left for the {split} split. The clips found are by "
                f"{speakers}; {cure}, or try --protocol random"
            )
    train, validation, test = (table[table["split"] == split] for split in SPLITS)
    missing = [emotion for emotion in emotions if emotion not in set(train["emotion"])]
    if missing:
        raise InputError(f"--emotions: no training clip is {' or '.join(missing)}; drop it or add a corpus")
    for split, rows in (("validation", validation), ("test", test)):
        absent = [emotion for emotion in emotions if emotion not in set(rows["emotion"])]
        if absent and protocol in SINGLE_MODEL:
            logger.warning("No %s clip is %s: its scores are over the others", split, " or ".join(absent))
    if table["digest"].duplicated().any():
        raise AssertionError("one recording is in the table twice")
    if protocol == "random":
        return
    seen = set(train["speaker"]) | set(validation["speaker"])
    if overlap := sorted(seen & set(test["speaker"])):
        raise AssertionError(f"test speakers also train or validate: {overlap}")
    others_validate = not set(validation["speaker"]) <= set(train["speaker"])
    for speaker in sorted(set(train["speaker"]) & set(validation["speaker"])):
        words = [set(rows["text"][rows["speaker"] == speaker]) for rows in (train, validation)]
        if others_validate or words[0] & words[1]:
            raise AssertionError(f"{speaker} both trains and validates")


def split_digest(table: pd.DataFrame) -> str:
    """Return a SHA-256 over which clips, with which emotions, are tested, and which train or validate.

    Two runs with equal digests were trained and tested on the same clips under the same labels. A model that
    needs no validation clips trains on those of the others.
    """
    table = table.assign(split=table["split"].replace("validation", "train"))
    columns = ["corpus", "clip", "emotion", "split"]
    rows = sorted("\t".join(row) for row in table[columns].itertuples(index=False))
    return text_digest(rows)


def folds_digest(tables: Sequence[pd.DataFrame]) -> str:
    """Return the `split_digest` of the one table that a run splits, or one over those of all its folds."""
    digests = [split_digest(table) for table in tables]
    return digests[0] if len(digests) == 1 else text_digest(digests)


def text_digest(lines: Sequence[str]) -> str:
    """Return the SHA-256 of some lines, as 64 hexadecimal digits."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe_split(table: pd.DataFrame) -> dict[str, dict]:
    """Return per split that has clips: `clips`, `speakers` (sorted ids), `clips_per_emotion`, `minutes`."""
    return {
        split: {
            "clips": len(rows),
            "minutes": round(float(rows["duration_seconds"].sum()) / 60, 1),
            "speakers": sorted(rows["speaker"].unique()),
            "clips_per_emotion": {name: int(n) for name, n in rows["emotion"].value_counts().items()},
        }
        for split in SPLITS
        for rows in [table[table["split"] == split]]
        if len(rows)
    }
