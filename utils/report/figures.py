"""The figures of a run, each drawn and saved as PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.evaluation.calibration import scaling_stages
from utils.evaluation.perturbations import apply_perturbation
from utils.report.audio_plots import plot_perturbations, plot_waveforms
from utils.report.audit_plots import plot_robustness
from utils.report.explanation_plots import plot_group_importance
from utils.report.model_plots import plot_importance, plot_layers, plot_probe
from utils.report.plots import (
    plot_confusion_matrix,
    plot_learning_curves,
    plot_per_emotion,
    plot_reliability,
)
from utils.report.style import save_figure


def draw_figures(
    folder: Path, metrics: dict, history: list[dict], examples: dict[str, np.ndarray], sampling_rate: int
) -> None:
    """Draw what a run measured.

    Args:
        folder: for the figures; made where it is missing.
        metrics, history, examples, sampling_rate: as for `report.write_report`.
    """
    folder.mkdir(exist_ok=True)
    test, emotions = metrics["test"], metrics["emotions"]
    uar = f"UAR {100 * test['uar']:.1f} %"
    figures = {
        "confusion_matrix": plot_confusion_matrix(test["confusion_matrix"], emotions, f"Test clips, {uar}"),
        "per_emotion": plot_per_emotion(test["per_emotion"], f"Per emotion, test clips, {uar}"),
        "waveforms": plot_waveforms(examples, sampling_rate, "One test clip per emotion"),
    }
    if history:
        figures["learning_curves"] = plot_learning_curves(history)
    if "probe" in metrics:
        figures["layers"] = plot_probe(metrics["probe"]["choices"], len(emotions))
    if "robustness" in metrics:
        figures |= _draw_robustness(metrics, examples, sampling_rate)
    if "calibration" in metrics:
        stages = scaling_stages(metrics["calibration"])
        figures["reliability"] = plot_reliability(
            {name: stage["bins"] for name, stage in stages.items()},
            {name: stage["ece"] for name, stage in stages.items()},
        )
    if layers := metrics["model"].get("layers"):
        figures["model"] = plot_layers(layers, f"{metrics['model']['parameters']:,} parameters")
    if "importance" in metrics:
        figures |= _draw_importance(metrics["importance"])
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")


def _draw_robustness(metrics: dict, examples: dict[str, np.ndarray], sampling_rate: int) -> dict[str, Figure]:
    """Draw the recall under each perturbation, and one clip under each."""
    clip, *others = examples.values()
    perturbed = {
        name: apply_perturbation(name, clip, "example", metrics["seed"], others or [clip])
        for name in metrics["robustness"]["perturbations"]
    }
    title = f"One {next(iter(examples))} clip, perturbed"
    return {
        "robustness": plot_robustness(
            metrics["robustness"], metrics["emotions"], "Recall under perturbations"
        ),
        "perturbations": plot_perturbations(perturbed, sampling_rate, title),
    }


def _draw_importance(importance: dict) -> dict[str, Figure]:
    """Draw permutation importance, of all emotions and of each."""
    figures = {"importance": plot_importance(importance["uar"])}
    for emotion, losses in importance["recall"].items():
        title = f"Feature groups that “{emotion}” depends on"
        figures[f"explained_{emotion}"] = plot_group_importance(losses, title)
    return figures
