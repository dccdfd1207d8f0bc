"""What one finished run measured comes in; `metrics.json`, `predictions.csv` and `figures/` go out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.data.splits import PROTOCOL_WORDS, describe_split, folds_digest
from utils.evaluation.calibration import describe_stage, scale_temperature
from utils.report.predictions import score_predictions
from utils.report.run_folder import copy_code
from utils.runtime import (
    git_commit,
    package_versions,
    published_command,
    without_secrets_and_paths,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    pass


def describe_run(
    script: str,
    command_line: Sequence[str],
    arguments: dict,
    table: pd.DataFrame,
    findings: list[dict],
    emotions: Sequence[str],
    protocol: str,
    predictions: dict[str, pd.DataFrame],
    packages: Sequence[str],
    folds: dict[str, pd.DataFrame] | None = None,
) -> dict:
    """Return what metrics.json says of every run, whichever script it was.

    Args:
        script, command_line, arguments: what was run; tokens and this machine's paths are taken out.
        table: the clips of the run, with `split`.
        findings: of `table.check_table`.
        emotions: label names.
        protocol: how the clips were split.
        predictions: `validation` and `test`, each a `prediction_table`.
        packages: whose versions to note.
        folds: the fold tables of `splits.split_folds`, where the test predictions are those of the
            folds' models; `table` is then the split of the model that is saved.
    """
    test = predictions["test"]
    return {
        "script": script,
        "command": published_command(f"python {script}", command_line),
        "demo": arguments["demo"],
        "arguments": without_secrets_and_paths(arguments),
        "corpora": [_describe_corpus(table, finding) for finding in findings],
        "emotions": list(emotions),
        "protocol": protocol,
        "protocol_words": PROTOCOL_WORDS[protocol],
        "split": describe_split(table),
        "split_digest": folds_digest(list((folds or {"": table}).values())),
        "folds": [
            {"fold": name, "speakers": sorted(rows["speaker"].unique())}
            | {key: scores[key] for key in ("clips", "uar", "accuracy", "macro_f1")}
            for name, rows in test.groupby("fold", sort=False)
            if folds
            for scores in [score_predictions(rows, emotions)]
        ],
        "validation": score_predictions(predictions["validation"], emotions),
        "test": score_predictions(test, emotions),
        "test_per_corpus": {
            name: score_predictions(rows, emotions) for name, rows in test.groupby("corpus", sort=False)
        },
        "versions": package_versions(packages),
        "seed": arguments["seed"],
        "commit": git_commit(),
    }


def _describe_corpus(table: pd.DataFrame, finding: dict) -> dict:
    corpus, used = CORPORA[finding["name"]], table[table["corpus"] == finding["name"]]
    facts = {
        name: getattr(corpus, name) for name in ("title", "license", "license_url", "citation", "homepage")
    }
    return finding | {"clips": len(used), "speakers": int(used["speaker"].nunique())} | facts


def describe_calibration(
    predictions: pd.DataFrame, emotions: Sequence[str], temperatures: dict[str, float]
) -> dict:
    """Return how far the probabilities of test clips can be believed, before and after temperature scaling.

    Args:
        predictions: a `prediction_table`, after scaling.
        emotions: label names.
        temperatures: of each `fold` in it, and last of the published model.

    Returns:
        `temperature` (of the published model), `applied` (True), and the `calibration.describe_stage` of
        `before` and `after`.
    """
    truth = predictions["emotion"].map(list(emotions).index).to_numpy()
    after = predictions[[f"p_{emotion}" for emotion in emotions]].to_numpy()
    before = after.copy()
    for fold, rows in predictions.groupby("fold").indices.items():
        before[rows] = scale_temperature(after[rows], 1 / temperatures[fold])
    return {
        "temperature": list(temperatures.values())[-1],
        "applied": True,
        "before": describe_stage(truth, before),
        "after": describe_stage(truth, after),
    }


def write_report(
    folder: Path,
    metrics: dict,
    predictions: pd.DataFrame,
    history: list[dict],
    examples: dict[str, np.ndarray],
    sampling_rate: int,
) -> None:
    """Write metrics.json, predictions.csv, the figures and the code of a run.

    Args:
        folder: the run's folder.
        metrics: plain JSON data with `emotions` and `test`.
        predictions: a `prediction_table`.
        history: log entries with `epoch` and any of `loss`, `eval_loss`, `eval_uar`; none, no curves.
        examples: emotion -> waveform, to be drawn.
        sampling_rate: of the examples, in Hz.
    """
    from utils.evaluation import perturbations  # Matplotlib is for the end of a run
    from utils.report.audio_plots import (  # Matplotlib is for the end of a run
        plot_perturbations,
        plot_waveforms,
    )
    from utils.report.audit_plots import plot_robustness
    from utils.report.model_plots import plot_probe
    from utils.report.plots import (
        plot_confusion_matrix,
        plot_learning_curves,
        plot_per_emotion,
        plot_reliability,
    )
    from utils.report.style import save_figure

    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    test, emotions = metrics["test"], metrics["emotions"]
    uar = f"UAR {100 * test['uar']:.1f} %"
    save_figure(
        plot_confusion_matrix(test["confusion_matrix"], emotions, f"Test clips, {uar}"),
        figures / "confusion_matrix.png",
    )
    save_figure(
        plot_per_emotion(test["per_emotion"], f"Per emotion, test clips, {uar}"),
        figures / "per_emotion.png",
    )
    if history:
        save_figure(plot_learning_curves(history), figures / "learning_curves.png")
    save_figure(
        plot_waveforms(examples, sampling_rate, "One test clip per emotion"), figures / "waveforms.png"
    )
    if "probe" in metrics:
        figure = plot_probe(metrics["probe"]["choices"], len(emotions))
        save_figure(figure, figures / "layers.png")
    if "stress" in metrics:
        figure = plot_robustness(metrics["stress"], emotions, "Recall under other conditions")
        save_figure(figure, figures / "stress.png")
        clip, *voices = examples.values()
        changed = {
            condition: perturbations.apply(condition, clip, "example", metrics["seed"], voices or [clip])
            for condition in metrics["stress"]["conditions"]
        }
        figure = plot_perturbations(changed, sampling_rate, f"One {next(iter(examples))} clip, changed")
        save_figure(figure, figures / "conditions.png")
    if "calibration" in metrics:
        stages = {f"{name} scaling": metrics["calibration"][name] for name in ("before", "after")}
        figure = plot_reliability(
            {name: stage["bins"] for name, stage in stages.items()},
            {name: stage["error"] for name, stage in stages.items()},
        )
        save_figure(figure, figures / "reliability.png")
    copy_code(folder, metrics["script"])
    write_text(folder / "predictions.csv", predictions.to_csv(index=False))
    write_json(folder / "metrics.json", metrics)
