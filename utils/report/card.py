"""The model card of a run: `README.md`, rendered from the template `model_card.md` and metrics.json.

Every number in the card is read from the run's metrics.json; a missing number is an error.
"""

import json
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from utils.data.corpora import CORPORA
from utils.data.custom_corpus import CUSTOM_LICENSE
from utils.evaluation.calibration import scaling_stages
from utils.report.requirements import oldest_reader
from utils.runtime import PROJECT_ROOT, write_text

TEMPLATE = PROJECT_ROOT / "model_card.md"

FIGURES = {
    "confusion_matrix.png": "Confusion matrix",
    "per_emotion.png": "Scores per emotion",
    "layers.png": "UAR of a linear probe after each encoder layer",
    "learning_curves.png": "Learning curves",
    "speakers.png": "UAR per test speaker",
    "robustness.png": "Recall under perturbations",
    "perturbations.png": "One clip under each perturbation",
    "coverage.png": "Accuracy of the most confident predictions",
    "reliability.png": "Reliability diagram",
    "model.png": "Layers of the network",
    "importance.png": "Permutation importance of the feature groups",
    "waveforms.png": "One test clip per emotion",
}

CORPUS_FIGURES = {"genders_": "Recall by gender", "intensity_": "UAR by intensity"}
"""Prefix of the figures of a corpus -> caption."""

_SCORES = (("uar", "recall", "UAR"), ("accuracy", "accuracy", "Accuracy"), ("macro_f1", "f1", "Macro-F1"))


def write_card(folder: Path, template: Path = TEMPLATE) -> None:
    """Render the model card of a finished run into its folder; it is the last file that a run writes."""
    write_text(folder / "README.md", render_card(folder, template))


def render_card(folder: Path, template: Path = TEMPLATE, published_as: str | None = None) -> str:
    """Return the model card of a finished run.

    Args:
        folder: folder of the run.
        template: the Jinja template.
        published_as: repository on the Hub ("owner/name") that the card is for; None: for the run's folder.

    Raises:
        jinja2.UndefinedError: metrics.json lacks a value that the template needs.
    """
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    name = published_as.split("/")[1] if published_as else folder.resolve().name
    # An absolute path would publish the folders of the user's machine.
    local = folder.as_posix() if not folder.is_absolute() else f"runs/{name}"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["percent"] = _percent
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        run=run,
        name=name,
        published=published_as is not None,
        model_id=published_as or local,
        card_data=card_data(run, name).to_yaml().strip(),
        corpus_names=[corpus["name"] for corpus in run["corpora"]],
        has_own_clips=_has_own_clips(run),
        license_note=_license(run)[1],
        scaling_stages=scaling_stages(run["calibration"]),
        oldest_reader=oldest_reader(run),
        scores_row=_scores_row,
        group_cells=_group_cells,
        figures={file: caption for file, caption in FIGURES.items() if (folder / "figures" / file).exists()},
        corpus_figures={
            path.name: f"{caption}, {path.stem.removeprefix(prefix)}"
            for prefix, caption in CORPUS_FIGURES.items()
            for path in sorted((folder / "figures").glob(f"{prefix}*.png"))
        },
        explained=sorted(
            path.stem.removeprefix("explained_") for path in (folder / "figures").glob("explained_*.png")
        ),
    )


def card_data(run: dict, name: str) -> ModelCardData:
    """Return the card's front matter, the metadata that the Hub shows and searches.

    Args:
        run: the run's metrics.json.
        name: name of the model.
    """
    names = [corpus["name"] for corpus in run["corpora"]]
    title = " + ".join(corpus["title"] for corpus in run["corpora"])
    dataset = {
        "dataset_type": "-".join(names),
        "dataset_name": f"{title}, {run['protocol']} split",
        "dataset_split": "test",
    }
    results = [
        EvalResult(
            task_type="audio-classification",
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=float(run["test"][key]),
            **dataset,
        )
        for key, metric_type, metric_name in _SCORES
    ]
    return ModelCardData(
        language=None if _has_own_clips(run) else "en",  # that of all corpora of the kit
        library_name=run["model"]["library"],
        pipeline_tag="audio-classification",
        tags=[
            "speech-emotion-recognition",
            "speech",
            "emotion",
            *(
                ["skops"] if run["model"]["library"] == "sklearn" else []
            ),  # selects the code snippet that the Hub shows
            *(["synthetic-demo"] if run["demo"] else []),
        ],
        base_model=run["model"]["base_model"],
        datasets=[CORPORA[name].hub_id for name in names if name in CORPORA and CORPORA[name].hub_id],
        metrics=[metric_type for _, metric_type, _ in _SCORES],
        model_name=name,
        eval_results=results,
        **_license(run)[0],
    )


def _has_own_clips(run: dict) -> bool:
    """Return whether the user's own recordings are among the training data."""
    return any(corpus["license"] == CUSTOM_LICENSE for corpus in run["corpora"])


def _license(run: dict) -> tuple[dict, str]:
    """Return the licence fields of the front matter, and a sentence that explains them."""
    used = {corpus["license"]: corpus["license_url"] for corpus in run["corpora"]}
    if run["demo"]:
        return {"license": "apache-2.0"}, "The voices are synthetic; the weights are under Apache-2.0."
    non_commercial = [name for name in used if "-nc" in name]
    note = "These weights are under the terms of every licence above"
    if non_commercial:
        corpora = "The corpora are" if len(non_commercial) == len(used) else "Some of the corpora are"
        note = (
            f"{corpora} for non-commercial use only, and so are models trained on them: these weights are "
            "for non-commercial research and teaching, under the terms of every licence above"
        )
    if _has_own_clips(run):
        others = f"{note}, and under" if len(used) > 1 else "The weights are under"
        fields = {"license": "other", "license_name": "terms-of-the-recordings"}
        return fields, f"{others} the terms of the user's own clips."
    if len(used) == 1:
        return {"license": next(iter(used))}, f"{note} ({next(iter(used)).upper()})."
    fields = {
        "license": "other",
        "license_name": "-and-".join(used),
        "license_link": used.get("cc-by-nc-nd-4.0", next(iter(used.values()))),
    }
    conflict = any("-sa" in name for name in used) and any("-nd" in name for name in used)
    reason = (
        "Share-alike and no-derivatives licences are incompatible"
        if conflict
        else "These licences may be incompatible"
    )
    return fields, (
        f"{note}. {reason}: ask the owners of the corpora before you publish weights trained on "
        f"{'both' if len(used) == 2 else 'all of them'}."
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:z.1f}"  # z: no negative zero


def _scores_row(scores: dict) -> str:
    """Return the cells of a row of the results table: clips, speakers, scores with intervals, loss."""
    cells = [str(scores["clips"]), str(scores["speakers"])]
    for key in ("uar", "accuracy"):
        interval = scores["intervals"][key]
        bounds = (
            f" [{_percent(interval[0])}, {_percent(interval[1])}]"
            if interval
            else " (no interval: too few speakers)"
        )
        cells.append(_percent(scores[key]) + bounds)
    return " | ".join([*cells, _percent(scores["macro_f1"]), f"{scores['loss']:.3f}"])


def _group_cells(group: dict) -> str:
    """Return the cells of a row of the subgroup table: clips, speakers, UAR with its interval."""
    low, high = group["interval"] or (None, None)
    bounds = f" [{_percent(low)}, {_percent(high)}]" if group["interval"] else ""
    bounds += " over clips" if bounds and group["sampling_unit"] == "clips" else ""
    return f"{group['clips']} | {group['speakers']} | {_percent(group['uar'])}{bounds}"
