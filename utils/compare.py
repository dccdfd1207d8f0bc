"""Several run folders come in; one table, paired tests and an ensemble of them go out.

    python -m utils.compare runs/a runs/b --output_dir runs/comparison

Runs that were not tested on the same clips under the same labels and the same split are refused. A run
with `--protocol random` beside one of the same model is shown for what it is: how much the split gave it.
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

from utils.evaluation.intervals import uar_difference
from utils.report.predictions import read_predictions, score_predictions
from utils.report.plots import plot_comparison
from utils.report.style import save_figure
from utils.runtime import InputError, logger, refuse_arguments, run_script, write_text


@dataclass(frozen=True)
class Run:
    """A finished run: its folder's name, metrics.json and predictions.csv, sorted by clip."""

    name: str
    metrics: dict
    predictions: pd.DataFrame


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is not there or not complete.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        predictions = read_predictions(folder / "predictions.csv")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: expected the folder of a finished run ({error})") from None
    # runs/leak/svm_rbf and runs/baselines/svm_rbf are two runs.
    parent, name = folder.resolve().parent.name, folder.resolve().name
    name = name if parent == "runs" else f"{parent}/{name}"
    return Run(name, metrics, predictions.sort_values(["corpus", "clip"], ignore_index=True))


def check_comparable(runs: list[Run]) -> None:
    """Refuse runs whose figures do not belong into one table, and say why."""
    first = runs[0]
    for run in runs[1:]:
        for key, words in (("emotions", "emotions"), ("protocol", "protocol"), ("split_digest", "split")):
            if run.metrics[key] != first.metrics[key]:
                raise InputError(
                    f"{first.name} and {run.name} cannot be compared: another {words} "
                    f"({first.metrics[key]} against {run.metrics[key]})"
                )


def ensemble(runs: list[Run]) -> pd.DataFrame:
    """Return the predictions of the mean of the runs' probabilities."""
    emotions = runs[0].metrics["emotions"]
    columns = [f"p_{emotion}" for emotion in emotions]
    predictions = runs[0].predictions.copy()
    predictions[columns] = np.mean([run.predictions[columns].to_numpy() for run in runs], axis=0)
    predictions["predicted"] = np.asarray(emotions)[predictions[columns].to_numpy().argmax(axis=1)]
    return predictions


def results_table(runs: list[Run]) -> pd.DataFrame:
    """Return a row per run, best UAR first, and last the ensemble if there are several."""
    emotions = runs[0].metrics["emotions"]
    rows = [
        _row(_marked_name(run), run.metrics["test"], run.metrics) | _fold_columns(run.predictions, emotions)
        for run in runs
    ]
    rows.sort(key=lambda row: -row["UAR %"])
    if len(runs) > 1:
        together = ensemble(runs)
        scores = score_predictions(together, emotions)
        rows.append(_row("mean of all", scores, None) | _fold_columns(together, emotions))
    return pd.DataFrame(rows)


def _fold_columns(predictions: pd.DataFrame, emotions: list[str]) -> dict:
    """Return the UAR of each fold where they are two or three: each is a direction or a speaker."""
    folds = dict(list(predictions.groupby("fold", sort=True)))
    if len(folds) not in (2, 3):
        return {}
    names = {
        fold: rows["speaker"].iloc[0] if rows["speaker"].nunique() == 1 else fold
        for fold, rows in folds.items()
    }
    uar = {names[fold]: score_predictions(rows, emotions)["uar"] for fold, rows in folds.items()}
    return {f"UAR % {name}": round(100 * value, 1) for name, value in uar.items()}


def _marked_name(run: Run) -> str:
    """Say of a run that heard more of its test speakers than the clip in question."""
    return run.name + (" (speaker-normalised)" if run.metrics["model"].get("speaker_normalization") else "")


def _row(name: str, scores: dict, metrics: dict | None) -> dict:
    interval = scores["intervals"]["uar"]
    return {
        "run": name,
        "clips": scores["clips"],
        "UAR %": round(100 * scores["uar"], 1),
        "95 % interval": f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "one speaker",
        "accuracy %": round(100 * scores["accuracy"], 1),
        "macro-F1 %": round(100 * scores["macro_f1"], 1),
        "training s": round(metrics["training"]["seconds"]) if metrics else "",
        "ms per clip": round(metrics["latency"]["p50_ms"], 1) if metrics else "",
        "MB": round(metrics["model"]["weights_mb"], 1) if metrics else "",
    }


def paired_tests(runs: list[Run]) -> pd.DataFrame:
    """Return a row per pair of runs: McNemar's test over clips (exact, Holm-corrected over the pairs) and
    the interval over speakers of the difference of their UAR."""
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests

    emotions = runs[0].metrics["emotions"]
    labels = {emotion: label for label, emotion in enumerate(emotions)}
    rows = []
    for first, second in itertools.combinations(runs, 2):
        truth = first.predictions["emotion"]
        right = [(run.predictions["predicted"] == truth).to_numpy() for run in (first, second)]
        table = [[np.sum(a & b) for b in (right[1], ~right[1])] for a in (right[0], ~right[0])]
        interval = uar_difference(
            truth.map(labels),
            *(run.predictions["predicted"].map(labels) for run in (first, second)),
            first.predictions["speaker"],
            len(emotions),
        )
        difference = first.metrics["test"]["uar"] - second.metrics["test"]["uar"]
        rows.append(
            {
                "pair": f"{first.name} - {second.name}",
                "UAR points": round(100 * difference, 1),
                "95 % interval": f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "",
                "McNemar p": float(mcnemar(table, exact=True).pvalue),
            }
        )
    tests = pd.DataFrame(rows)
    if len(tests):
        tests["Holm p"] = multipletests(tests["McNemar p"], method="holm")[1]
    return tests


def inflation_by_random_split(runs: list[Run], random_runs: list[Run]) -> pd.DataFrame:
    """Return a row per random-split run that has a speaker-independent run of the same model."""
    rows = []
    for leaky, honest in itertools.product(random_runs, runs):
        if all(
            _same(leaky.metrics, honest.metrics, key) for key in ("script", "emotions", "model", "corpora")
        ):
            flattered, true = (100 * run.metrics["test"]["uar"] for run in (leaky, honest))
            rows.append(
                {
                    "run": leaky.name,
                    "UAR % on a random split": round(flattered, 1),
                    f"UAR % of the same model under `{honest.metrics['protocol']}`": round(true, 1),
                    "points that are the split's": round(flattered - true, 1),
                }
            )
    return pd.DataFrame(rows)


def _same(first: dict, second: dict, key: str) -> bool:
    if key == "model":
        return all(
            first[key].get(name) == second[key].get(name)
            for name in ("description", "feature_set", "speaker_normalization")
        )
    if key == "corpora":
        return [corpus["name"] for corpus in first[key]] == [corpus["name"] for corpus in second[key]]
    return first[key] == second[key]


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown; p-values with three significant digits."""
    table = table.copy()
    for name in table.columns:
        if name.endswith(" p"):
            table[name] = table[name].map("{:.3g}".format)
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def update_between_markers(path: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->` in a file."""
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
    parser.add_argument("--output_dir", default="runs/comparison", help="table.md, table.csv, bars.png")
    parser.add_argument("--update", help="a Markdown file; the table goes between its markers")
    parser.add_argument("--marker", help="name of those markers: <!-- NAME --> ... <!-- /NAME -->")
    args = parser.parse_args(sys.argv[1:])
    if bool(args.update) != bool(args.marker):
        raise InputError("--update and --marker: give both or neither")
    everything = [read_run(Path(folder)) for folder in args.runs]
    random_runs = [run for run in everything if run.metrics["protocol"] == "random"]
    runs = [run for run in everything if run not in random_runs] or random_runs
    check_comparable(runs)

    table = results_table(runs)
    tests = [markdown(paired_tests(runs))] if len(runs) > 1 else []
    split_gains = inflation_by_random_split(runs, random_runs) if runs is not random_runs else []
    leaked = [markdown(split_gains)] if len(split_gains) else []
    text = "\n\n".join([markdown(table), *tests, *leaked])
    logger.info("%s", text)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_text(output_dir / "table.md", text + "\n")
    write_text(output_dir / "table.csv", table.to_csv(index=False))
    scores = {run.name: run.metrics["test"] for run in runs}
    save_figure(plot_comparison(scores, len(runs[0].metrics["emotions"])), output_dir / "bars.png")
    if args.update:
        text = "\n\n".join([markdown(table), *leaked])
        update_between_markers(Path(args.update), args.marker, text)
    logger.info("Written to %s", output_dir)


if __name__ == "__main__":
    run_script(main)
