"""A run folder and the template `model_card.md` come in; the folder's `README.md` goes out.

Every figure in the card is read from the run's metrics.json; one that is not there is an error.
"""

import json
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from utils.data.corpora import CORPORA
from utils.data.custom_corpus import CUSTOM_LICENSE
from utils.runtime import PROJECT_ROOT, write_text

TEMPLATE = PROJECT_ROOT / "model_card.md"

FIGURES = {
    "confusion_matrix.png": "Confusion matrix",
    "per_emotion.png": "Scores per emotion",
    "layers.png": "How much each layer of the encoder knows",
    "learning_curves.png": "Learning curves",
    "speakers.png": "UAR of each speaker",
    "stress.png": "How it does under other conditions",
    "conditions.png": "What these conditions make of a clip",
    "coverage.png": "What is gained by declining the clips it is least sure of",
    "reliability.png": "How often it is right when it is so sure",
    "model.png": "The network, layer by layer",
    "importance.png": "What each group of features is worth",
    "waveforms.png": "One clip per emotion",
}

_SCORES = (("uar", "recall", "UAR"), ("accuracy", "accuracy", "Accuracy"), ("macro_f1", "f1", "Macro-F1"))


def write_card(folder: Path, template: Path = TEMPLATE) -> None:
    """Render the model card of a finished run into its folder; README.md is a run's last file."""
    write_text(folder / "README.md", render_card(folder, template))


def render_card(folder: Path, template: Path = TEMPLATE, published_as: str | None = None) -> str:
    """Return the model card of a finished run, for its folder or for the repository `published_as`."""
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    name = published_as.split("/")[1] if published_as else folder.resolve().name
    # As the user wrote it, where that says nothing of their machine.
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
        license_words=_license(run)[1],
        scores_row=_scores_row,
        figures={file: text for file, text in FIGURES.items() if (folder / "figures" / file).exists()},
        corpus_figures=sorted(
            path.name
            for kind in ("genders", "intensity")
            for path in (folder / "figures").glob(f"{kind}_*.png")
        ),
        explained=sorted(
            path.stem.removeprefix("explained_") for path in (folder / "figures").glob("explained_*.png")
        ),
    )


def card_data(run: dict, name: str) -> ModelCardData:
    """Return the card's front matter: what the Hub shows and searches."""
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
        language="en",
        library_name=run["model"]["library"],
        pipeline_tag="audio-classification",
        tags=[
            "speech-emotion-recognition",
            "speech",
            "emotion",
            *(["skops"] if run["model"]["library"] == "sklearn" else []),  # the Hub's snippet goes by it
            *(["synthetic-demo"] if run["demo"] else []),
        ],
        base_model=run["model"]["base_model"],
        datasets=[CORPORA[name].hub_id or name for name in names if name in CORPORA],
        metrics=[metric_type for _, metric_type, _ in _SCORES],
        model_name=name,
        eval_results=results,
        **_license(run)[0],
    )


def _license(run: dict) -> tuple[dict, str]:
    """Return the licence fields of the front matter, and the words that explain them."""
    used = {corpus["license"]: corpus["license_url"] for corpus in run["corpora"]}
    if run["demo"]:
        return {"license": "apache-2.0"}, "The voices are synthetic; the weights are under Apache-2.0."
    unfree = [name for name in used if "-nc" in name]
    words = "These weights are under the terms of every licence above"
    if unfree:
        corpora = "The corpora are" if len(unfree) == len(used) else "Some of the corpora are"
        words = (
            f"{corpora} for non-commercial use only, and what was learnt from them is no freer: these "
            "weights are for non-commercial research and teaching, under the terms of every licence above"
        )
    if CUSTOM_LICENSE in used:
        others = f"{words}, and under" if len(used) > 1 else "The weights are under"
        return {"license": "other"}, f"{others} the terms of the clips that their owner brought along."
    if len(used) == 1:
        return {"license": next(iter(used))}, f"{words} ({next(iter(used)).upper()})."
    fields = {
        "license": "other",
        "license_name": "-and-".join(used),
        "license_link": used.get("cc-by-nc-nd-4.0", next(iter(used.values()))),
    }
    clash = any("-sa" in name for name in used) and any("-nd" in name for name in used)
    reason = "Share-alike and no-derivatives do not fit together" if clash else "They may not fit together"
    return fields, (
        f"{words}. {reason}: ask the corpora's owners before you publish weights trained on "
        f"{'both' if len(used) == 2 else 'all of them'}."
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _scores_row(scores: dict) -> str:
    cells = [str(scores["clips"]), str(scores["speakers"])]
    for key in ("uar", "accuracy"):
        interval = scores["intervals"][key]
        bounds = (
            f" [{_percent(interval[0])}, {_percent(interval[1])}]"
            if interval
            else " (one speaker: no interval)"
        )
        cells.append(_percent(scores[key]) + bounds)
    return " | ".join([*cells, _percent(scores["macro_f1"]), f"{scores['loss']:.3f}"])
