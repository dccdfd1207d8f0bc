"""The robustness test: predictions of a model on perturbed copies of its test clips.

The functions take a prediction function and the test clips, and return probabilities per perturbation or
their assessment (`robustness_assessment`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utils.evaluation.perturbations import PERTURBATIONS
from utils.evaluation.perturbed_clips import draw_clips, perturb_clips, skipped_perturbations
from utils.evaluation.robustness_assessment import assess_robustness
from utils.runtime import is_main_process

if TYPE_CHECKING:
    from datasets import Dataset


def measure_robustness(
    predict_proba: Callable[[list[np.ndarray]], np.ndarray],
    clips: pd.DataFrame,
    waveforms: "Dataset",
    emotions: Sequence[str],
    seed: int,
) -> dict:
    """Classify a share of the test clips unchanged and under each perturbation, and assess the results.

    Args:
        predict_proba: list of waveforms -> probabilities (num_clips, num_emotions); called once per
            perturbation.
        clips: table of the test split with `clip`, `corpus`, `speaker`, `emotion`; its index are rows of
            `waveforms`.
        waveforms: Dataset with a `waveform` column, float32 at 16 kHz.
        emotions: label names.
        seed: of the selection of clips and of the perturbations.

    Returns:
        See `robustness_assessment.assess_robustness`.
    """
    probabilities = predict_perturbed(predict_proba, clips, waveforms, seed)
    return assess_robustness(probabilities, clips, emotions, seed)


def predict_perturbed(
    predict_proba: Callable[[list[np.ndarray]], np.ndarray],
    clips: pd.DataFrame,
    waveforms: "Dataset",
    seed: int,
) -> dict[str, np.ndarray]:
    """Return perturbation -> the result of `predict_proba` on the drawn clips; shows a progress bar.

    Where several models share features, `predict_proba` may return features instead, from which each model's
    probabilities for `assess_robustness` are computed.

    Args:
        predict_proba, clips, waveforms, seed: as in `measure_robustness`.
    """
    drawn = draw_clips(clips, seed)
    total = 1 + len(PERTURBATIONS) - len(skipped_perturbations(drawn))
    silent = None if is_main_process() else True
    progress = tqdm(perturb_clips(drawn, waveforms, seed), "Robustness", total, disable=silent)
    return {name: np.asarray(predict_proba(perturbed)) for name, perturbed in progress}
