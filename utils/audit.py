"""A run's test predictions and what is known of its clips come in; whom it hears worse and where it errs goes
out: into its metrics, and as figures."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from utils import audit_plots, plots
from utils.corpora import CORPORA
from utils.errors import describe_errors
from utils.fairness import RECALL_GAP, describe_fairness, join_clips


def audit(folder: Path, metrics: dict, predictions: pd.DataFrame, clips: pd.DataFrame) -> None:
    """Add `fairness` and `errors` to a run's metrics, and draw them.

    Args:
        folder: the run's.
        metrics: plain data with `emotions` and `test`; `calibration` where it has one.
        predictions: a `report.prediction_table` of test clips whose speakers were not heard in training.
        clips: the run's table.
    """
    emotions: Sequence[str] = metrics["emotions"]
    rows = join_clips(predictions, clips)
    fairness, errors = describe_fairness(rows, emotions), describe_errors(rows, emotions)
    metrics |= {"fairness": fairness, "errors": errors}
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    plots.save(
        audit_plots.plot_speakers(fairness["speakers"], len(emotions), metrics["test"]["uar"]),
        figures / "speakers.png",
    )
    for corpus, recall in fairness["recall"].items():
        if any(None not in genders.values() for genders in recall.values()):
            figure = audit_plots.plot_gender_recall(recall, RECALL_GAP, CORPORA[corpus].title)
            plots.save(figure, figures / f"genders_{corpus}.png")
    for corpus, groups in errors["intensity"].items():
        figure = audit_plots.plot_breakdown(groups, f"By intensity, {CORPORA[corpus].title}")
        plots.save(figure, figures / f"intensity_{corpus}.png")
    if "calibration" in metrics:
        stages = ("before", "after") if metrics["calibration"]["applied"] else ("before",)
        curves = {f"{name} scaling": metrics["calibration"][name]["coverage"] for name in stages}
        plots.save(audit_plots.plot_coverage(curves, 1 / len(emotions)), figures / "coverage.png")
