"""Score the model of a finished run on the user's own labelled recordings.

The scores go to the run's metrics.json, card and `out_of_domain/`; the predictions of each clip stay in
`unpublished/`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from utils.app.loading import load_model
from utils.data.custom_corpus import find_custom_corpora
from utils.data.decoding import Waveforms
from utils.data.splits import select_emotions
from utils.data.table import check_table, read_table
from utils.report.card import write_card
from utils.report.predictions import prediction_table, score_predictions
from utils.report.run_folder import UNPUBLISHED
from utils.runtime import InputError, logger, write_json, write_text

if TYPE_CHECKING:
    from datasets import Dataset


def score_recordings(
    folder: Path, places: Sequence[Path], cache_dir: Path, allow_partial: bool = False
) -> None:
    """Score the model of a finished run on recordings, and render its card anew.

    Args:
        folder: the run's.
        places: folders of labelled recordings, see `custom_corpus`; without any, nothing is done.
        cache_dir: where decoded audio is kept.
        allow_partial: leave out clips that cannot be used, and say so.

    Raises:
        InputError: the folders or their clips are not sound, or none has an emotion that the model knows.
            The run stays as it was.
    """
    if not places:
        return
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    files, clips = find_custom_corpora("--evaluate_on", places)
    table, waveforms = read_table(files, cache_dir, clips)
    table, findings = check_table(table, allow_partial)
    predict_proba = load_model(folder, run)
    predictions, results = {}, {}
    for finding in findings:
        name, rows = finding["name"], table[table["corpus"] == finding["name"]]
        known = select_emotions(rows, tuple(run["emotions"]))
        if not len(known):
            raise InputError(
                f"--evaluate_on: no clip of {name} has one of the model's emotions "
                f"({', '.join(run['emotions'])})"
            )
        predictions[name] = _predict(predict_proba, run["emotions"], known, waveforms)
        results[name] = {
            "unusable": finding["unusable"],
            "identical": finding["identical"],
            "other_emotions": sorted(set(rows["emotion"]) - set(run["emotions"])),
            "scores": score_predictions(predictions[name], run["emotions"]),
        }
    for name, result in results.items():
        _write(folder, name, predictions[name], result["scores"], run["emotions"])
    with FileLock(folder / UNPUBLISHED / "score.lock"):  # read anew: others may score at the same time
        run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        for name in results.keys() & run.get("out_of_domain", {}).keys():
            logger.warning("%s: replaces the earlier results of a folder with this name", name)
        run["out_of_domain"] = run.get("out_of_domain", {}) | results
        write_json(folder / "metrics.json", run)
        write_card(folder)


def _predict(
    predict_proba: Callable, emotions: Sequence[str], rows: pd.DataFrame, waveforms: "Dataset"
) -> pd.DataFrame:
    """Return the `prediction_table` of some clips; `rows.index` points into the waveforms."""
    audio = Waveforms(waveforms)
    # Speaker by speaker: a model of speaker-normalised features needs all clips of one together.
    speakers = [clips for _, clips in rows.groupby("speaker", sort=True)]
    probabilities = np.concatenate(
        [
            predict_proba([audio[row] for row in clips.index])
            for clips in tqdm(speakers, "Scoring your recordings", unit="speaker")
        ]
    )
    scored = pd.concat(speakers)
    labelled = scored.assign(label=scored["emotion"].map(list(emotions).index))
    return prediction_table(labelled, probabilities.astype(np.float64), emotions, "recordings")


def _write(folder: Path, name: str, predictions: pd.DataFrame, scores: dict, emotions: Sequence[str]) -> None:
    """Write predictions and confusion matrix of one corpus of recordings, and log its scores."""
    from utils.report.plots import plot_confusion_matrix  # Matplotlib is for the end
    from utils.report.style import save_figure

    for place in ("out_of_domain", UNPUBLISHED):
        (folder / place).mkdir(exist_ok=True)
    # Names of files and speakers are their owner's.
    write_text(folder / UNPUBLISHED / f"{name}.csv", predictions.to_csv(index=False))
    title = f"{name}, UAR {100 * scores['uar']:.1f} %"
    figure = plot_confusion_matrix(scores["confusion_matrix"], emotions, title)
    save_figure(figure, folder / "out_of_domain" / f"{name}.png")
    logger.info(
        "%s: UAR %.1f %%, accuracy %.1f %% on %d clips. Card: %s",
        name,
        100 * scores["uar"],
        100 * scores["accuracy"],
        scores["clips"],
        folder / "README.md",
    )
