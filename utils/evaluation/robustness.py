"""A finished model and its test clips come in; how it does on changed copies of them goes out, judged.

The marks are those of audEERING's published tests of emotional categories (Derington et al. 2023, "Testing
Speech Emotion Recognition Machine Learning Models", arXiv:2312.06270; github.com/audeering/ser-tests).
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utils.data.decoding import Waveforms
from utils.evaluation.intervals import speaker_intervals, uar_difference
from utils.evaluation.metrics import score
from utils.evaluation.perturbations import NUM_VOICES, PERTURBATIONS, apply, left_out
from utils.runtime import is_main_process

if TYPE_CHECKING:
    from datasets import Dataset

CLEAN = "clean"
"""The name of the unchanged clips among the conditions."""

THRESHOLDS = {
    "small": {"keeps": 0.95, "loses": None},
    "noise": {"keeps": 0.90, "loses": 0.05},
    "room": {"keeps": 0.80, "loses": None},
    "telephone": {"keeps": 0.50, "loses": 0.05},
}
"""Mark -> the least share of predictions to keep, and the most UAR to lose (None: any). Published for
- small: tones, noise at 35 to 45 dB, gains of 1 or 2 dB, 0.3 % of the samples clipped, up to 62 ms cut off or
  of zeros added, mild filters. Ours takes what leaves the voice as it was: codecs of ordinary quality, light
  clipping, and, further than theirs, gains of 12 dB and a second of silence;
- noise: babble, white noise, music and others at 20 dB, coughs at 10. Ours are also at 10 and 0 dB;
- room: another room, against a recording booth. Ours against the clip as it is;
- telephone: a codec of 7.4 kbit/s at 8 kHz and noise. Ours are milder.
No test is published for hard clipping, other speeds and pitches and long cuts, which change or take away what
is heard: these are measured and not judged."""

SHARE = 0.4
"""Of the test clips is heard under each condition: half an evaluation, with what the changes cost."""

MIN_CLIPS, MAX_CLIPS = 40, 300
"""Small test splits are heard whole; of large ones no more than a T4 hears of all conditions in minutes."""

_TOLERANCE = 1e-9  # 0.80 - 0.75 is more than 0.05 in floating point


def wants_robustness_test(protocol: str, demo: bool, wanted: bool, unwanted: bool) -> bool:
    """Say whether a run is to be tested so: a `holdout` run, and the demo only where it is asked for."""
    return protocol == "holdout" and not unwanted and (wanted or not demo)


def draw_clips(clips: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the clips that are heard, in their own order: `SHARE` of them, within `MIN_CLIPS` and
    `MAX_CLIPS`, and each speaker in each emotion at least once, as far as `MAX_CLIPS` goes.

    They are drawn in turn from each speaker's clips of each emotion, so that both are as balanced as the
    clips allow. The draw follows from the seed and the clips' names alone.

    Args:
        clips: `clip`, `corpus`, `speaker`, `emotion` of the test split, each clip's name once in a corpus.
    """
    cells = ["corpus", "speaker", "emotion"]
    wanted = max(MIN_CLIPS, clips.groupby(cells).ngroups, round(SHARE * len(clips)))
    order = [_digest(seed, *names) for names in clips[["corpus", "clip"]].itertuples(index=False)]
    shuffled = clips.assign(order=order).sort_values("order")
    shuffled["turn"] = shuffled.groupby(cells).cumcount()
    drawn = shuffled.sort_values(["turn", "order"]).head(min(wanted, MAX_CLIPS)).index
    return clips[clips.index.isin(drawn)]


def perturb_clips(
    drawn: pd.DataFrame, waveforms: "Dataset", seed: int
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield each condition's name, `CLEAN` first, and the waveforms that it makes of the drawn clips.

    Args:
        drawn: as `draw_clips` returns it.
        waveforms: Dataset with a `waveform` column, float32 at 16 kHz; the index of `drawn` are its rows.
    """
    audio = Waveforms(waveforms)
    plain = {row: audio[row] for row in drawn.index}
    names = dict(zip(drawn.index, drawn["corpus"] + "/" + drawn["clip"], strict=True))
    yield CLEAN, list(plain.values())
    voices = {row: [plain[other] for other in _voices(row, names, drawn["speaker"], seed)] for row in plain}
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # codecs work outside Python's global lock
        for condition in PERTURBATIONS:
            if condition in _left_out(drawn):
                continue
            changed = threads.map(
                lambda row, condition=condition: apply(condition, plain[row], names[row], seed, voices[row]),
                plain,
            )
            yield condition, list(changed)


def _voices(row: int, names: dict[int, str], speakers: pd.Series, seed: int) -> list[int]:
    """Return the rows of the clips that babble over this one: of other speakers, where there are any, and of
    as many as there are. Ranks are drawn for each pair of clips: a clip more or less changes few choices."""
    others = speakers[speakers != speakers[row]]
    if others.empty:
        others = speakers.drop(row)
    ranked = pd.DataFrame(
        {"speaker": others, "order": [_digest(seed, names[row], names[o]) for o in others.index]}
    )
    ranked["turn"] = ranked.sort_values("order").groupby("speaker").cumcount()
    return ranked.sort_values(["turn", "order"]).index[:NUM_VOICES].tolist()


def _left_out(drawn: pd.DataFrame) -> dict[str, str]:
    """Return condition -> why it cannot be made of these clips, or here."""
    babbles = [name for name, condition in PERTURBATIONS.items() if condition.group == "babble"]
    alone = babbles if len(drawn) < 2 else []
    return left_out() | dict.fromkeys(alone, "there is no other test clip")


def measure_robustness(
    hear: Callable[[list[np.ndarray]], np.ndarray],
    clips: pd.DataFrame,
    waveforms: "Dataset",
    emotions: Sequence[str],
    seed: int,
) -> dict:
    """Hear a share of the test clips unchanged and under each condition, and judge.

    Args:
        hear: list of waveforms -> probabilities (num_clips, num_emotions); called once per condition.
        clips: `clip`, `corpus`, `speaker`, `emotion` of the test split; its index are rows of `waveforms`.
        waveforms: Dataset with a `waveform` column, float32 at 16 kHz.
        emotions: label names.
        seed: of the draw of clips and of all that is random in the conditions.

    Returns:
        See `judge`.
    """
    return judge(predict_perturbed(hear, clips, waveforms, seed), clips, emotions, seed)


def predict_perturbed(
    hear: Callable[[list[np.ndarray]], np.ndarray], clips: pd.DataFrame, waveforms: "Dataset", seed: int
) -> dict[str, np.ndarray]:
    """Return condition -> what `hear` says of the drawn clips under it, with a progress bar.

    Where several models share features, `hear` may return these, and `judge` be given each model's answers.
    """
    drawn = draw_clips(clips, seed)
    total = 1 + len(PERTURBATIONS) - len(_left_out(drawn))
    silent = None if is_main_process() else True
    progress = tqdm(perturb_clips(drawn, waveforms, seed), "Robustness", total, disable=silent)
    return {name: np.asarray(hear(changed)) for name, changed in progress}


def judge(
    probabilities: dict[str, np.ndarray], clips: pd.DataFrame, emotions: Sequence[str], seed: int
) -> dict:
    """Compare a model's answers under each condition with those on the same clips unchanged.

    A model that cannot be told from chance is robust in a way that means nothing: one that always says
    the same keeps all its predictions. So the lower end of the interval of the clean UAR must be above chance
    first (the share of one emotion among those that occur); else no condition is passed or missed.

    Args:
        probabilities: condition -> (num_drawn, num_emotions), as `predict_perturbed` gives them.
        clips, emotions, seed: as they were for `stress_test`.

    Returns:
        Plain data; UAR, recalls, shares and their differences in 0..1, intervals of 95 % over speakers.
        `seed`, `clips`, `of_clips` (in the whole test split), `speakers`.
        `clean`: `uar`, its `interval` (over clips where there is one speaker), `chance`, `above_chance`,
        `recall` (emotion -> recall, None where it does not occur).
        `conditions`: name -> `group`, `words`, `uar`, `uar_difference` (changed - clean), its `interval`
        (None for one speaker), `unchanged` (share of predictions that stay), `recall`, `mark` (`name`,
        `keeps`, `loses`, or None) and `verdict`: passed, missed, no meaning, or not judged (no mark).
        `left_out`: name -> why it was not made.
        `limitations`: a sentence for each mark that is missed, and no other.

    Raises:
        ValueError: an answer is not finite or has another shape.
    """
    drawn = draw_clips(clips, seed)
    truth = drawn["emotion"].map(list(emotions).index).to_numpy()
    speakers = drawn["speaker"].tolist()
    for name, answers in probabilities.items():
        if np.shape(answers) != (len(drawn), len(emotions)) or not np.isfinite(answers).all():
            expected = f"finite probabilities {(len(drawn), len(emotions))}"
            raise ValueError(f"{name}: expected {expected}, got {np.shape(answers)}")
    predictions = {name: np.argmax(answers, axis=1) for name, answers in probabilities.items()}
    clean = _describe_clean(truth, probabilities[CLEAN], emotions, speakers)
    conditions = {}
    for name, answers in probabilities.items():
        if name == CLEAN:
            continue
        condition, scores = PERTURBATIONS[name], score(truth, answers, emotions, speakers)
        result = {
            "group": condition.group,
            "words": condition.words,
            "uar": scores["uar"],
            "uar_difference": scores["uar"] - clean["uar"],
            "interval": uar_difference(truth, predictions[name], predictions[CLEAN], speakers, len(emotions)),
            "unchanged": float((predictions[name] == predictions[CLEAN]).mean()),
            "recall": {emotion: row["recall"] for emotion, row in scores["per_emotion"].items()},
            "mark": {"name": condition.mark} | THRESHOLDS[condition.mark] if condition.mark else None,
        }
        conditions[name] = result | {"verdict": _verdict(result, clean["above_chance"])}
    return {
        "seed": seed,
        "clips": len(drawn),
        "of_clips": len(clips),
        "speakers": len(set(speakers)),
        "clean": clean,
        "conditions": conditions,
        "left_out": _left_out(drawn),
        "limitations": _limitations(clean, conditions),
    }


def _describe_clean(
    truth: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str], speakers: Sequence[str]
) -> dict:
    scores = score(truth, probabilities, emotions, speakers)
    interval = scores["intervals"]["uar"]
    if interval is None and len(truth) > 1:
        each = range(len(truth))
        interval = speaker_intervals(truth, probabilities.argmax(axis=1), each, len(emotions))["uar"]
    chance = 1 / len(np.unique(truth))
    return {
        "uar": scores["uar"],
        "interval": interval,
        "chance": chance,
        "above_chance": interval is not None and interval[0] > chance + _TOLERANCE,
        "recall": {emotion: row["recall"] for emotion, row in scores["per_emotion"].items()},
    }


def _verdict(result: dict, above_chance: bool) -> str:
    if result["mark"] is None:
        return "not judged"
    if not above_chance:
        return "no meaning"
    return "missed" if _loses_too_much(result) or _keeps_too_few(result) else "passed"


def _loses_too_much(result: dict) -> bool:
    limit = result["mark"]["loses"]
    return limit is not None and -result["uar_difference"] > limit + _TOLERANCE


def _keeps_too_few(result: dict) -> bool:
    return result["unchanged"] < result["mark"]["keeps"] - _TOLERANCE


def _limitations(clean: dict, conditions: dict[str, dict]) -> list[str]:
    """Return a sentence for each missed mark, its figures those of the data."""
    if not clean["above_chance"]:
        return [
            f"On the unchanged clips of the robustness test its UAR of {100 * clean['uar']:.1f} % cannot be "
            f"told from chance ({100 * clean['chance']:.1f} %): what it keeps under other conditions means "
            "nothing."
        ]
    sentences = []
    for result in conditions.values():
        if result["verdict"] != "missed":
            continue
        faults = []
        if _loses_too_much(result):
            faults.append(f"loses {-100 * result['uar_difference']:.1f} points of UAR")
        if _keeps_too_few(result):
            faults.append(f"names another emotion for {100 * (1 - result['unchanged']):.1f} % of the clips")
        sentence = f"{' and '.join(faults)} with {result['words']}."
        sentences.append(sentence[0].upper() + sentence[1:])
    return sentences


def _digest(seed: int, *names: str) -> bytes:
    return hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
