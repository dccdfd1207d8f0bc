"""Train classical baselines on RAVDESS and TESS: acoustic functionals, scikit-learn, a model card each.

Try it offline, with synthetic voices (2 CPU cores: about a minute):

    python train_baselines.py --demo

The full run, each model under the speaker-independent folds of published results (no GPU needed):

    python train_baselines.py --corpora ravdess --protocol folds --output_dir runs/baselines

The random split of most notebooks, to see how much it inflates the scores:

    python train_baselines.py --corpora tess --features mfcc --protocol random --output_dir runs/random

Without options: RAVDESS speech and TESS, the emotions that both have, tested on fixed unseen speakers
(--protocol holdout). Each model gets a run folder of its own below --output_dir: card (README.md),
metrics.json, predictions.csv, figures and the fitted pipeline (model.skops).
"""

import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from utils.data.options import DataOptions
from utils.options import HubOptions, RunOptions, parse_options
from utils.runtime import InputError, run_script

MODELS = ("lda", "lr", "svm_rbf", "svm_poly", "rf", "knn")


@dataclass
class ModelOptions:
    """Which models, on which features."""

    _argument_group_name = "model"

    models: list[str] = field(
        default_factory=lambda: list(MODELS), metadata={"help": "Models to train.", "choices": MODELS}
    )
    features: str = field(
        default="full",
        metadata={"help": "full: 3075 functionals; mfcc: means of 40 MFCCs; compare, egemaps: openSMILE's.",
                  "choices": ("full", "mfcc", "compare", "egemaps")},
    )  # fmt: skip
    speaker_normalization: bool = field(
        default=False,
        metadata={"help": "Standardise over each speaker's own clips, those of test speakers too."},
    )


def parse_arguments(argv: list[str]) -> tuple[DataOptions, ModelOptions, RunOptions, HubOptions]:
    """Parse the command line."""
    types = (DataOptions, ModelOptions, RunOptions, HubOptions)
    defaults = {"output_dir": "runs/baselines"}
    return parse_options(argv, types, __doc__, defaults, demo={"output_dir": "runs/demo_baselines"})


if __name__ == "__main__":  # a wrong option ends here, before the slow imports
    OPTIONS = run_script(parse_arguments, sys.argv[1:])

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from utils.app import save_skops
from utils.data import load_clips, plan_models, selection_folds, selection_unit
from utils.evaluation import calibrate, permutation_importance, predict_perturbed
from utils.features import extract, extract_all, extract_table, feature_groups, normalize_speakers
from utils.hub import TrainingRun
from utils.report import TrainedModel, wants_robustness
from utils.runtime import describe_device, logger

# ---------------------------------------------------------------------------------------------------
# Models


def build_model(name: str, num_features: int, seed: int):
    """Return (the model in words, pipeline, grid of hyper-parameters). Everything fitted is inside."""
    common = {"class_weight": "balanced", "random_state": seed}
    if name == "lda":  # thousands of correlated functionals: few components, and a shrunk covariance
        words = "linear discriminant analysis of principal components"
        steps = [PCA(svd_solver="full"), LinearDiscriminantAnalysis(solver="lsqr")]
        shrinkage = [0.1, 0.2, 0.3, 0.5]
        grid = {"pca__n_components": [0.9, 0.95, 0.98], "lineardiscriminantanalysis__shrinkage": shrinkage}
    elif name == "lr":
        words, steps = "logistic regression", [LogisticRegression(max_iter=5_000, **common)]
        grid = {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1, 1]}
    elif name == "svm_rbf":
        words, steps = "a support vector machine with an RBF kernel", [SVC(kernel="rbf", **common)]
        # After standardisation the squared distance of two clips is about 2 * num_features.
        gammas = [share / num_features for share in (0.1, 0.3, 1)]
        grid = {"svc__C": [1, 3, 10, 30], "svc__gamma": gammas}
    elif name == "svm_poly":
        words = "a support vector machine with a polynomial kernel"
        steps = [SVC(kernel="poly", coef0=1.0, **common)]
        grid = {"svc__C": [0.1, 1], "svc__degree": [2, 3]}
    elif name == "rf":
        words = "a random forest of 500 trees"
        steps = [RandomForestClassifier(500, class_weight="balanced_subsample", random_state=seed)]
        grid = {"randomforestclassifier__max_features": ["sqrt", 0.1]}
    else:
        words, steps = "k nearest neighbours", [KNeighborsClassifier(weights="distance")]
        grid = {"kneighborsclassifier__n_neighbors": [5, 15, 31]}
    return words, make_pipeline(StandardScaler(), *steps), grid


def fit(name: str, features: np.ndarray, rows: pd.DataFrame, protocol: str, seed: int):
    """Return (fitted model with `predict_proba`, its temperature, chosen hyper-parameters).

    Args:
        features: (num_clips, num_features) of the training clips.
        rows: their `emotion`, `speaker` and `text`.
        protocol: hyper-parameters are chosen by cross-validation over speakers, or over texts where there
            are no more than three training speakers; under `random` over clips.
    """
    _, pipeline, grid = build_model(name, features.shape[1], seed)
    emotions, folds = rows["emotion"], selection_folds(rows, protocol, seed)
    with tempfile.TemporaryDirectory() as cache:
        if "pca" in pipeline.named_steps:  # it takes far longer than the steps after it
            pipeline.set_params(memory=cache)
        search = GridSearchCV(pipeline, grid, scoring="balanced_accuracy", cv=folds, n_jobs=-1)
        search.fit(features, emotions)
    model = search.best_estimator_.set_params(memory=None)
    by_speaker = selection_unit(rows, protocol) == "speaker"
    return *calibrate(model, features, rows, folds, by_speaker), search.best_params_


def predict_proba(model, features: np.ndarray, emotions: tuple[str, ...]) -> np.ndarray:
    """Return probabilities, float64 (num_clips, num_emotions), in the order of `emotions`."""
    order = [list(model.classes_).index(emotion) for emotion in emotions]  # scikit-learn sorts by name
    return model.predict_proba(features)[:, order].astype(np.float64)


# ---------------------------------------------------------------------------------------------------
# Run


def main(data: DataOptions, choice: ModelOptions, options: RunOptions, hub: HubOptions) -> None:
    logger.info("Run folders below %s, %s", options.output_dir, describe_device("cpu"))
    runs, unpublished = {}, []
    for name in dict.fromkeys(choice.models):
        repository = hub.hub_model_id or Path(options.output_dir).resolve().name
        repository += f"-{name}" if len(choice.models) > 1 else ""
        folder = Path(options.output_dir) / name
        run = TrainingRun(__file__, folder, data, options, hub, choice, repository=repository)
        if run.is_complete:
            run.close_complete()
        else:
            runs[name] = run
    if not runs:
        return

    clips = load_clips(data, options.evaluate_on)
    plan = plan_models(clips, data.protocol, options.seed, validates=False)
    features = extract_table(clips.waveforms, clips.digests, data.cache_folder(), choice.features)
    if choice.speaker_normalization:
        index = clips.table.index
        features[index] = normalize_speakers(features[index], clips.table["speaker"])
    for run in runs.values():  # all of them first, so that an interruption leaves no outdated card
        run.begin(clips, plan, {"features": choice.features, "normalized": choice.speaker_normalization})
    perturbed = None
    if wants_robustness(data, options) and not choice.speaker_normalization:  # all models share the features
        test = plan.final[plan.final["split"] == "test"]
        perturbed = predict_perturbed(
            lambda waveforms: extract_all(waveforms, choice.features), test, clips.waveforms, options.seed
        )

    for name, run in runs.items():
        run.started = time.perf_counter()
        try:
            train(name, run, choice, features, perturbed)
        except InputError as error:  # of its publication; the other models are still to be trained
            logger.warning("%s: %s", name, error)
            unpublished.append(error)
    if unpublished:
        raise unpublished[0]


def train(
    name: str, run: TrainingRun, choice: ModelOptions, features: np.ndarray, perturbed: dict | None
) -> None:
    """Train one kind of model on each split of the plan, score and report it.

    Args:
        features: (num_clips, num_features).
        perturbed: perturbation -> features of the perturbed test clips; None: robustness is not tested.
    """
    plan, emotions, seed = run.plan, run.clips.emotions, run.options.seed
    last_fold, groups = list(plan.folds)[-1], list(feature_groups(choice.features).values())
    for fold, split in run.unfinished():
        train_rows, test_rows = (split[split["split"] == part] for part in ("train", "test"))
        begun = time.perf_counter()
        model, temperature, chosen = fit(
            name, features[train_rows.index], train_rows, run.data.protocol, seed
        )
        facts = {"chosen": chosen, "temperature": temperature, "importance": None}
        facts["seconds"] = time.perf_counter() - begun
        if split is plan.final:  # what is scored is what was saved
            model, trusted, megabytes = save_skops(model, run.folder)
        if fold == last_fold:  # once is enough: it takes as long as the training
            facts["importance"] = permutation_importance(
                model.predict, features[test_rows.index], test_rows["emotion"], groups, emotions, seed
            )
        run.score(
            fold, lambda part, rows, model=model: predict_proba(model, features[rows.index], emotions), facts
        )
    trained = describe(name, run, choice, model, features.shape[1])
    trained.about |= {"trusted_types": trusted, "weights_mb": megabytes}
    if perturbed:
        trained.perturbed = {kind: predict_proba(model, each, emotions) for kind, each in perturbed.items()}
    run.finish(trained)


def describe(name: str, run: TrainingRun, choice: ModelOptions, model, num_features: int) -> TrainedModel:
    """Return the saved model with what the report says of it and of its training."""

    def predict(waveforms: list[np.ndarray]) -> np.ndarray:
        features = extract_all(waveforms, choice.features)
        if choice.speaker_normalization:  # all waveforms of a call are of one speaker
            features = normalize_speakers(features, ["one"] * len(features))
        return predict_proba(model, features, run.clips.emotions)

    words, _, _ = build_model(name, num_features, run.options.seed)
    standardised = ", standardised over its speaker's clips" if choice.speaker_normalization else ""
    facts = list(run.facts.values())[-1]
    chosen = ", ".join(f"{option.split('__')[1]} = {value}" for option, value in facts["chosen"].items())
    final = run.plan.final
    unit = selection_unit(final[final["split"] == "train"], run.data.protocol)
    return TrainedModel(
        predict_proba=predict,
        classify=lambda waveform: model.predict_proba([extract(waveform, choice.features)]),
        about={
            "library": "sklearn",
            "name": name,
            "description": f"{words} on {num_features} functionals of a clip{standardised}",
            "feature_set": choice.features,
            "speaker_normalization": choice.speaker_normalization,
        },
        training={
            "description": "Hyper-parameters were chosen by cross-validation inside the training clips, over "
            f"{unit}s; for the saved model: {chosen}.",
            "seconds": facts["seconds"],
            "chosen": facts["chosen"],
        },
        packages=("scikit-learn", "skops", "librosa", "datasets", "evaluate", "huggingface_hub"),
        device=describe_device("cpu"),
        sections={"importance": run.facts[list(run.plan.folds)[-1]]["importance"]},
        needs_speaker=choice.speaker_normalization,
    )


if __name__ == "__main__":
    run_script(main, *OPTIONS)
