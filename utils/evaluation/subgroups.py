"""The predictions of a run and what is known of its clips come in; whom it hears worse goes out, judged.

The marks are those of audEERING's published tests of emotional categories (Derington et al. 2023, "Testing
Speech Emotion Recognition Machine Learning Models", arXiv:2312.06270; github.com/audeering/ser-tests).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.evaluation.intervals import clip_intervals, speaker_intervals, uar_gap

UAR_GAP = 0.075
RECALL_GAP = 0.175
"""Most by which UAR, and the recall of one emotion, may differ between women and men. Published for each sex
against all clips, 1000 of each sex with like emotions, as a model that guesses stays within them. Ours are
between the sexes, which is up to twice as strict, and on as many clips as the test split has."""

GENDERS = ("female", "male")
_WORDS = {"female": "women", "male": "men"}

_TOLERANCE = 1e-9  # 0.80 - 0.725 is more than 0.075 in floating point


def join_clips(predictions: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions with `gender`, `intensity` and `text` of their clips.

    Args:
        predictions: a `report.prediction_table`.
        clips: these columns, `corpus` and `clip`; it may have more clips than were predicted.

    Raises:
        ValueError: a predicted clip is not among `clips`, or is there twice.
    """
    keys = ["corpus", "clip"]
    known = clips[[*keys, "gender", "intensity", "text"]]
    joined = predictions.merge(known, "left", on=keys, validate="many_to_one", indicator=True)
    unknown = joined.loc[joined["_merge"] == "left_only", "clip"]
    if len(unknown):
        raise ValueError(f"{len(unknown)} predicted clips are not in the table, such as {unknown.iloc[0]}")
    return joined.drop(columns="_merge")


def describe_group(rows: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Return `clips`, `speakers`, `uar`, `accuracy`, the 95 % `interval` of the UAR, and what that is `over`.

    That is "speakers", or "clips" where there is one speaker; then it says nothing of other voices.
    """
    truth, predicted = (rows[column].map(list(emotions).index) for column in ("emotion", "predicted"))
    speakers = rows["speaker"].tolist()
    several = len(set(speakers)) > 1
    intervals = (
        speaker_intervals(truth, predicted, speakers, len(emotions))
        if several
        else clip_intervals(truth, predicted, len(emotions))
    )
    right = truth == predicted
    return {
        "clips": len(rows),
        "speakers": len(set(speakers)),
        "uar": float(right.groupby(truth).mean().mean()),
        "accuracy": float(right.mean()),
        "interval": intervals["uar"],
        "over": "speakers" if several else "clips",
    }


def describe_subgroups(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Compare how well women and men, each speaker and each corpus are heard, and judge.

    Women and men are compared within each corpus: else a corpus of women alone would pass for a gender. The
    gap is over the emotions that both have there.

    Args:
        predictions: as `join_clips` returns it, of test clips.
        emotions: label names.

    Returns:
        Plain data; UAR, recalls and gaps in 0..1.
        `corpora`, `genders`: name -> `describe_group`. Clips of unknown gender are in no group.
        `speakers`: the same, worst first, and with `gender` and `corpora`; `worst_speaker`: its name.
        `recall`: corpus -> emotion -> gender -> recall, None where there is no such clip.
        `marks`: list of `corpus`, `name` ("UAR", or "recall of" an emotion), `limit`, `value` (women - men,
        None if there is nothing to compare), its 95 % `interval` over speakers (None with fewer than two
        of a gender), `verdict`: passed, missed, no meaning, not measurable, and `why` it is one of the
        last two. A model that cannot be told from chance passes nothing: all may be alike to it because
        it hears nobody.
        `limitations`: a sentence for each mark that is missed, and one for each corpus that is not heard
        better than by chance; no other.
    """
    speakers = {
        name: describe_group(rows, emotions)
        | {"gender": rows["gender"].iloc[0], "corpora": sorted(rows["corpus"].unique())}
        for name, rows in predictions.groupby("speaker")
    }
    speakers = dict(sorted(speakers.items(), key=lambda item: item[1]["uar"]))
    corpora = dict(list(predictions.groupby("corpus", sort=False)))
    marks = [mark for name, rows in corpora.items() for mark in _judge(name, rows, emotions)]
    return {
        "corpora": {name: describe_group(rows, emotions) for name, rows in corpora.items()},
        "genders": {
            gender: describe_group(rows, emotions)
            for gender in GENDERS
            if len(rows := predictions[predictions["gender"] == gender])
        },
        "speakers": speakers,
        "worst_speaker": next(iter(speakers)),
        "recall": {name: _recalls(rows, emotions) for name, rows in corpora.items()},
        "marks": marks,
        "limitations": _limitations(marks),
    }


def _recalls(rows: pd.DataFrame, emotions: Sequence[str]) -> dict[str, dict[str, float | None]]:
    right = (rows["emotion"] == rows["predicted"]).groupby([rows["emotion"], rows["gender"]]).mean()
    return {
        emotion: {gender: float(right[emotion, gender]) if (emotion, gender) in right else None}
        | {other: float(right[emotion, other]) if (emotion, other) in right else None}
        for emotion in emotions
        for gender, other in [GENDERS]
    }


def _judge(corpus: str, rows: pd.DataFrame, emotions: Sequence[str]) -> list[dict]:
    """Return the marks of one corpus, that of the UAR first."""
    recall = _recalls(rows, emotions)
    gaps = {
        emotion: None if None in each.values() else each["female"] - each["male"]
        for emotion, each in recall.items()
        if any(value is not None for value in each.values())
    }
    common = [emotion for emotion, gap in gaps.items() if gap is not None]
    compared = rows[rows["gender"].isin(GENDERS)]
    uar = float(np.mean([gaps[emotion] for emotion in common])) if common else None
    facts = [("UAR", UAR_GAP, uar, common)]
    facts += [(f"recall of {emotion}", RECALL_GAP, gap, [emotion]) for emotion, gap in gaps.items()]
    doubt, absent = _no_better_than_chance(rows, emotions), _who_is_missing(rows)
    marks = []
    for name, limit, value, compared_on in facts:
        verdict, why = "passed", None
        if value is None:
            verdict, why = "not measurable", absent or "no emotion that both have"
        elif abs(value) > limit + _TOLERANCE:
            verdict = "missed"
        elif doubt:
            verdict, why = "no meaning", doubt
        chosen = compared[compared["emotion"].isin(compared_on)]
        interval = None if value is None else _gap_interval(chosen, emotions)
        mark = {"corpus": corpus, "name": name, "limit": limit, "value": value, "interval": interval}
        marks.append(mark | {"verdict": verdict, "why": why})
    return marks


def _gap_interval(rows: pd.DataFrame, emotions: Sequence[str]) -> list[float] | None:
    truth, predicted = (rows[column].map(list(emotions).index) for column in ("emotion", "predicted"))
    return uar_gap(truth, predicted, rows["gender"] == "female", rows["speaker"], len(emotions))


def _no_better_than_chance(rows: pd.DataFrame, emotions: Sequence[str]) -> str | None:
    group, chance = describe_group(rows, emotions), 1 / rows["emotion"].nunique()
    if group["interval"] is not None and group["interval"][0] > chance + _TOLERANCE:
        return None
    return f"its UAR of {100 * group['uar']:.1f} % cannot be told from chance ({100 * chance:.1f} %)"


def _who_is_missing(rows: pd.DataFrame) -> str | None:
    absent = [_WORDS[gender] for gender in GENDERS if not (rows["gender"] == gender).any()]
    return f"no test clips of {' or '.join(absent)}" if absent else None


def _limitations(marks: list[dict]) -> list[str]:
    """Return a sentence for each missed mark, its figures those of the data."""
    sentences = {}  # of several marks that have no meaning one sentence remains
    for mark in marks:
        title = CORPORA[mark["corpus"]].title if mark["corpus"] in CORPORA else mark["corpus"]
        if mark["verdict"] == "no meaning":
            sentences[f"On {title} {mark['why']}: that women and men are alike to it means nothing."] = None
        if mark["verdict"] != "missed":
            continue
        worse, better = ("women", "men") if mark["value"] < 0 else ("men", "women")
        name = "UAR" if mark["name"] == "UAR" else f"R{mark['name'][1:]} clips"
        sentence = (
            f"{name} is {100 * abs(mark['value']):.1f} points lower for {worse} than for {better} on {title} "
            f"(mark: at most {100 * mark['limit']:.1f})."
        )
        sentences[sentence] = None
    return list(sentences)
