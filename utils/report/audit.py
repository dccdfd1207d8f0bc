"""A run's test predictions and what is known of its clips come in; whom it hears worse, where it errs and
what its answers rest on go out: into its metrics, and as figures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.data.decoding import Waveforms
from utils.evaluation.error_analysis import analyse_errors
from utils.evaluation.explanations import most_confident_clips
from utils.evaluation.subgroups import RECALL_GAP, describe_subgroups, join_clips

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure


def audit(folder: Path, metrics: dict, predictions: pd.DataFrame, clips: pd.DataFrame) -> None:
    """Add `fairness` and `errors` to a run's metrics, and draw them.

    Args:
        folder: the run's.
        metrics: plain data with `emotions` and `test`; `calibration` where it has one.
        predictions: a `report.prediction_table` of test clips whose speakers were not heard in training.
        clips: the run's table.
    """
    from utils.report import audit_plots  # Matplotlib is for the end of a run
    from utils.report.style import save_figure

    emotions: Sequence[str] = metrics["emotions"]
    rows = join_clips(predictions, clips)
    fairness, errors = describe_subgroups(rows, emotions), analyse_errors(rows, emotions)
    metrics |= {"fairness": fairness, "errors": errors}
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    save_figure(
        audit_plots.plot_speakers(fairness["speakers"], len(emotions), metrics["test"]["uar"]),
        figures / "speakers.png",
    )
    for corpus, recall in fairness["recall"].items():
        if any(None not in genders.values() for genders in recall.values()):
            figure = audit_plots.plot_gender_recall(recall, RECALL_GAP, CORPORA[corpus].title)
            save_figure(figure, figures / f"genders_{corpus}.png")
    for corpus, groups in errors["intensity"].items():
        figure = audit_plots.plot_breakdown(groups, f"By intensity, {CORPORA[corpus].title}")
        save_figure(figure, figures / f"intensity_{corpus}.png")
    if "calibration" in metrics:
        stages = ("before", "after") if metrics["calibration"]["applied"] else ("before",)
        curves = {f"{name} scaling": metrics["calibration"][name]["coverage"] for name in stages}
        save_figure(audit_plots.plot_coverage(curves, 1 / len(emotions)), figures / "coverage.png")


def explain(
    folder: Path,
    predictions: pd.DataFrame,
    waveforms: "Dataset",
    emotions: Sequence[str],
    draw: Callable[[np.ndarray, int, str], "Figure"],
) -> None:
    """Save `figures/explained_<emotion>.png`: what the model rests on in the clip that it names most surely.

    An emotion that was never named rightly has none.

    Args:
        folder: the run's.
        predictions: a `report.prediction_table`; its index are rows of `waveforms`.
        waveforms: Dataset with a `waveform` column, float32 at 16 kHz.
        emotions: label names.
        draw: (waveform, label, title) -> figure.
    """
    from utils.report.style import save_figure

    (folder / "figures").mkdir(exist_ok=True)
    audio = Waveforms(waveforms)
    for emotion, position in most_confident_clips(predictions, emotions).items():
        clip, waveform = predictions.iloc[position], audio[predictions.index[position]]
        title = f"What “{emotion}” rests on in {clip['clip']} ({clip['speaker']})"
        figure = draw(waveform, emotions.index(emotion), title)
        save_figure(figure, folder / "figures" / f"explained_{emotion}.png")
