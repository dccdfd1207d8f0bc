"""What a finished run measured, as plain data, and the files that hold it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.data.loading import LoadedClips
from utils.data.splits import PROTOCOL_WORDS, SINGLE_MODEL, Plan, describe_split
from utils.evaluation.calibration import calibration_scores, scale_temperature
from utils.report.predictions import score_predictions
from utils.report.requirements import run_requirements
from utils.report.run_folder import copy_code
from utils.runtime import (
    git_commit,
    logger,
    package_versions,
    published_command,
    without_secrets_and_paths,
    write_json,
    write_text,
)


def describe_run(
    script: str,
    command_line: Sequence[str],
    arguments: dict,
    clips: LoadedClips,
    plan: Plan,
    predictions: dict[str, pd.DataFrame],
    packages: Sequence[str],
) -> dict:
    """Return what metrics.json says of every run, whichever script it was.

    Args:
        script, command_line, arguments: what was run; tokens and this machine's paths are taken out.
        clips: of the run.
        plan: their splits.
        predictions: `test` and, of models that were validated, `validation`, each a `prediction_table`.
        packages: whose versions to note.
    """
    test, emotions, protocol = predictions["test"], clips.emotions, arguments["protocol"]
    num_processes = int(os.environ.get("WORLD_SIZE", 1))  # set by accelerate and torchrun
    launcher = f"accelerate launch --num_processes {num_processes}" if num_processes > 1 else "python"
    return {
        "script": script,
        "command": published_command(f"{launcher} {script}", command_line),
        "demo": arguments["demo"],
        "arguments": without_secrets_and_paths(arguments),
        "corpora": [_describe_corpus(plan.final, finding) for finding in clips.findings],
        "emotions": list(emotions),
        "protocol": protocol,
        "protocol_words": PROTOCOL_WORDS[protocol],
        "split": describe_split(plan.final),
        "split_digest": plan.digest(),
        "folds": [] if protocol in SINGLE_MODEL else _describe_folds(test, emotions),
        **{part: score_predictions(table, emotions) for part, table in predictions.items()},
        "test_per_corpus": {
            name: score_predictions(rows, emotions) for name, rows in test.groupby("corpus", sort=False)
        },
        "versions": package_versions(packages),
        "seed": arguments["seed"],
        "commit": git_commit(),
    }


def _describe_folds(test: pd.DataFrame, emotions: Sequence[str]) -> list[dict]:
    """Return name, test speakers and scores of each fold."""
    folds = []
    for name, rows in test.groupby("fold", sort=False):
        scores = score_predictions(rows, emotions)
        folds.append(
            {"fold": name, "speakers": sorted(rows["speaker"].unique())}
            | {key: scores[key] for key in ("clips", "uar", "accuracy", "macro_f1")}
        )
    return folds


def _describe_corpus(table: pd.DataFrame, finding: dict) -> dict:
    corpus, used = CORPORA[finding["name"]], table[table["corpus"] == finding["name"]]
    facts = {
        name: getattr(corpus, name) for name in ("title", "license", "license_url", "citation", "homepage")
    }
    return finding | {"clips": len(used), "speakers": int(used["speaker"].nunique())} | facts


def describe_calibration(
    predictions: pd.DataFrame, emotions: Sequence[str], temperatures: dict[str, float]
) -> dict:
    """Return the calibration of test clips before and after temperature scaling.

    Args:
        predictions: a `prediction_table`, after scaling.
        emotions: label names.
        temperatures: of each `fold` in it, and last of the published model.

    Returns:
        `temperature` (of the published model) and the `calibration.calibration_scores` of `before` and
        `after`.
    """
    truth = predictions["emotion"].map(list(emotions).index).to_numpy()
    after = predictions[[f"p_{emotion}" for emotion in emotions]].to_numpy()
    before = after.copy()
    for fold, rows in predictions.groupby("fold").indices.items():
        before[rows] = scale_temperature(after[rows], 1 / temperatures[fold])
    return {
        "temperature": list(temperatures.values())[-1],
        "before": calibration_scores(truth, before),
        "after": calibration_scores(truth, after),
    }


def write_report(
    folder: Path,
    metrics: dict,
    history: list[dict],
    examples: dict[str, np.ndarray],
    sampling_rate: int,
) -> None:
    """Write figures, code, requirements and the completed metrics.json of a run, after its `write_scores`.

    Args:
        folder: the run's folder.
        metrics: plain JSON data with `emotions` and `test`.
        history: log entries with `epoch` and any of `loss`, `eval_loss`, `eval_uar`; without any, no curves.
        examples: emotion -> waveform, to be drawn.
        sampling_rate: of the examples, in Hz.
    """
    with optional_step("figures", metrics):
        from utils.report.figures import draw_figures  # Matplotlib is for the end of a run

        draw_figures(folder / "figures", metrics, history, examples, sampling_rate)
    copy_code(folder, metrics["script"])
    write_text(folder / "requirements.txt", run_requirements(metrics))
    write_json(folder / "metrics.json", metrics)


def write_scores(folder: Path, metrics: dict, predictions: pd.DataFrame) -> None:
    """Write what was scored to metrics.json and predictions.csv, so that no later fault can lose it."""
    write_text(folder / "predictions.csv", predictions.to_csv(index=False))
    write_json(folder / "metrics.json", metrics)


@contextmanager
def optional_step(name: str, metrics: dict) -> Iterator[None]:
    """If the code inside fails, log the error and add the step to `metrics["incomplete"]` for the card.

    The model is trained and scored by then; a run without a figure is better than none.
    """
    try:
        yield
    except Exception as error:  # of any kind: of a library, the memory, the disk
        logger.warning("The %s failed and are left out of the card", name, exc_info=True)
        # The message may contain a path of this machine; the log has it.
        metrics.setdefault("incomplete", []).append(f"{name} ({type(error).__name__})")
