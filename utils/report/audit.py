"""Results by subgroup and error analysis of a run: metrics and figures.

`add_subgroups_and_errors` takes the test predictions of a run and the table of its clips, adds sections to
the metrics, and saves figures into the run's folder.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from utils.data.corpora import CORPORA
from utils.evaluation.calibration import scaling_stages
from utils.evaluation.error_analysis import analyse_errors
from utils.evaluation.subgroups import describe_subgroups, join_clips


def add_subgroups_and_errors(
    folder: Path, metrics: dict, predictions: pd.DataFrame, clips: pd.DataFrame
) -> None:
    """Add the sections `subgroups` and `error_analysis` to a run's metrics, and save their figures.

    Args:
        folder: folder of the run.
        metrics: plain data with `emotions` and `test`, and `calibration` if it was measured.
        predictions: a `predictions.prediction_table` of test clips of speakers that are not in the training
            data.
        clips: table of the run's clips.
    """
    emotions: Sequence[str] = metrics["emotions"]
    rows = join_clips(predictions, clips)
    metrics["subgroups"] = describe_subgroups(rows, emotions)
    metrics["error_analysis"] = analyse_errors(rows, emotions)
    _save_figures(folder / "figures", metrics)


def _save_figures(folder: Path, metrics: dict) -> None:
    # Imported here so that a run does not load Matplotlib before its end.
    from utils.report import audit_plots
    from utils.report.style import save_figure

    subgroups, num_emotions = metrics["subgroups"], len(metrics["emotions"])
    figures = {
        "speakers": audit_plots.plot_speakers(subgroups["speakers"], num_emotions, metrics["test"]["uar"])
    }
    for corpus, recall in subgroups["recall"].items():
        if any(None not in by_gender.values() for by_gender in recall.values()):
            title = f"Recall by gender, {CORPORA[corpus].title}"
            failed = {
                test["name"].removeprefix("recall of ")
                for test in subgroups["tests"]
                if test["corpus"] == corpus and test["verdict"] == "failed"
            }
            figures[f"genders_{corpus}"] = audit_plots.plot_gender_recall(recall, failed, title)
    for corpus, groups in metrics["error_analysis"]["intensity"].items():
        title = f"UAR by intensity, {CORPORA[corpus].title}"
        figures[f"intensity_{corpus}"] = audit_plots.plot_groups(groups, title)
    if "calibration" in metrics:
        stages = scaling_stages(metrics["calibration"])
        curves = {name: stage["coverage_curve"] for name, stage in stages.items()}
        figures["coverage"] = audit_plots.plot_coverage(curves, 1 / num_emotions)
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
