"""Train classical baselines on RAVDESS and TESS: functionals of the voice, scikit-learn, a model card each.

Try it offline, with synthetic voices (2 CPU cores: about a minute):

    python train_baselines.py --demo

The real thing, each model under speaker-independent folds that others publish on (no GPU needed):

    python train_baselines.py --corpora ravdess --protocol folds --output_dir runs/baselines

What the usual notebook does, to see how much its random split flatters it:

    python train_baselines.py --corpora tess --features mfcc --protocol random --output_dir runs/leak

Each model gets a run folder of its own below --output_dir, with its card (README.md), metrics.json,
predictions.csv, figures and the fitted pipeline (model.skops).
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from utils.data.audio import SAMPLING_RATE
from utils.data.corpora import CORPORA, REAL_CORPORA
from utils.data.custom_corpus import find_training_corpora
from utils.data.demo import make_demo_corpus
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.splits import (
    PROTOCOL_WORDS,
    PROTOCOLS,
    SINGLE_MODEL,
    SPLITS,
    folds_digest,
    select_emotions,
    selection_groups,
    split_models,
)
from utils.data.table import check_table, read_table
from utils.evaluation.calibration import describe_scaling
from utils.evaluation.explanations import permutation_importance
from utils.evaluation.latency import measure_latency
from utils.evaluation.robustness import judge, predict_perturbed, wants_robustness_test
from utils.features.extraction import (
    FEATURE_SETS,
    extract,
    extract_all,
    extract_table,
    feature_groups,
    feature_names,
    normalize_speakers,
)
from utils.hub.checkpoints import CheckpointUploader, fetch_checkpoints
from utils.hub.publication import check_hub_options, publish
from utils.hub.repository import Repository
from utils.report import report
from utils.report.audit import audit
from utils.report.card import write_card
from utils.report.run_folder import begin_run, check_run_folder, save_reference_predictions
from utils.runtime import (
    PROJECT_ROOT,
    InputError,
    cache_folder,
    describe_device,
    logger,
    refuse_arguments,
    run_script,
    write_bytes,
    write_json,
    write_text,
)
from utils.score import evaluate_on

# ---------------------------------------------------------------------------------------------------
# Arguments

MODELS = ("lda", "lr", "svm_rbf", "svm_poly", "rf", "knn")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the options; --demo stands for `--output_dir runs/demo_baselines`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    # Data
    parser.add_argument("--corpora", nargs="+", default=["ravdess", "tess"], choices=REAL_CORPORA)
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with the clips")
    parser.add_argument(
        "--train_on",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of own labelled clips, to train on too",
    )
    parser.add_argument("--emotions", nargs="+", help="labels; by default those that all corpora have")
    parser.add_argument("--protocol", default="holdout", choices=PROTOCOLS)
    parser.add_argument("--allow_partial", action="store_true", help="run although clips are missing")
    parser.add_argument("--cache_dir", help="folder for decoded audio and features")
    parser.add_argument("--demo", action="store_true", help="synthetic voices, offline; no real results")
    # Model
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--features", default="full", choices=FEATURE_SETS)
    parser.add_argument(
        "--speaker_normalization",
        action="store_true",
        help="standardise over each speaker's own clips, the test speakers' too; figures are marked",
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--resume_from_checkpoint", nargs="?", const="true", choices=["true", "hub"])
    # Report
    parser.add_argument("--output_dir", help="a run folder per model is made below it")
    parser.add_argument("--overwrite", action="store_true", help="replace the runs that are there")
    parser.add_argument(
        "--evaluate_on",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of own labelled clips, to score too",
    )
    parser.add_argument("--no_stress_test", action="store_true", help="leave out the test of robustness")
    parser.add_argument("--stress_test", action="store_true", help="make it in the demo, too")
    # Publication
    parser.add_argument("--push_to_hub", action="store_true", help="publish the runs (HF_TOKEN)")
    parser.add_argument(
        "--hub_model_id",
        help="user/name, followed by -<model> where there are several --models; by default the folder's name",
    )
    parser.add_argument("--hub_private_repo", action="store_true", help="make the repositories private")
    parser.add_argument(
        "--hub_strategy",
        default="end",
        choices=["end", "checkpoint"],
        help="checkpoint: keep the unfinished run there too; --resume_from_checkpoint hub goes on anywhere",
    )
    arguments = parser.parse_args(argv)
    arguments.output_dir = arguments.output_dir or (
        "runs/demo_baselines" if arguments.demo else "runs/baselines"
    )
    check_hub_options(vars(arguments))
    return arguments


# ---------------------------------------------------------------------------------------------------
# Model


def build_model(name: str, num_features: int, seed: int):
    """Return (pipeline, grid of hyper-parameters, the model in words). Everything fitted is inside."""
    scaler = StandardScaler()
    if name == "lda":
        # Thousands of functionals that say much the same: few directions, and a shrunk covariance.
        pipeline = make_pipeline(scaler, PCA(svd_solver="full"), LinearDiscriminantAnalysis(solver="lsqr"))
        grid = {
            "pca__n_components": [0.9, 0.95, 0.98],
            "lineardiscriminantanalysis__shrinkage": [0.1, 0.2, 0.3, 0.5],
        }
        return pipeline, grid, "linear discriminant analysis of principal components"
    if name == "lr":
        model = LogisticRegression(max_iter=5_000, class_weight="balanced", random_state=seed)
        return (
            make_pipeline(scaler, model),
            {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1, 1]},
            "logistic regression",
        )
    if name == "svm_rbf":
        model = SVC(kernel="rbf", class_weight="balanced", random_state=seed)
        # Of standardised features, two clips are about 2 * num_features apart, squared.
        grid = {"svc__C": [1, 3, 10, 30], "svc__gamma": [share / num_features for share in (0.1, 0.3, 1)]}
        return make_pipeline(scaler, model), grid, "a support vector machine with an RBF kernel"
    if name == "svm_poly":
        model = SVC(kernel="poly", class_weight="balanced", coef0=1.0, random_state=seed)
        grid = {"svc__C": [0.1, 1], "svc__degree": [2, 3]}
        return make_pipeline(scaler, model), grid, "a support vector machine with a polynomial kernel"
    if name == "rf":
        model = RandomForestClassifier(500, class_weight="balanced_subsample", random_state=seed)
        grid = {"randomforestclassifier__max_features": ["sqrt", 0.1]}
        return make_pipeline(scaler, model), grid, "a random forest of 500 trees"
    model = KNeighborsClassifier(weights="distance")
    return (
        make_pipeline(scaler, model),
        {"kneighborsclassifier__n_neighbors": [5, 15, 31]},
        "k nearest neighbours",
    )


def fit(name: str, features: np.ndarray, rows: pd.DataFrame, protocol: str, seed: int):
    """Return (fitted pipeline with `predict_proba`, chosen hyper-parameters).

    Args:
        features: (num_clips, num_features) of the training clips.
        rows: their `emotion`, `speaker` and `text`.
        protocol: under `random` clips are drawn at random here too; else what is chosen is chosen by
            cross-validation over speakers, or over words where one or two speakers train.
    """
    pipeline, grid, _ = build_model(name, features.shape[1], seed)
    groups = selection_groups(rows, protocol)
    folds = GroupKFold(min(4, groups.nunique())) if protocol != "random" else 4
    with tempfile.TemporaryDirectory() as kept:
        if "pca" in pipeline.named_steps:  # it takes far longer than what comes after it
            pipeline.set_params(memory=kept)
        search = GridSearchCV(pipeline, grid, scoring="balanced_accuracy", cv=folds, n_jobs=-1)
        search.fit(features, rows["emotion"], groups=groups)
    model = search.best_estimator_.set_params(memory=None)
    if not hasattr(model, "predict_proba"):  # a support vector machine: probabilities by Platt's method
        model = CalibratedClassifierCV(model, ensemble=False, n_jobs=-1).fit(features, rows["emotion"])
    return model, search.best_params_


def hear(model, features: np.ndarray, emotions: tuple[str, ...]) -> np.ndarray:
    """Return probabilities (num_clips, num_emotions) in the order of `emotions`."""
    order = [list(model.classes_).index(emotion) for emotion in emotions]  # scikit-learn sorts by name
    # As float64 they are scored as predictions.csv has them, to the last digit.
    return model.predict_proba(features)[:, order].astype(np.float64)


def tell(
    model, features: np.ndarray, clips: pd.DataFrame, emotions: tuple[str, ...], fold: str
) -> pd.DataFrame:
    """Return the `report.prediction_table` of some clips; `clips.index` are their rows in `features`."""
    return report.prediction_table(clips, hear(model, features[clips.index], emotions), emotions, fold)


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    device = describe_device("cpu")
    output_dir = Path(args.output_dir)
    logger.info("Run folders below %s, %s", output_dir, device)
    if args.demo:
        logger.info("DEMO: synthetic voices. These are not real results.")

    # -----------------------------------------------------------------------------------------------
    # Labelled table

    cache_dir = Path(args.cache_dir or cache_folder())
    overwrite = args.overwrite or (args.demo and args.output_dir == "runs/demo_baselines")
    names, repositories = [], {}
    for name in dict.fromkeys(args.models):
        if args.push_to_hub:  # what is amiss there is known before the training
            repo_id = args.hub_model_id or output_dir.resolve().name
            repo_id += f"-{name}" if len(args.models) > 1 else ""
            repositories[name] = Repository(repo_id, args.hub_private_repo)
        if check_run_folder(
            output_dir / name, overwrite, bool(args.resume_from_checkpoint), bool(args.evaluate_on)
        ):
            names.append(name)
        else:
            logger.info("%s: the run is complete, see %s", name, output_dir / name / "README.md")
            evaluate_on(output_dir / name, args.evaluate_on, cache_dir, args.allow_partial)
            if repositories:
                publish(repositories[name], output_dir / name)
    if args.resume_from_checkpoint == "hub":
        for name in names:
            fetch_checkpoints(repositories[name], output_dir / name)
        args.resume_from_checkpoint = "true"
    if not names:
        logger.info("Nothing to train")
        return
    if args.demo:
        files = find_corpora(["demo"], [make_demo_corpus(PROJECT_ROOT / "data" / "demo")])
    else:
        files = find_corpora(args.corpora, [Path(folder) for folder in args.data_dir])
    own_files, own_clips = find_training_corpora(args.train_on, args.evaluate_on)
    files |= own_files
    table, waveforms = read_table(files, cache_dir, own_clips)
    digests = table["digest"].tolist()
    table, findings = check_table(table, args.allow_partial)
    emotions = choose_emotions({name: CORPORA[name].emotions for name in files}, args.emotions)
    table = select_emotions(table, emotions)
    table["label"] = table["emotion"].map(emotions.index)

    # -----------------------------------------------------------------------------------------------
    # Speaker split

    logger.info("Split %s: %s", args.protocol, PROTOCOL_WORDS[args.protocol])
    # After a model per fold comes the one that is published.
    folds, models, final = split_models(table, args.protocol, emotions, args.seed)

    # -----------------------------------------------------------------------------------------------
    # Features

    features = extract_table(waveforms, digests, cache_dir, args.features)
    if args.speaker_normalization:
        features[table.index] = normalize_speakers(features[table.index], table["speaker"])

    last = list(folds.values())[-1]
    examples = last[last["split"] == "test"]
    if args.speaker_normalization:  # the model can be checked on clips of one voice alone
        examples = examples[examples["speaker"] == examples["speaker"].iloc[0]]
    checked, timed, pictures = report.pick_waveforms(examples, waveforms, emotions)
    checked_features = extract_all(checked, args.features)
    if args.speaker_normalization:
        checked_features = normalize_speakers(checked_features, ["one"] * len(checked))

    groups = [feature_groups(args.features)[name] for name in feature_names(args.features)]
    places = ("corpora", "data_dir", "train_on", "evaluate_on", "cache_dir", "output_dir", "overwrite")
    places += ("resume_from_checkpoint",)
    identity = {
        key: value for key, value in vars(args).items() if key not in (*places, "models") and "hub" not in key
    }
    identity |= {"emotions": list(emotions), "split_digest": folds_digest(list(folds.values()))}
    for name in names:  # all of them now: a model that is yet to come must not wear the card of an older run
        begin_run(output_dir / name, args.resume_from_checkpoint, identity)

    changed_features = None
    if wants_robustness_test(args.protocol, args.demo, args.stress_test, args.no_stress_test):
        if args.speaker_normalization:
            logger.info("No test of robustness: --speaker_normalization needs all clips of a voice together")
        else:  # all models hear the same changed clips
            test_clips = final[final["split"] == "test"]
            changed_features = predict_perturbed(
                lambda changed: extract_all(changed, args.features),
                test_clips,
                waveforms,
                args.seed,
            )

    unpublished = []
    for name in names:
        start = time.perf_counter()
        run_folder = output_dir / name
        if args.hub_strategy == "checkpoint":
            keeper = CheckpointUploader(repositories[name], run_folder)

        heard, importance, seconds_before = [], None, 0.0
        for fold, split in models.items():
            finished = run_folder / "checkpoints" / f"{fold.replace(' ', '_')}.csv"
            if args.resume_from_checkpoint and finished.exists():
                logger.info("%s, %s: was trained and tested before", name, fold)
                heard.append(report.read_predictions(finished))
                facts = json.loads(finished.with_suffix(".json").read_text(encoding="utf-8"))
                importance = facts["importance"]
                seconds_before += facts["seconds"]
                continue
            train, validation, test = (split[split["split"] == part] for part in SPLITS)

            # ---------------------------------------------------------------------------------------
            # Model and training: on the training speakers alone

            begun = time.perf_counter()
            model, chosen = fit(name, features[train.index], train, args.protocol, args.seed)
            training_seconds = time.perf_counter() - begun
            if split is final:  # what is scored is what is saved
                import skops.io  # it brings in all of scikit-learn, and PyTorch where that is installed

                saved = skops.io.dumps(model)
                trusted = skops.io.get_untrusted_types(data=saved)
                model = skops.io.loads(saved, trusted=trusted)

            # ---------------------------------------------------------------------------------------
            # Test metrics

            if len(test):
                heard.append(tell(model, features, test, emotions, fold))
            if split is last:
                importance = permutation_importance(
                    model.predict, features[test.index], test["emotion"], groups, emotions, args.seed
                )
            if split is not final:
                facts = {"importance": importance, "seconds": time.perf_counter() - begun}
                write_json(finished.with_suffix(".json"), facts)
                write_text(finished, heard[-1].to_csv(index=False))
                if args.hub_strategy == "checkpoint":
                    keeper()
        predictions = {
            "test": pd.concat(heard, ignore_index=True),
            "validation": tell(model, features, validation, emotions, "final"),
        }
        latency = measure_latency(
            lambda waveform, model=model: model.predict_proba([extract(waveform, args.features)]),
            timed,
            SAMPLING_RATE,
        )

        # -------------------------------------------------------------------------------------------
        # Report and card

        from utils.report import explanation_plots as explain_plots  # Matplotlib is for the end of a run
        from utils.report.model_plots import plot_importance  # Matplotlib is for the end of a run
        from utils.report.style import save_figure

        metrics = report.describe_run(
            script=Path(__file__).name,
            command_line=sys.argv[1:],
            arguments=vars(args),
            table=final,
            findings=findings,
            emotions=emotions,
            protocol=args.protocol,
            predictions=predictions,
            packages=["scikit-learn", "skops", "librosa", "datasets", "evaluate", "huggingface_hub"],
            folds=None if args.protocol in SINGLE_MODEL else folds,
        )
        words = build_model(name, features.shape[1], args.seed)[2]
        metrics["model"] = {
            "library": "sklearn",
            "base_model": None,
            "name": name,
            "description": f"{words} on {features.shape[1]} functionals of a clip"
            + (", standardised over its speaker's clips" if args.speaker_normalization else ""),
            "starts_random": False,
            "feature_set": args.features,
            "speaker_normalization": args.speaker_normalization,
            "trusted_types": trusted,
            "parameters": None,
            "weights_mb": len(saved) / 1e6,
        }
        choice = ", ".join(f"{option.split('__')[1]} = {value}" for option, value in chosen.items())
        metrics["training"] = {
            "description": "Hyper-parameters were chosen by cross-validation inside the training clips, "
            f"over speakers where there are several; for the saved model: {choice}.",
            "device": device,
            "seconds": training_seconds,
            "chosen": chosen,
            "history": [],
        }
        metrics["latency"] = latency | {"device": device}
        if args.protocol in SINGLE_MODEL:
            metrics["calibration"] = describe_scaling(
                predictions["validation"], predictions["test"], emotions
            )
        metrics["duration_seconds"] = time.perf_counter() - start + seconds_before
        metrics["importance"] = importance
        (run_folder / "figures").mkdir(exist_ok=True)
        write_bytes(run_folder / "model.skops", saved)
        save_figure(plot_importance(importance["uar"]), run_folder / "figures" / "importance.png")
        for emotion, losses in importance["recall"].items():
            figure = explain_plots.plot_group_losses(losses, f"What “{emotion}” rests on")
            save_figure(figure, run_folder / "figures" / f"explained_{emotion}.png")
        save_reference_predictions(run_folder, checked, hear(model, checked_features, emotions))
        if changed_features:
            told = {
                condition: hear(model, changed, emotions) for condition, changed in changed_features.items()
            }
            metrics["stress"] = judge(told, test_clips, emotions, args.seed)
        if args.protocol != "random":  # of voices that were heard in training it would say nothing
            audit(run_folder, metrics, predictions["test"], final)
        report.write_report(run_folder, metrics, predictions["test"], [], pictures, SAMPLING_RATE)
        write_card(run_folder)
        shutil.rmtree(run_folder / "checkpoints")
        logger.info(
            "%s%-8s test UAR %.1f %%, accuracy %.1f %% on %d clips. Card: %s",
            "Synthetic voices, no real result. " if args.demo else "",
            name,
            100 * metrics["test"]["uar"],
            100 * metrics["test"]["accuracy"],
            metrics["test"]["clips"],
            run_folder / "README.md",
        )
        evaluate_on(run_folder, args.evaluate_on, cache_dir, args.allow_partial)
        if repositories:
            try:
                publish(repositories[name], run_folder)
            except InputError as error:  # the other models are still to be trained
                logger.warning("%s: %s", name, error)
                unpublished.append(error)
    if unpublished:
        raise unpublished[0]


if __name__ == "__main__":
    run_script(main)
