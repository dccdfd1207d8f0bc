"""Assessment of predictions on perturbed test clips against published thresholds.

`assess_robustness` takes the probabilities on the unchanged and the perturbed clips, and returns plain data
for metrics.json. The thresholds are those of audEERING's published tests of emotional categories (Derington
et al. 2023, "Testing Speech Emotion Recognition Machine Learning Models", arXiv:2312.06270;
github.com/audeering/ser-tests). UAR is unweighted average recall, the mean of the per-emotion recalls.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.evaluation.intervals import uar_difference, uar_interval
from utils.evaluation.metrics import score
from utils.evaluation.perturbations import PERTURBATIONS
from utils.evaluation.perturbed_clips import CLEAN, draw_clips, skipped_perturbations

THRESHOLDS = {
    "small": {"min_unchanged": 0.95, "max_uar_loss": None},
    "noise": {"min_unchanged": 0.90, "max_uar_loss": 0.05},
    "room": {"min_unchanged": 0.80, "max_uar_loss": None},
    "telephone": {"min_unchanged": 0.50, "max_uar_loss": 0.05},
}
"""Name -> minimum share of unchanged predictions, and maximum loss of UAR (None: no limit). Published for
- small: tones, noise at 35 to 45 dB, gains of 1 or 2 dB, 0.3 % of the samples clipped, up to 62 ms cut off or
  of zeros added, mild filters. Here: codecs of ordinary quality, light clipping, and, beyond the published
  tests, gains of 12 dB and a second of silence, none of which changes the voice;
- noise: babble, white noise, music and others at 20 dB, coughs at 10 dB. Here also at 10 and 0 dB;
- room: a different room, compared with a recording booth. Here compared with the unchanged clip;
- telephone: a codec of 7.4 kbit/s at 8 kHz, and noise. Here milder.
No threshold is published for hard clipping, changes of speed and pitch, and long cuts, which change or remove
speech: these are measured without a test."""

_TOLERANCE = 1e-9  # 0.80 - 0.75 is more than 0.05 in floating point


def assess_robustness(
    probabilities: dict[str, np.ndarray], clips: pd.DataFrame, emotions: Sequence[str], seed: int
) -> dict:
    """Compare the predictions under each perturbation with those on the same clips unchanged.

    Robustness is meaningful only for a model that is better than chance: constant predictions never change.
    If the interval of the clean UAR reaches down to chance (1 / number of emotions that occur), every test
    is inconclusive.

    Args:
        probabilities: perturbation -> float array (num_drawn, num_emotions), from `predict_perturbed`.
        clips, emotions, seed: as given to `robustness.measure_robustness`.

    Returns:
        Plain data; UAR, recalls, shares and their differences in 0..1, 95 % intervals over speakers.
        `seed`, `clips`, `test_clips` (number in the whole test split), `speakers`.
        `clean`: see `_describe_clean`. `perturbations`: name -> see `_describe_perturbation`.
        `skipped`: perturbation -> reason why it was not made.
        `limitations`: one sentence per failed test, or one if the tests are inconclusive.

    Raises:
        ValueError: probabilities are not finite or have the wrong shape.
    """
    drawn = draw_clips(clips, seed)
    references = drawn["emotion"].map(list(emotions).index).to_numpy()
    speakers, corpora = drawn["speaker"].tolist(), drawn["corpus"].tolist()
    _check_probabilities(probabilities, (len(drawn), len(emotions)))
    clean = _describe_clean(references, probabilities[CLEAN], emotions, speakers, corpora)
    perturbations = {
        name: _describe_perturbation(name, references, probabilities, emotions, speakers, corpora, clean)
        for name in probabilities
        if name != CLEAN
    }
    return {
        "seed": seed,
        "clips": len(drawn),
        "test_clips": len(clips),
        "speakers": len(set(speakers)),
        "clean": clean,
        "perturbations": perturbations,
        "skipped": skipped_perturbations(drawn),
        "limitations": _limitations(clean, perturbations),
    }


def _check_probabilities(probabilities: dict[str, np.ndarray], shape: tuple[int, int]) -> None:
    for name, values in probabilities.items():
        if np.shape(values) != shape or not np.isfinite(values).all():
            raise ValueError(f"{name}: expected finite probabilities {shape}, got {np.shape(values)}")


def _describe_clean(
    references: np.ndarray,
    probabilities: np.ndarray,
    emotions: Sequence[str],
    speakers: Sequence[str],
    corpora: Sequence[str],
) -> dict:
    """Return the results on the unchanged clips.

    Returns:
        `uar`, its `interval` (over clips where there is none over speakers), `chance`, `above_chance`, and
        `recall` (emotion -> recall, None where it does not occur).
    """
    scores = score(references, probabilities, emotions, speakers, corpora)
    predictions = probabilities.argmax(axis=1)
    interval, _ = uar_interval(references, predictions, speakers, corpora, len(emotions))
    chance = 1 / len(np.unique(references))
    return {
        "uar": scores["uar"],
        "interval": interval,
        "chance": chance,
        "above_chance": interval is not None and interval[0] > chance + _TOLERANCE,
        "recall": {emotion: row["recall"] for emotion, row in scores["per_emotion"].items()},
    }


def _describe_perturbation(
    name: str,
    references: np.ndarray,
    probabilities: dict[str, np.ndarray],
    emotions: Sequence[str],
    speakers: Sequence[str],
    corpora: Sequence[str],
    clean: dict,
) -> dict:
    """Return the results under one perturbation.

    Returns:
        `group`, `description`, `uar`, `uar_difference` (perturbed - clean), its `interval` (None as in
        `speaker_intervals`), `unchanged` (share of predictions that stay the same), `recall` (emotion ->
        recall), `threshold` (`name`, `min_unchanged`, `max_uar_loss`, or None) and `verdict`: "passed",
        "failed", "not decidable" (the loss of UAR is beyond the threshold, part of its interval is not),
        "inconclusive" (the model is not better than chance) or "not tested" (no threshold).
    """
    perturbation = PERTURBATIONS[name]
    scores = score(references, probabilities[name], emotions, speakers, corpora)
    perturbed, unperturbed = (np.argmax(probabilities[key], axis=1) for key in (name, CLEAN))
    threshold = perturbation.threshold
    result = {
        "group": perturbation.group,
        "description": perturbation.description,
        "uar": scores["uar"],
        "uar_difference": scores["uar"] - clean["uar"],
        "interval": uar_difference(references, perturbed, unperturbed, speakers, corpora, len(emotions)),
        "unchanged": float((perturbed == unperturbed).mean()),
        "recall": {emotion: row["recall"] for emotion, row in scores["per_emotion"].items()},
        "threshold": {"name": threshold} | THRESHOLDS[threshold] if threshold else None,
    }
    return result | {"verdict": _verdict(result, clean["above_chance"])}


def _verdict(result: dict, above_chance: bool) -> str:
    if result["threshold"] is None:
        return "not tested"
    if not above_chance:
        return "inconclusive"
    if _exceeds_uar_loss(result) or _changes_too_many(result):
        return "failed"
    limit = result["threshold"]["max_uar_loss"]
    return (
        "not decidable" if limit is not None and -result["uar_difference"] > limit + _TOLERANCE else "passed"
    )


def _exceeds_uar_loss(result: dict) -> bool:
    """Return whether the whole interval of the loss is beyond the threshold."""
    limit, interval = result["threshold"]["max_uar_loss"], result["interval"]
    return limit is not None and interval is not None and -interval[1] > limit + _TOLERANCE


def _changes_too_many(result: dict) -> bool:
    return result["unchanged"] < result["threshold"]["min_unchanged"] - _TOLERANCE


def _limitations(clean: dict, perturbations: dict[str, dict]) -> list[str]:
    """Return a sentence per failed test, or one if the tests are inconclusive."""
    if not clean["above_chance"]:
        return [
            f"On the unchanged clips of the robustness test, the UAR of {100 * clean['uar']:.1f} % is not "
            f"distinguishable from chance ({100 * clean['chance']:.1f} %): the test is inconclusive."
        ]
    sentences = []
    for result in perturbations.values():
        if result["verdict"] != "failed":
            continue
        faults = []
        if _exceeds_uar_loss(result):
            faults.append(f"UAR falls by {-100 * result['uar_difference']:.1f} points")
        if _changes_too_many(result):
            faults.append(f"the prediction changes for {100 * (1 - result['unchanged']):.1f} % of the clips")
        sentences.append(f"With {result['description']}, {' and '.join(faults)}.")
    return sentences
