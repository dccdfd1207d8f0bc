"""What one finished run measured comes in; `metrics.json`, `predictions.csv` and `figures/` go out."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils import plots
from utils.corpora import CORPORA
from utils.metrics import expected_calibration_error, reliability, scale_temperature, score
from utils.runtime import (
    PROJECT_ROOT,
    InputError,
    git_commit,
    logger,
    package_versions,
    published_command,
    without_secrets_and_paths,
    write_bytes,
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

UNPUBLISHED = "unpublished"
"""Folder in a run folder for what is never uploaded: it holds audio."""

_CODE = ("model_card.md", "requirements.txt", "utils/*.py")
"""What a script of the kit needs beside itself."""


def is_finished(folder: Path) -> bool:
    """Say whether a folder holds a whole run: its card is written last."""
    return (folder / "README.md").exists() and (folder / "metrics.json").exists()


def check_run_folder(folder: Path, overwrite: bool, resume: bool) -> bool:
    """Refuse a folder that holds something which was not meant to be replaced; change nothing.

    Returns:
        False if `resume` and the run is already complete: then there is nothing to do, but to remove what is
        left of its checkpoints if it was killed at that.

    Raises:
        InputError: the folder holds a run, finished or begun, and neither flag says what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder}: is a file; name a folder")
    finished = is_finished(folder)
    checkpoints = folder / "checkpoints"
    begun = (checkpoints / "run.json").exists()
    if finished and resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
        return False
    if finished and not overwrite:
        raise InputError(
            f"--output_dir {folder}: holds a finished run; name another folder, or replace it with "
            "--overwrite"
        )
    if begun and not (resume or overwrite):
        raise InputError(
            f"--output_dir {folder}: holds a run that was begun; go on with --resume_from_checkpoint true, "
            "or start anew with --overwrite"
        )
    # A run that was killed as it began has not written anything whole yet.
    foreign = (path for path in folder.rglob("*") if path != checkpoints and path.suffix != ".partial")
    if folder.exists() and not (finished or begun) and any(foreign):
        raise InputError(f"--output_dir {folder}: is not empty and holds no run; name a new folder")
    return True


def begin_run(folder: Path, resume: str | None, identity: dict) -> str | None:
    """Make the run's folder ready for training, and return the checkpoint that the user named, if any.

    Args:
        folder: the run's folder; the checkpoints of each of its models are in a folder of the model's
            name in `checkpoints` below it.
        resume: `--resume_from_checkpoint`: true, the folder of one checkpoint, or None.
        identity: what must not change in between: encoder, emotions, split digest.

    Raises:
        InputError: the run that was begun had another identity. To go on would let its training
            speakers into this run's test.
    """
    checkpoints = folder / "checkpoints"
    chosen = None
    if resume and str(resume).lower() not in ("true", "yes", "1"):
        chosen = Path(resume)
        if not (chosen / "trainer_state.json").exists():
            raise InputError(
                f"--resume_from_checkpoint {resume}: expected true, for the last checkpoint of --output_dir, "
                "or the folder of a checkpoint"
            )
    note = (chosen.parent.parent if chosen else checkpoints) / "run.json"
    begun = json.loads(note.read_text(encoding="utf-8")) if resume and note.exists() else {}
    for key in identity if begun else ():
        if begun.get(key) != identity[key]:
            raise InputError(
                f"--resume_from_checkpoint: the run of {note} was begun with {key} {begun.get(key)}, "
                f"now it is {identity[key]}; give the same options as then, or start anew with "
                "--overwrite"
            )
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not (begun or chosen):
        # No identity: what a kill leaves half removed will not be taken up, but removed.
        write_json(checkpoints / "run.json", {})
        # The card says "finished": it goes first, so that a run that dies half-way does not wear an old one.
        (folder / "README.md").unlink(missing_ok=True)
        for path in checkpoints.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "run.json":
                path.unlink()
        for figure in (folder / "figures").glob("*.png"):  # the new card would show an older run's
            figure.unlink()
    for partial in folder.rglob(".*.partial"):  # of files that a kill cut off
        partial.unlink()
    write_json(checkpoints / "run.json", identity)
    return str(chosen) if chosen else None


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the newest checkpoint in a folder that was written to its end: its state file is the last
    one. None if there is none."""
    folders = [folder for folder in checkpoints.glob("checkpoint-*") if folder.name[11:].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.info("%s was cut off while it was written; looking for an earlier one", folder)
        else:
            logger.info("Going on from %s", folder)
            return str(folder)
    logger.info("No checkpoint to go on from: starting at the beginning")
    return None


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
    """Read a `prediction_table` that was written as CSV, every digit as it was."""
    return pd.read_csv(path, engine="python")  # Python's own parser of numbers is the exact one


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
        `temperature` (of the published model), and of `before` and `after` the expected calibration `error`
        and the `bins` of `metrics.reliability`.
    """
    truth = predictions["emotion"].map(list(emotions).index).to_numpy()
    after = predictions[[f"p_{emotion}" for emotion in emotions]].to_numpy()
    before = after.copy()
    for fold, rows in predictions.groupby("fold").indices.items():
        before[rows] = scale_temperature(after[rows], 1 / temperatures[fold])
    return {"temperature": list(temperatures.values())[-1]} | {
        name: {
            "error": expected_calibration_error(truth, probabilities),
            "bins": reliability(truth, probabilities),
        }
        for name, probabilities in (("before", before), ("after", after))
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
    audio = waveforms.with_format("numpy")
    rows = clips.index[np.unique(np.linspace(0, len(clips) - 1, NUM_CHECKED).astype(int))]
    checked = [audio[int(row)]["waveform"] for row in rows]
    timed = checked[:: -(-len(checked) // NUM_TIMED)]
    examples = {
        emotions[label]: audio[int(clips.index[row])]["waveform"]
        for label, row in example_clips(clips).items()
    }
    return checked, timed, examples


def keep_checked_clips(folder: Path, waveforms: Sequence[np.ndarray], probabilities: np.ndarray) -> None:
    """Keep what the saved model answers, for whoever loads it later.

    Args:
        folder: the run's folder.
        waveforms: float32 (num_samples,) at 16 kHz.
        probabilities: (num_clips, num_emotions), of the saved model.
    """
    (folder / UNPUBLISHED).mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    ends = np.cumsum([len(waveform) for waveform in waveforms])
    np.savez(buffer, samples=np.concatenate(waveforms), ends=ends, probabilities=probabilities)
    write_bytes(folder / UNPUBLISHED / "checked_clips.npz", buffer.getvalue())


def read_checked_clips(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the waveforms and probabilities of `keep_checked_clips`.

    Raises:
        InputError: the run has none.
    """
    path = folder / UNPUBLISHED / "checked_clips.npz"
    if not path.exists():
        raise InputError(f"{path} is missing: there are no clips to check the model with; train it again")
    with np.load(path, allow_pickle=False) as kept:
        return np.split(kept["samples"], kept["ends"][:-1]), kept["probabilities"]


def keep_code(folder: Path, script: str) -> None:
    """Copy the script that made a run, and what it needs, into the run's folder."""
    for pattern in (script, *_CODE):
        for path in PROJECT_ROOT.glob(pattern):
            target = folder / path.relative_to(PROJECT_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


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
    if "calibration" in metrics:
        stages = {f"{name} scaling": metrics["calibration"][name] for name in ("before", "after")}
        figure = plots.plot_reliability(
            {name: stage["bins"] for name, stage in stages.items()},
            {name: stage["error"] for name, stage in stages.items()},
        )
        plots.save(figure, figures / "reliability.png")
    keep_code(folder, metrics["script"])
    write_text(folder / "predictions.csv", predictions.to_csv(index=False))
    write_json(folder / "metrics.json", metrics)
