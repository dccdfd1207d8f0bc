"""Report a finished run: scores, calibration, subgroups, robustness, explanations, figures, card."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from utils.data.audio import SAMPLING_RATE
from utils.data.loading import LoadedClips
from utils.data.options import DataOptions
from utils.data.splits import SINGLE_MODEL, Plan
from utils.evaluation.latency import measure_latency
from utils.evaluation.robustness import predict_perturbed
from utils.evaluation.robustness_assessment import assess_robustness
from utils.options import RunOptions
from utils.report.audit import add_subgroups_and_errors
from utils.report.card import write_card
from utils.report.explanation_figures import draw_explanations
from utils.report.predictions import pick_waveforms
from utils.report.report import (
    describe_calibration,
    describe_run,
    optional_step,
    write_report,
    write_scores,
)
from utils.report.run_folder import save_reference_predictions


@dataclass
class TrainedModel:
    """The saved model of a run, loaded back, and what its script knows about it.

    Attributes:
        predict_proba: waveforms -> probabilities (num_clips, num_emotions), of one clip at a time.
        classify: one waveform -> any result on the CPU; its time is measured.
        about, training: the sections `model` and `training` of metrics.json.
        packages: whose versions are noted.
        device: on which the model runs.
        explain: (waveform, label) -> `grad_cam` or `occlude` of that clip; None: no clip is explained.
        sections: further sections of metrics.json.
        perturbed: perturbation -> probabilities of the perturbed test clips, if they are known already.
        needs_speaker: the model needs several clips of one speaker together.
    """

    predict_proba: Callable[[Sequence[np.ndarray]], np.ndarray]
    classify: Callable[[np.ndarray], object]
    about: dict
    training: dict
    packages: Sequence[str]
    device: str
    explain: Callable[[np.ndarray, int], dict] | None = None
    sections: dict = field(default_factory=dict)
    perturbed: dict[str, np.ndarray] | None = None
    needs_speaker: bool = False


def wants_robustness(data: DataOptions, options: RunOptions) -> bool:
    """Say whether robustness is tested: under `holdout`, in the demo only on request."""
    requested = not data.demo if options.robustness is None else options.robustness
    return data.protocol == "holdout" and requested


def report_run(
    folder: Path,
    script: str,
    command_line: Sequence[str],
    arguments: dict,
    clips: LoadedClips,
    plan: Plan,
    predictions: dict[str, pd.DataFrame],
    model: TrainedModel,
    temperatures: Mapping[str, float],
    started: float,
    robustness: bool,
) -> dict:
    """Write everything that a run leaves beside its weights; the card comes last.

    Args:
        folder: the run's.
        script, command_line, arguments: what was run, with every option.
        predictions: `test` and, of the saved model, `validation` if it was validated: a `prediction_table`
            each.
        model: the saved one.
        temperatures: name of each model of the plan -> the temperature by which its logits were divided.
        started: `time.perf_counter()` at which the run began.
        robustness: whether it is tested.

    Returns:
        what is in metrics.json.
    """
    emotions, protocol, final = clips.emotions, arguments["protocol"], plan.final
    examples = plan.last_test_clips()
    if model.needs_speaker:
        examples = examples[examples["speaker"] == examples["speaker"].iloc[0]]
    reference, timed, pictures = pick_waveforms(examples, clips.waveforms, emotions)
    metrics = describe_run(script, command_line, arguments, clips, plan, predictions, model.packages)
    metrics["model"] = {"base_model": None, "starts_random": False, "parameters": None} | model.about
    metrics["training"] = {"device": model.device, "history": []} | model.training
    metrics["training"]["history"] = [_without_nan(entry) for entry in metrics["training"]["history"]]
    metrics |= model.sections
    latency = measure_latency(model.classify, timed, SAMPLING_RATE)
    metrics["latency"] = latency | {"device": model.device}
    metrics["calibration"] = describe_calibration(predictions["test"], emotions, temperatures)
    save_reference_predictions(folder, reference, model.predict_proba(reference))
    write_scores(folder, metrics, predictions["test"])
    if protocol in SINGLE_MODEL and model.explain:
        tested = predictions["test"].set_index(final.index[final["split"] == "test"])
        with optional_step("explanations", metrics):
            draw_explanations(folder / "figures", tested, clips.waveforms, emotions, model.explain)
    if robustness and not model.needs_speaker:
        with optional_step("robustness tests", metrics):
            metrics["robustness"] = _assess_robustness(model, plan, clips, arguments["seed"])
    if protocol != "random":  # speakers that were seen in training would make it meaningless
        with optional_step("results by subgroup", metrics):
            add_subgroups_and_errors(folder, metrics, predictions["test"], final)
    metrics["duration_seconds"] = time.perf_counter() - started
    write_report(folder, metrics, metrics["training"]["history"], pictures, SAMPLING_RATE)
    write_card(folder)
    return metrics


def _without_nan(entry: dict) -> dict:
    """Return a log entry with None instead of NaN and infinity, which a training that diverged logs."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in entry.items()
    }


def _assess_robustness(model: TrainedModel, plan: Plan, clips: LoadedClips, seed: int) -> dict:
    test = plan.final[plan.final["split"] == "test"]
    perturbed = model.perturbed
    if perturbed is None:
        perturbed = predict_perturbed(model.predict_proba, test, clips.waveforms, seed)
    return assess_robustness(perturbed, test, clips.emotions, seed)
