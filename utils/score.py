"""A finished run and folders of somebody's own labelled clips come in; how it does on them goes out: into the
run's metrics.json, its card and `out_of_domain/`. What it says of each clip stays in `unpublished/`.

    python -m utils.score runs/wav2vec2 --evaluate_on ~/my_clips
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utils.app.loading import load_model
from utils.data.custom_corpus import find_custom_corpora
from utils.data.decoding import Waveforms
from utils.data.splits import select_emotions
from utils.data.table import check_table, read_table
from utils.report.card import write_card
from utils.report.predictions import prediction_table, score_predictions
from utils.report.run_folder import UNPUBLISHED, is_finished
from utils.runtime import (
    InputError,
    cache_folder,
    logger,
    refuse_arguments,
    run_script,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from datasets import Dataset


def evaluate_on(folder: Path, places: Sequence[Path], cache_dir: Path, allow_partial: bool = False) -> None:
    """Score the model of a finished run on own clips, and render its card anew.

    Args:
        folder: the run's.
        places: the folders of clips, see `own_clips`; none, and nothing is done.
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
    hear, scored = load_model(folder, run), {}
    for finding in findings:
        rows = table[table["corpus"] == finding["name"]]
        known = select_emotions(rows, tuple(run["emotions"]))
        if not len(known):
            raise InputError(
                f"--evaluate_on: no clip of {finding['name']} has one of the model's emotions "
                f"({', '.join(run['emotions'])})"
            )
        predictions = _predict(hear, run["emotions"], known, waveforms)
        scored[finding["name"]] = (
            predictions,
            {
                "unusable": finding["unusable"],
                "identical": finding["identical"],
                "other_emotions": sorted(set(rows["emotion"]) - set(run["emotions"])),
                "scores": score_predictions(predictions, run["emotions"]),
            },
        )
    from utils.report.plots import plot_confusion_matrix  # Matplotlib is for the end
    from utils.report.style import save_figure

    for name, (predictions, found) in scored.items():
        for place in ("out_of_domain", UNPUBLISHED):
            (folder / place).mkdir(exist_ok=True)
        # Names of files and voices are their owner's.
        write_text(folder / UNPUBLISHED / f"{name}.csv", predictions.to_csv(index=False))
        scores = found["scores"]
        title = f"{name}, UAR {100 * scores['uar']:.1f} %"
        save_figure(
            plot_confusion_matrix(scores["confusion_matrix"], run["emotions"], title),
            folder / "out_of_domain" / f"{name}.png",
        )
        run.setdefault("out_of_domain", {})[name] = found
        logger.info(
            "%s: UAR %.1f %%, accuracy %.1f %% on %d clips. Card: %s",
            name,
            100 * scores["uar"],
            100 * scores["accuracy"],
            scores["clips"],
            folder / "README.md",
        )
    write_json(folder / "metrics.json", run)
    write_card(folder)


def _predict(
    hear: Callable, emotions: Sequence[str], rows: pd.DataFrame, waveforms: "Dataset"
) -> pd.DataFrame:
    """Return the `report.prediction_table` of some clips; `rows.index` points into the waveforms."""
    audio = Waveforms(waveforms)
    # Voice by voice: a model of speaker-normalised features has to hear all clips of one together.
    voices = [clips for _, clips in rows.groupby("speaker", sort=True)]
    probabilities = np.concatenate(
        [
            hear([audio[row] for row in clips.index])
            for clips in tqdm(voices, "Listening to the own clips", unit="voice")
        ]
    )
    heard = pd.concat(voices)
    labelled = heard.assign(label=heard["emotion"].map(list(emotions).index))
    return prediction_table(labelled, probabilities.astype(np.float64), emotions, "own clips")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument(
        "--evaluate_on", type=Path, nargs="+", required=True, help="folders of labelled clips"
    )
    parser.add_argument("--allow_partial", action="store_true", help="leave unusable clips out")
    parser.add_argument("--cache_dir", type=Path, help="folder for decoded audio")
    args = parser.parse_args()
    if not is_finished(args.run):
        raise InputError(f"{args.run}: expected the folder of a finished run, with its README.md")
    evaluate_on(args.run, args.evaluate_on, args.cache_dir or cache_folder(), args.allow_partial)


if __name__ == "__main__":
    run_script(main)
