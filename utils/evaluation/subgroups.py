"""Results by subgroup: gender, speaker and corpus, with tests of the difference between women and men.

The functions take test predictions joined with the metadata of their clips, and return plain data for
metrics.json. The thresholds are those of audEERING's published tests of emotional categories (Derington et
al. 2023, "Testing Speech Emotion Recognition Machine Learning Models", arXiv:2312.06270;
github.com/audeering/ser-tests). UAR is unweighted average recall, the mean of the per-emotion recalls.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.evaluation.intervals import uar_gap, uar_interval

MAX_UAR_GAP = 0.075
MAX_RECALL_GAP = 0.175
"""Maximum difference in UAR, and in the recall of one emotion, between women and men. The published
thresholds apply to each gender against all clips, with 1000 clips of each gender and similar emotions, such
that a random model stays within them. Here they apply to the difference between the genders, which is up to
twice as strict, and to as many clips as the test split has."""

GENDERS = ("female", "male")
_GENDER_NOUNS = {"female": "women", "male": "men"}

_TOLERANCE = 1e-9  # 0.80 - 0.725 is more than 0.075 in floating point


def join_clips(predictions: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions with the columns `gender`, `intensity` and `text` of their clips.

    Args:
        predictions: a `predictions.prediction_table`.
        clips: table with these columns, `corpus` and `clip`; it may have clips that were not predicted.

    Raises:
        ValueError: a predicted clip is missing from `clips`, or occurs there twice.
    """
    keys = ["corpus", "clip"]
    metadata = clips[[*keys, "gender", "intensity", "text"]]
    joined = predictions.merge(metadata, "left", on=keys, validate="many_to_one", indicator=True)
    unknown = joined.loc[joined["_merge"] == "left_only", "clip"]
    if len(unknown):
        raise ValueError(f"{len(unknown)} predicted clips are not in the table, such as {unknown.iloc[0]}")
    return joined.drop(columns="_merge")


def describe_group(rows: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Return the results on a group of clips.

    Args:
        rows: predictions of these clips, with `speaker`, `emotion` and `predicted`.
        emotions: label names.

    Returns:
        `clips`, `speakers`, `uar`, `accuracy`, the 95 % `interval` of the UAR, and its `sampling_unit`:
        "speakers", or "clips" where there are too few speakers for `speaker_intervals`; such an interval does
        not extend to other speakers.
    """
    references, predictions = _labels(rows, emotions)
    speakers, corpora = rows["speaker"].tolist(), rows["corpus"].tolist()
    interval, unit = uar_interval(references, predictions, speakers, corpora, len(emotions))
    correct = references == predictions
    return {
        "clips": len(rows),
        "speakers": len(set(speakers)),
        "uar": float(correct.groupby(references).mean().mean()),
        "accuracy": float(correct.mean()),
        "interval": interval,
        "sampling_unit": unit,
    }


def describe_subgroups(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Return the results by gender, speaker and corpus, and test the differences between women and men.

    Women and men are compared within each corpus, so that a corpus of one gender does not distort the
    comparison, and on the emotions that have clips of both genders there.

    Args:
        predictions: of test clips, as returned by `join_clips`.
        emotions: label names.

    Returns:
        Plain data; UAR, recalls and differences in 0..1.
        `corpora`, `genders`: name -> `describe_group`. Clips of unknown gender are in neither gender.
        `speakers`: the same, lowest UAR first, with `gender` and `corpora`; `worst_speaker`: the first name.
        `recall`: corpus -> emotion -> gender -> recall, None if there is no such clip.
        `tests`: see `_test_genders`.
        `limitations`: one sentence per failed test, and one per corpus whose tests decide nothing.
    """
    speakers = {
        name: describe_group(rows, emotions)
        | {"gender": rows["gender"].iloc[0], "corpora": sorted(rows["corpus"].unique())}
        for name, rows in predictions.groupby("speaker")
    }
    speakers = dict(sorted(speakers.items(), key=lambda item: item[1]["uar"]))
    corpora = dict(list(predictions.groupby("corpus", sort=False)))
    tests = [test for name, rows in corpora.items() for test in _test_genders(name, rows, emotions)]
    return {
        "corpora": {name: describe_group(rows, emotions) for name, rows in corpora.items()},
        "genders": {
            gender: describe_group(rows, emotions)
            for gender in GENDERS
            if len(rows := predictions[predictions["gender"] == gender])
        },
        "speakers": speakers,
        "worst_speaker": next(iter(speakers)),
        "recall": {name: _recall_by_gender(rows, emotions) for name, rows in corpora.items()},
        "tests": tests,
        "limitations": _limitations(tests),
    }


def _labels(rows: pd.DataFrame, emotions: Sequence[str]) -> tuple[pd.Series, pd.Series]:
    """Return the true and the predicted label of each row."""
    references, predictions = (rows[column].map(list(emotions).index) for column in ("emotion", "predicted"))
    return references, predictions


def _recall_by_gender(rows: pd.DataFrame, emotions: Sequence[str]) -> dict[str, dict[str, float | None]]:
    recall = (rows["emotion"] == rows["predicted"]).groupby([rows["emotion"], rows["gender"]]).mean()
    return {
        emotion: {
            gender: float(recall[emotion, gender]) if (emotion, gender) in recall else None
            for gender in GENDERS
        }
        for emotion in emotions
    }


def _test_genders(corpus: str, rows: pd.DataFrame, emotions: Sequence[str]) -> list[dict]:
    """Test the differences between women and men in one corpus: that of UAR, then those of the recalls.

    A test is passed if the whole interval of the difference is within the threshold, and failed if the whole
    interval is beyond it: with two women and two men, the difference itself exceeds a threshold for nearly
    every model that is equally good for both. A model that is not distinguishable from chance passes no test,
    because its results may be equal for all speakers without being correct for any.

    Returns:
        For each test `corpus`, `name` ("UAR", or "recall of" an emotion), `threshold`, `difference` (women -
        men, None if there is nothing to compare), its 95 % `interval` over speakers (None with fewer than two
        speakers of a gender), `verdict` ("passed", "failed", "not decidable", "inconclusive" or "not
        measurable"), and the `reason` of the last three verdicts, else None.
    """
    recall = _recall_by_gender(rows, emotions)
    differences = {
        emotion: None if None in by_gender.values() else by_gender["female"] - by_gender["male"]
        for emotion, by_gender in recall.items()
        if any(value is not None for value in by_gender.values())
    }
    common = [emotion for emotion, difference in differences.items() if difference is not None]
    uar = float(np.mean([differences[emotion] for emotion in common])) if common else None
    compared = [("UAR", MAX_UAR_GAP, uar, common)]
    compared += [
        (f"recall of {emotion}", MAX_RECALL_GAP, difference, [emotion])
        for emotion, difference in differences.items()
    ]
    at_chance = _no_better_than_chance(rows, emotions)
    not_comparable = _missing_genders(rows) or "no emotion with clips of both genders"
    known = rows[rows["gender"].isin(GENDERS)]
    few = f"too few speakers ({_count_genders(known)})"
    tests = []
    for name, threshold, difference, test_emotions in compared:
        verdict, reason, interval = "not measurable", not_comparable, None
        if difference is not None:
            interval = _gap_interval(known[known["emotion"].isin(test_emotions)], emotions)
            verdict, reason = "not decidable", few
            if interval and max(interval[0], -interval[1]) > threshold + _TOLERANCE:
                verdict, reason = "failed", None
            elif at_chance:
                verdict, reason = "inconclusive", at_chance
            elif interval and max(map(abs, interval)) <= threshold + _TOLERANCE:
                verdict, reason = "passed", None
        test = {"corpus": corpus, "name": name, "threshold": threshold, "difference": difference}
        tests.append(test | {"interval": interval, "verdict": verdict, "reason": reason})
    return tests


def _gap_interval(rows: pd.DataFrame, emotions: Sequence[str]) -> list[float] | None:
    references, predictions = _labels(rows, emotions)
    return uar_gap(references, predictions, rows["gender"] == "female", rows["speaker"], len(emotions))


def _no_better_than_chance(rows: pd.DataFrame, emotions: Sequence[str]) -> str | None:
    """Return a sentence if the interval of the UAR reaches down to chance, else None."""
    group, chance = describe_group(rows, emotions), 1 / rows["emotion"].nunique()
    if group["interval"] is not None and group["interval"][0] > chance + _TOLERANCE:
        return None
    return f"the UAR of {100 * group['uar']:.1f} % is not distinguishable from chance ({100 * chance:.1f} %)"


def _missing_genders(rows: pd.DataFrame) -> str | None:
    missing = [_GENDER_NOUNS[gender] for gender in GENDERS if not (rows["gender"] == gender).any()]
    return f"no test clips of {' or '.join(missing)}" if missing else None


def _count_genders(rows: pd.DataFrame) -> str:
    """Return for example "2 women, 3 men": the speakers of the rows."""
    speakers = rows.drop_duplicates("speaker")["gender"]
    return ", ".join(f"{(speakers == gender).sum()} {_GENDER_NOUNS[gender]}" for gender in GENDERS)


def _limitations(tests: list[dict]) -> list[str]:
    """Return a sentence per failed test, and one per corpus whose tests decide nothing."""
    sentences = {}  # a dictionary keeps the order and drops repeated sentences
    for test in tests:
        title = CORPORA[test["corpus"]].title if test["corpus"] in CORPORA else test["corpus"]
        if test["verdict"] == "inconclusive":
            sentence = f"On {title}, {test['reason']}: the comparison of women and men is inconclusive."
            sentences[sentence] = None
        if test["verdict"] == "not decidable" and test["name"] == "UAR":
            sentence = f"On {title}, whether the UAR differs between women and men is not decidable with "
            sentences[sentence + f"{test['reason']}."] = None
        if test["verdict"] != "failed":
            continue
        worse, better = ("women", "men") if test["difference"] < 0 else ("men", "women")
        name = "UAR" if test["name"] == "UAR" else f"R{test['name'][1:]} clips"
        sentence = (
            f"{name} is {100 * abs(test['difference']):.1f} points lower for {worse} than for {better} on "
            f"{title} (threshold: {100 * test['threshold']:.1f})."
        )
        sentences[sentence] = None
    return list(sentences)
