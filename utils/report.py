"""What one finished run measured comes in; `metrics.json`, `predictions.csv` and `figures/` go out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils import runs
from utils.audio import Waveforms
from utils.calibration import describe_stage
from utils.corpora import CORPORA
from utils.metrics import scale_temperature, score
from utils.runtime import (
    git_commit,
    package_versions,
    published_command,
    without_secrets_and_paths,
    write_json,
    write_text,
)
from utils.splits import PROTOCOL_WORDS, describe_split, folds_digest

if TYPE_CHECKING:
    from datasets import Dataset

NUM_TIMED = 30
"""Clips on which the time per clip is measured, about."""

NUM_CHECKED = 100
"""At most so many tested clips are kept with a run, to check its model before it is published: 24 MB."""


def prediction_table(
    clips: pd.DataFrame, probabilities: np.ndarray, emotions: Sequence[str], fold: str
) -> pd.DataFrame:
    """Return one row per evaluated clip: who, where, truth, prediction and `p_<emotion>`.

    Args:
        clips: `clip`, `corpus`, `speaker`, `label`.
        probabilities: (num_clips, num_emotions), in the order of `clips`.
        emotions: label names.
        fold: name of the model that predicted these clips.
    """
    names = np.asarray(emotions)
    table = clips[["clip", "corpus", "speaker"]].reset_index(drop=True)
    table["fold"] = fold
    table["emotion"] = names[clips["label"].to_numpy()]
    table["predicted"] = names[np.asarray(probabilities).argmax(axis=1)]
    for label, emotion in enumerate(emotions):
        table[f"p_{emotion}"] = np.asarray(probabilities)[:, label]
    return table


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a `prediction_table` that was written as CSV, every digit as it was: before pandas 3 other parsers
    read most numbers with another last digit."""
    return pd.read_csv(path, float_precision="round_trip")


def score_predictions(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict:
    """Return `metrics.score` of a `prediction_table`; whoever has predictions.csv can do the same."""
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    return score(
        predictions["emotion"].map(labels).to_numpy(),
        predictions[[f"p_{emotion}" for emotion in emotions]].to_numpy(),
        emotions,
        predictions["speaker"].tolist(),
    )


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


def example_clips(clips: pd.DataFrame) -> dict[int, int]:
    """Return label -> row of one clip per emotion, by one speaker and of one text where that is possible."""
    positions = clips.reset_index(drop=True)
    by_variety = positions.groupby(["speaker", "text"])["label"].nunique().sort_values(ascending=False)
    speaker, text = by_variety.index[0]
    positions["other"] = (positions["speaker"] != speaker).astype(int) * 2 + (positions["text"] != text)
    return {int(label): int(rows["other"].idxmin()) for label, rows in positions.groupby("label", sort=True)}


def pick_waveforms(
    clips: pd.DataFrame, waveforms: "Dataset", emotions: Sequence[str]
) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, np.ndarray]]:
    """Return the waveforms of up to `NUM_CHECKED` clips, from the first to the last, to check a model with;
    some of them, to time it on; and emotion -> waveform of one clip, to be drawn.

    Args:
        clips: tested clips, with `emotion`, `speaker`, `text`; their index points into `waveforms`.
        waveforms: Dataset with a `waveform` column.
        emotions: label names.
    """
    clips = clips.assign(label=clips["emotion"].map(list(emotions).index))
    audio = Waveforms(waveforms)
    rows = clips.index[np.unique(np.linspace(0, len(clips) - 1, NUM_CHECKED).astype(int))]
    checked = [audio[row] for row in rows]
    timed = checked[:: -(-len(checked) // NUM_TIMED)]
    examples = {emotions[label]: audio[clips.index[row]] for label, row in example_clips(clips).items()}
    return checked, timed, examples


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
    from utils import conditions, plots  # Matplotlib is for the end of a run

    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    test, emotions = metrics["test"], metrics["emotions"]
    uar = f"UAR {100 * test['uar']:.1f} %"
    plots.save(
        plots.plot_confusion_matrix(test["confusion_matrix"], emotions, f"Test clips, {uar}"),
        figures / "confusion_matrix.png",
    )
    plots.save(
        plots.plot_per_emotion(test["per_emotion"], f"Per emotion, test clips, {uar}"),
        figures / "per_emotion.png",
    )
    if history:
        plots.save(plots.plot_learning_curves(history), figures / "learning_curves.png")
    plots.save(
        plots.plot_waveforms(examples, sampling_rate, "One test clip per emotion"), figures / "waveforms.png"
    )
    if "probe" in metrics:
        figure = plots.plot_probe(metrics["probe"]["choices"], len(emotions))
        plots.save(figure, figures / "layers.png")
    if "stress" in metrics:
        figure = plots.plot_stress(metrics["stress"], emotions, "Recall under other conditions")
        plots.save(figure, figures / "stress.png")
        clip, *voices = examples.values()
        changed = {
            condition: conditions.apply(condition, clip, "example", metrics["seed"], voices or [clip])
            for condition in metrics["stress"]["conditions"]
        }
        figure = plots.plot_conditions(changed, sampling_rate, f"One {next(iter(examples))} clip, changed")
        plots.save(figure, figures / "conditions.png")
    if "calibration" in metrics:
        stages = {f"{name} scaling": metrics["calibration"][name] for name in ("before", "after")}
        figure = plots.plot_reliability(
            {name: stage["bins"] for name, stage in stages.items()},
            {name: stage["error"] for name, stage in stages.items()},
        )
        plots.save(figure, figures / "reliability.png")
    runs.keep_code(folder, metrics["script"])
    write_text(folder / "predictions.csv", predictions.to_csv(index=False))
    write_json(folder / "metrics.json", metrics)
