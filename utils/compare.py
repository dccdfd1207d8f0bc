"""Compare finished runs: a table of results with an ensemble, and paired significance tests.

    python -m utils.compare runs/a runs/b --output_dir runs/comparison

All runs must have the same test clips, emotions and split; others are refused. Runs with `--protocol random`
are not ranked: the inflation of their UAR is shown beside the UAR of the same model on a speaker-independent
split. UAR: unweighted average recall, the mean of the per-emotion recalls.
"""

import argparse
import itertools
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.evaluation.intervals import uar_difference, uar_difference_p_value
from utils.report.plots import plot_comparison
from utils.report.predictions import read_predictions, score_predictions
from utils.report.style import save_figure
from utils.runtime import InputError, logger, refuse_arguments, run_script, write_text

ENSEMBLE = "ensemble (mean of probabilities)"
INFLATION = "inflation by the random split (points)"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of its folder.
        metrics: metrics.json.
        predictions: predictions.csv, sorted by corpus and clip.
    """

    name: str
    metrics: dict
    predictions: pd.DataFrame


def read_run(folder: Path) -> Run:
    """Read the folder of a run.

    Raises:
        InputError: the folder does not exist or is not complete.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        predictions = read_predictions(folder / "predictions.csv")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: expected the folder of a finished run ({error})") from None
    # With the parent folder: runs/random/svm_rbf and runs/folds/svm_rbf need different names.
    parent, name = folder.resolve().parent.name, folder.resolve().name
    name = name if parent == "runs" else f"{parent}/{name}"
    return Run(name, metrics, predictions.sort_values(["corpus", "clip"], ignore_index=True))


def check_comparable(runs: list[Run]) -> None:
    """Raise InputError if the scores of the runs are not comparable."""
    first = runs[0]
    for run in runs[1:]:
        for key, description in (
            ("emotions", "emotions"),
            ("protocol", "protocols"),
            ("split_digest", "splits"),
        ):
            if run.metrics[key] != first.metrics[key]:
                raise InputError(
                    f"{first.name} and {run.name} cannot be compared: they have different {description} "
                    f"({first.metrics[key]} and {run.metrics[key]})"
                )


def ensemble(runs: list[Run]) -> pd.DataFrame:
    """Return predictions by the mean of the probabilities of the runs, in the format of predictions.csv."""
    emotions = runs[0].metrics["emotions"]
    columns = [f"p_{emotion}" for emotion in emotions]
    predictions = runs[0].predictions.copy()
    predictions[columns] = np.mean([run.predictions[columns].to_numpy() for run in runs], axis=0)
    predictions["predicted"] = np.asarray(emotions)[predictions[columns].to_numpy().argmax(axis=1)]
    return predictions


def results_table(runs: list[Run]) -> pd.DataFrame:
    """Return a row per run, sorted by UAR, and for several runs a last row for their ensemble."""
    emotions = runs[0].metrics["emotions"]
    rows = [
        _result_row(_display_name(run), run.metrics["test"], run.metrics)
        | _fold_columns(run.predictions, emotions)
        for run in runs
    ]
    rows.sort(key=lambda row: -row["UAR %"])
    if len(runs) > 1:
        predictions = ensemble(runs)
        row = _result_row(ENSEMBLE, score_predictions(predictions, emotions), None)
        rows.append(row | _fold_columns(predictions, emotions))
    return pd.DataFrame(rows)


def _fold_columns(predictions: pd.DataFrame, emotions: list[str]) -> dict:
    """Return the UAR of each of two or three folds, or of each of two or three corpora of a single fold."""
    column = "fold" if predictions["fold"].nunique() > 1 else "corpus"
    folds = dict(list(predictions.groupby(column, sort=True)))
    if len(folds) not in (2, 3):
        return {}
    names = {
        fold: rows["speaker"].iloc[0] if column == "fold" and rows["speaker"].nunique() == 1 else fold
        for fold, rows in folds.items()
    }
    uar = {names[fold]: score_predictions(rows, emotions)["uar"] for fold, rows in folds.items()}
    return {f"UAR % {name}": round(100 * value, 1) for name, value in uar.items()}


def _display_name(run: Run) -> str:
    """Return the name of a run, marked if its predictions depend on other clips of the test speaker."""
    return run.name + (" (speaker-normalised)" if run.metrics["model"].get("speaker_normalization") else "")


def _result_row(name: str, scores: dict, metrics: dict | None) -> dict:
    """Return a row of `results_table`; `metrics` is None for the ensemble."""
    interval = scores["intervals"]["uar"]
    return {
        "run": name,
        "clips": scores["clips"],
        "UAR %": round(100 * scores["uar"], 1),
        "95 % interval": format_interval(interval),
        "accuracy %": round(100 * scores["accuracy"], 1),
        "macro-F1 %": round(100 * scores["macro_f1"], 1),
        "training s": round(metrics["training"]["seconds"]) if metrics else "",
        "ms per clip": round(metrics["latency"]["p50_ms"], 1) if metrics else "",
        "MB": round(metrics["model"]["weights_mb"], 1) if metrics else "",
    }


def format_interval(interval: list[float] | None) -> str:
    """Return an interval in %; a dash where there are too few speakers for one."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "–"


def paired_tests(runs: list[Run]) -> pd.DataFrame:
    """Return a row per pair of runs: the difference in UAR, its interval, and a paired permutation test over
    speakers (see `uar_difference_p_value`), corrected for the number of pairs by Holm's method."""
    from statsmodels.stats.multitest import multipletests

    emotions = runs[0].metrics["emotions"]
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    rows = []
    for first, second in itertools.combinations(runs, 2):
        clips = first.predictions
        compared = [clips["emotion"].map(labels)]
        compared += [run.predictions["predicted"].map(labels) for run in (first, second)]
        interval = uar_difference(*compared, clips["speaker"], clips["corpus"], len(emotions))
        difference = first.metrics["test"]["uar"] - second.metrics["test"]["uar"]
        rows.append(
            {
                "pair": f"{first.name} - {second.name}",
                "UAR points": round(100 * difference, 1),
                "95 % interval": format_interval(interval),
                "permutation p": uar_difference_p_value(*compared, clips["speaker"], len(emotions)),
            }
        )
    tests = pd.DataFrame(rows)
    if len(tests):
        tests["Holm p"] = multipletests(tests["permutation p"], method="holm")[1]
    return tests


def inflation_by_random_split(runs: list[Run], random_runs: list[Run]) -> pd.DataFrame:
    """Return a row per pair of a random-split run and a speaker-independent run of the same model."""
    rows = []
    for random_run, run in itertools.product(random_runs, runs):
        if all(
            _is_equal(random_run.metrics, run.metrics, key)
            for key in ("script", "emotions", "model", "corpora")
        ):
            random_uar, uar = (100 * each.metrics["test"]["uar"] for each in (random_run, run))
            rows.append(
                {
                    "run": random_run.name,
                    "UAR % on a random split": round(random_uar, 1),
                    f"UAR % of the same model under `{run.metrics['protocol']}`": round(uar, 1),
                    INFLATION: round(random_uar - uar, 1),
                }
            )
    return pd.DataFrame(rows)


def _is_equal(first: dict, second: dict, key: str) -> bool:
    """Return whether two metrics.json agree in a key, of the model and the corpora only in their names."""
    if key == "model":
        return all(
            first[key].get(name) == second[key].get(name)
            for name in ("description", "feature_set", "speaker_normalization")
        )
    if key == "corpora":
        return [corpus["name"] for corpus in first[key]] == [corpus["name"] for corpus in second[key]]
    return first[key] == second[key]


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, with p-values (columns "... p") to three significant digits."""
    table = table.copy()
    for name in table.columns:
        if name.endswith(" p"):
            table[name] = table[name].map("{:.3g}".format)
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def update_between_markers(path: Path, marker: str, text: str) -> None:
    """Replace the text between `<!-- marker -->` and `<!-- /marker -->` in a file.

    Raises:
        InputError: the file does not have these markers.
    """
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {re.escape(marker)} -->\n).*?(<!-- /{re.escape(marker)} -->)", re.DOTALL)
    if not pattern.search(page):
        raise InputError(f"{path}: has no markers <!-- {marker} --> and <!-- /{marker} -->")
    write_text(path, pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument(
        "--output_dir", default="runs/comparison", help="for table.md, table.csv and bars.png"
    )
    parser.add_argument("--update", help="a Markdown file in which the table is replaced")
    parser.add_argument(
        "--marker", help="name of the markers around that table: <!-- NAME --> ... <!-- /NAME -->"
    )
    args = parser.parse_args(sys.argv[1:])
    if bool(args.update) != bool(args.marker):
        raise InputError("--update and --marker: give both or neither")
    all_runs = [read_run(Path(folder)) for folder in args.runs]
    random_runs = [run for run in all_runs if run.metrics["protocol"] == "random"]
    runs = [run for run in all_runs if run not in random_runs] or random_runs
    check_comparable(runs)

    table = results_table(runs)
    tests = [markdown(paired_tests(runs))] if len(runs) > 1 else []
    inflation = inflation_by_random_split(runs, random_runs) if runs is not random_runs else []
    inflation = [markdown(inflation)] if len(inflation) else []
    text = "\n\n".join([markdown(table), *tests, *inflation])
    logger.info("%s", text)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_text(output_dir / "table.md", text + "\n")
    write_text(output_dir / "table.csv", table.to_csv(index=False))
    scores = {run.name: run.metrics["test"] for run in runs}
    save_figure(plot_comparison(scores, len(runs[0].metrics["emotions"])), output_dir / "bars.png")
    if args.update:
        text = "\n\n".join([markdown(table), *inflation])
        update_between_markers(Path(args.update), args.marker, text)
    logger.info("Written to %s", output_dir)


if __name__ == "__main__":
    run_script(main)
