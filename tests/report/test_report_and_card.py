"""A run folder is complete, existing files are not overwritten, and the card contains the results of the run.

Run: python -m pytest tests/report/test_report_and_card.py
"""

import copy
import itertools
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

from utils.data.corpora import CORPORA, parse_clip
from utils.data.labels import choose_emotions
from utils.data.loading import LoadedClips
from utils.data.splits import split_digest, split_models, split_table
from utils.data.table import check_table
from utils.encoders.fine_tuning import last_checkpoint
from utils.evaluation.calibration import expected_calibration_error, scale_temperature
from utils.evaluation.metrics import score
from utils.report import report
from utils.report.card import write_card
from utils.report.predictions import example_clips, prediction_table
from utils.report.run_folder import begin_run, check_run_folder
from utils.runtime import PROJECT_ROOT, InputError, write_json

SAMPLING_RATE = 16_000
DIGITS = ("01", "02")
EMOTION_CODES = [f"{code:02d}" for code in range(1, 9)]
FINISHED = ("README.md", "metrics.json", "predictions.csv", "model.safetensors", "figures/waveforms.png")
UNFINISHED = ("checkpoints/run.json", "checkpoints/holdout/checkpoint-10/model.safetensors")
IDENTITY = {"encoder": "tiny", "emotions": ["happy", "sad"], "split_digest": "abc"}
HISTORY = [
    {"epoch": 1.0, "loss": 2.0},
    {"epoch": 1.0, "eval_loss": 1.9, "eval_uar": 0.3},
    {"epoch": 2.0, "loss": 1.5},
    {"epoch": 2.0, "eval_loss": 1.7, "eval_uar": 0.4},
]


def file_names(corpus: str) -> list[str]:
    """Return the file names of all clips of a corpus."""
    if corpus == "tess":
        codes = ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
        words = [f"{a}{b}{c}" for a, b, c in itertools.product("bdfgl", "aeiou", "bdgklmnt")]
        return [f"{who}_{word}_{code}.wav" for who in ("OAF", "YAF") for word in words for code in codes]
    channel, repetitions = {"ravdess": ("01", DIGITS), "demo": ("03", DIGITS[:1])}[corpus]
    actors = [f"{number:02d}" for number in range(1, CORPORA[corpus].num_speakers + 1)]
    return [
        f"03-{channel}-{emotion}-{intensity}-{sentence}-{repetition}-{actor}.wav"
        for actor in actors
        for emotion in EMOTION_CODES
        for intensity in (DIGITS[:1] if emotion == "01" else DIGITS)
        for sentence in DIGITS
        for repetition in repetitions
    ]


def clip_table(*corpora: str) -> pd.DataFrame:
    """Return a table like that of `read_table` for whole corpora, without audio files."""
    names = [name for corpus in corpora for name in file_names(corpus)]
    table = pd.DataFrame(asdict(parse_clip(name)) for name in names)
    return table.assign(
        path=names,
        digest=names,
        num_copies=1,
        same_as="",
        num_samples=48_000,
        duration_seconds=3.0,
        problem="",
    )


def measure_run(*corpora: str, protocol: str = "holdout", table: pd.DataFrame | None = None, **arguments):
    """Return (metrics, predictions) of a simulated run of train_wav2vec2.py with random probabilities."""
    table, findings = check_table(clip_table(*corpora) if table is None else table, allow_partial=True)
    emotions = choose_emotions({name: CORPORA[name].emotions for name in corpora})
    plan = split_models(table, protocol, emotions)
    table = plan.final
    clips = LoadedClips(table, None, [], emotions, findings)
    generator = np.random.default_rng(0)
    predictions = {}
    for split in ("validation", "test"):
        rows = table[table["split"] == split]
        rows = rows.assign(label=rows["emotion"].map(emotions.index))
        logits = 2 * np.eye(len(emotions))[rows["label"]] + generator.normal(size=(len(rows), len(emotions)))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        predictions[split] = prediction_table(rows, probabilities, emotions, protocol)
    options = {"demo": "demo" in corpora, "seed": 42, "protocol": protocol, "hub_token": "hf_secret"}
    metrics = report.describe_run(
        "train_wav2vec2.py",
        ["--data_dir", "/home/me/ravdess", "--hub_token", "hf_secret"],
        options | arguments,
        clips,
        plan,
        predictions,
        packages=["numpy", "datasets"],
    )
    device = "2 CPU cores"
    metrics["model"] = {
        "library": "transformers",
        "base_model": "facebook/wav2vec2-base-960h",
        "description": "the wav2vec2 encoder with a linear classifier",
        "starts_random": False,
        "parameters": 94_571_153,
        "trained_parameters": 21_000_000,
        "weights_mb": 378.3,
    }
    metrics["training"] = {
        "description": "Trained with adamw, learning rate 1e-05.",
        "device": device,
        "num_processes": 1,
        "precision": "fp32",
        "resumed": False,
        "epochs": 2.0,
        "seconds": 60.0,
        "clips_per_second": 40.0,
        "peak_gpu_memory_mb": None,
        "history": HISTORY,
    }
    metrics["probe"] = {"choices": {protocol: {"1": 0.2, "2": 0.5, "3": 0.4}}}
    metrics["calibration"] = report.describe_calibration(predictions["test"], emotions, {protocol: 1.5})
    metrics["latency"] = {
        "p50_ms": 61.25,
        "p95_ms": 75.0,
        "real_time_factor": 0.0172,
        "clips": 30,
        "device": device,
    }
    metrics["duration_seconds"] = 90.0
    return metrics, predictions["test"]


@pytest.fixture(scope="module")
def measured() -> dict:
    """Corpora -> (metrics, predictions); tests must not change them."""
    selections = [("ravdess",), ("tess",), ("ravdess", "tess"), ("demo",)]
    return {"+".join(corpora): measure_run(*corpora) for corpora in selections}


@pytest.fixture(scope="module")
def run_folder(measured, tmp_path_factory) -> Path:
    """The folder of a finished run with RAVDESS and TESS."""
    folder = tmp_path_factory.mktemp("runs") / "wav2vec2"
    assert check_run_folder(folder, overwrite=False, resume=False)
    begin_run(folder, None, IDENTITY)
    shutil.rmtree(folder / "checkpoints")
    metrics, predictions = measured["ravdess+tess"]
    tone = np.sin(np.arange(SAMPLING_RATE) / 10).astype(np.float32)
    examples = dict.fromkeys(metrics["emotions"], tone)
    report.write_scores(folder, metrics, predictions)
    report.write_report(folder, metrics, HISTORY, examples, SAMPLING_RATE)
    write_card(folder)
    return folder


@pytest.fixture
def card_of(tmp_path):
    def render(metrics: dict) -> str:
        """Return the card of a run."""
        write_json(tmp_path / "metrics.json", metrics)
        write_card(tmp_path)
        return (tmp_path / "README.md").read_text(encoding="utf-8")

    return render


def row_of(card: str, first_cell: str) -> list[str]:
    """Return the cells of the only table row with this first cell."""
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first_cell} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


# ---------------------------------------------------------------------------------------------------
# Run folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"this is {name}")
    return folder


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_is_accepted(tmp_path, exists):
    folder = tmp_path / "runs" / "new"
    if exists:
        folder.mkdir(parents=True)
    assert check_run_folder(folder, overwrite=False, resume=False)
    assert begin_run(folder, None, IDENTITY) is None
    assert list(contents(folder)) == ["checkpoints/run.json"]


@pytest.mark.parametrize(
    ("names", "overwrite", "remedy"),
    [
        (FINISHED, False, "--overwrite"),
        (UNFINISHED, False, "--resume_from_checkpoint true.*--overwrite"),
        (("thesis.docx", "data/clip.wav"), False, "is not empty and holds no run"),
        (("thesis.docx", "data/clip.wav"), True, "is not empty and holds no run"),
    ],
)
def test_a_folder_with_files_is_refused_and_left_unchanged(tmp_path, names, overwrite, remedy):
    before = contents(fill(tmp_path, *names))
    with pytest.raises(InputError, match=f"--output_dir {tmp_path}.*{remedy}"):
        check_run_folder(tmp_path, overwrite=overwrite, resume=False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("names", "overwrite", "resume", "trains"),
    [
        (FINISHED, False, True, False),
        (FINISHED, True, False, True),
        (UNFINISHED, False, True, True),
        (UNFINISHED, True, False, True),
    ],
)
def test_checking_a_folder_does_not_change_it(tmp_path, names, overwrite, resume, trains):
    before = contents(fill(tmp_path, *names))
    for _ in range(2):  # several processes check the same folder
        assert check_run_folder(tmp_path, overwrite=overwrite, resume=resume) is trains
    assert contents(tmp_path) == before


def test_a_run_that_is_overwritten_loses_its_old_card_at_the_start(tmp_path):
    fill(tmp_path, *FINISHED)
    begin_run(tmp_path, None, IDENTITY)
    assert not (tmp_path / "README.md").exists()
    # If the new run is killed now, the folder contains an unfinished run.
    assert check_run_folder(tmp_path, overwrite=True, resume=False)
    with pytest.raises(InputError, match="unfinished"):
        check_run_folder(tmp_path, overwrite=False, resume=False)


@pytest.mark.parametrize("names", [(), (".run.json.0a1b2c3d.partial",), ("fetched.partial/a/run.json",)])
@pytest.mark.parametrize("resume", [None, "true"])
def test_a_run_that_was_killed_at_its_start_can_be_started_again(tmp_path, names, resume):
    (tmp_path / "checkpoints").mkdir()
    fill(tmp_path / "checkpoints", *names)
    assert check_run_folder(tmp_path, overwrite=False, resume=bool(resume))
    begin_run(tmp_path, resume, IDENTITY)
    assert list(contents(tmp_path)) == ["checkpoints/run.json"]


def test_after_a_kill_during_the_removal_of_an_old_run_its_checkpoints_are_not_used(unfinished):
    fill(unfinished, "predictions.csv", "figures/learning_curves.png", ".metrics.json.0a1b2c3d.partial")
    write_json(unfinished / "checkpoints/run.json", {})  # empty until all old files are removed
    assert check_run_folder(unfinished, overwrite=False, resume=True)
    begin_run(unfinished, "true", IDENTITY | {"encoder": "base"})
    assert set(contents(unfinished)) == {"checkpoints/run.json", "predictions.csv"}


def test_the_checkpoints_of_a_finished_run_that_was_killed_before_their_removal_are_removed(tmp_path):
    before = contents(fill(tmp_path, *FINISHED))
    fill(tmp_path, *UNFINISHED)
    assert not check_run_folder(tmp_path, overwrite=False, resume=True)
    assert contents(tmp_path) == before and not (tmp_path / "checkpoints").exists()


# ---------------------------------------------------------------------------------------------------
# Checkpoints


@pytest.fixture
def unfinished(tmp_path) -> Path:
    """The folder of an unfinished run with three complete checkpoints."""
    folder = tmp_path / "run"
    assert begin_run(folder, None, IDENTITY) is None
    for step in (9, 60, 120):
        checkpoint = fill(folder / "checkpoints/holdout" / f"checkpoint-{step}", "model.safetensors")
        write_json(checkpoint / "trainer_state.json", {"global_step": step})
    return folder


def test_a_run_is_resumed_from_its_newest_checkpoint(unfinished):
    before = contents(unfinished)
    assert begin_run(unfinished, "true", IDENTITY) is None
    newest = unfinished / "checkpoints/holdout/checkpoint-120"
    assert last_checkpoint(unfinished / "checkpoints/holdout") == str(newest)
    assert contents(unfinished) == before


@pytest.mark.parametrize("damage", ["missing", "cut off", "empty"])
def test_an_incomplete_checkpoint_is_ignored(unfinished, damage):
    models = unfinished / "checkpoints/holdout"
    state = models / "checkpoint-120/trainer_state.json"
    if damage == "missing":
        state.unlink()
    else:
        state.write_text(state.read_text()[:8] if damage == "cut off" else "")
    assert last_checkpoint(models) == str(models / "checkpoint-60")


def test_a_given_checkpoint_is_used(unfinished):
    given = str(unfinished / "checkpoints/holdout/checkpoint-9")
    assert begin_run(unfinished, given, IDENTITY) == given


@pytest.mark.parametrize("resume", [None, "true"])
def test_only_the_main_process_changes_the_folder(unfinished, resume):
    """Another process could remove files that the main process has already written."""
    (unfinished / "checkpoints/.run.json.1234.partial").touch()
    before = contents(unfinished)
    assert begin_run(unfinished, resume, IDENTITY, writes=False) is None
    assert contents(unfinished) == before


def test_without_a_complete_checkpoint_a_run_starts_from_the_beginning(tmp_path):
    assert begin_run(tmp_path / "run", "true", IDENTITY) is None
    assert last_checkpoint(tmp_path / "run/checkpoints/holdout") is None
    assert list(contents(tmp_path)) == ["run/checkpoints/run.json"]


@pytest.mark.parametrize(
    "changed", [{"encoder": "base"}, {"emotions": ["happy", "sad", "angry"]}, {"split_digest": "def"}]
)
@pytest.mark.parametrize("resume", ["true", "checkpoint-60"])
def test_a_run_with_other_options_cannot_be_resumed_from_these_checkpoints(unfinished, changed, resume):
    """The training speakers of the checkpoints could be test speakers of the other run."""
    before = contents(unfinished)
    resume = resume if resume == "true" else str(unfinished / "checkpoints/holdout" / resume)
    with pytest.raises(InputError, match=f"started with {next(iter(changed))}.*--overwrite"):
        begin_run(unfinished, resume, IDENTITY | changed)
    assert contents(unfinished) == before


def test_a_run_that_is_not_resumed_removes_old_checkpoints(unfinished):
    assert begin_run(unfinished, None, IDENTITY | {"encoder": "base"}) is None
    assert list(contents(unfinished)) == ["checkpoints/run.json"]
    assert begin_run(unfinished, "true", IDENTITY | {"encoder": "base"}) is None


# ---------------------------------------------------------------------------------------------------
# metrics.json and predictions.csv


def test_a_finished_run_contains_all_files_and_metadata(run_folder):
    code = {path.relative_to(PROJECT_ROOT).as_posix() for path in PROJECT_ROOT.glob("utils/**/*.py")}
    code |= {"train_wav2vec2.py", "model_card.md", "requirements.txt"}
    assert code <= set(contents(run_folder))
    assert set(contents(run_folder)) - code == {
        "README.md",
        "metrics.json",
        "predictions.csv",
        "figures/confusion_matrix.png",
        "figures/per_emotion.png",
        "figures/layers.png",
        "figures/learning_curves.png",
        "figures/reliability.png",
        "figures/waveforms.png",
    }
    metrics = json.loads((run_folder / "metrics.json").read_text())
    for key in ("script", "arguments", "corpora", "emotions", "protocol", "split_digest", "versions", "seed"):
        assert metrics[key], key
    assert "commit" in metrics and metrics["duration_seconds"] > 0
    assert [corpus["name"] for corpus in metrics["corpora"]] == ["ravdess", "tess"]
    # TESS has no calm clips, so the 192 calm clips of RAVDESS are not used.
    assert [corpus["clips"] for corpus in metrics["corpora"]] == [1_440 - 192, 2_800]


def test_the_test_scores_can_be_computed_from_the_predictions_alone(run_folder):
    """Only the column names are needed."""
    metrics = json.loads((run_folder / "metrics.json").read_text())
    table = pd.read_csv(run_folder / "predictions.csv", float_precision="round_trip")
    assert list(table.columns[:6]) == ["clip", "corpus", "speaker", "fold", "emotion", "predicted"]
    emotions = [name.removeprefix("p_") for name in table.columns if name.startswith("p_")]

    def compute_scores(rows: pd.DataFrame) -> dict:
        references = [emotions.index(emotion) for emotion in rows["emotion"]]
        probabilities = rows[[f"p_{emotion}" for emotion in emotions]].to_numpy()
        return score(references, probabilities, emotions, rows["speaker"].tolist(), rows["corpus"].tolist())

    assert compute_scores(table) == metrics["test"]
    assert {name: compute_scores(rows) for name, rows in table.groupby("corpus")} == metrics[
        "test_per_corpus"
    ]
    most_probable = table[[f"p_{emotion}" for emotion in emotions]].idxmax(axis=1).str.removeprefix("p_")
    assert (most_probable == table["predicted"]).all()


def test_the_card_and_the_metrics_contain_no_local_path_and_no_token(run_folder):
    for name in ("README.md", "metrics.json"):
        text = (run_folder / name).read_text()
        assert "hf_secret" not in text and "/home/me" not in text and str(run_folder.parent) not in text


def test_test_speakers_are_in_no_other_split(measured):
    for metrics, predictions in measured.values():
        split = metrics["split"]
        known = {*split["train"]["speakers"], *split["validation"]["speakers"]}
        assert set(predictions["speaker"]) == set(split["test"]["speakers"])
        assert not known & set(predictions["speaker"])
        assert metrics["test"]["clips"] == split["test"]["clips"] == len(predictions)


def test_examples_are_one_clip_per_emotion_by_the_same_speaker_with_the_same_text():
    table = clip_table("ravdess").sample(frac=1, random_state=0)
    table = table.assign(label=table["emotion"].map(choose_emotions({"": CORPORA["ravdess"].emotions}).index))
    examples = example_clips(table)
    shown = table.iloc[list(examples.values())]
    assert list(examples) == shown["label"].tolist() == list(range(8))
    assert shown["speaker"].nunique() == shown["text"].nunique() == 1


def test_examples_have_another_text_or_another_speaker_if_necessary():
    most_emotions = [("b", "dogs", 0), ("b", "dogs", 1), ("b", "dogs", 2)]
    clips = [
        ("a", "kids", 0),
        *most_emotions,
        ("a", "dogs", 3),
        ("b", "kids", 3),
        ("a", "kids", 4),
        ("a", "dogs", 4),
    ]
    table = pd.DataFrame(clips, columns=["speaker", "text", "label"], index=range(100, 108))
    assert example_clips(table) == {0: 1, 1: 2, 2: 3, 3: 5, 4: 7}


# ---------------------------------------------------------------------------------------------------
# Model card


def test_the_front_matter_contains_the_scores_of_metrics_json(run_folder):
    card = ModelCard.load(run_folder / "README.md")
    metrics = json.loads((run_folder / "metrics.json").read_text())
    results = {result.metric_name: result for result in card.data.eval_results}
    expected = {"UAR": "uar", "Accuracy": "accuracy", "Macro-F1": "macro_f1"}
    assert {name: result.metric_value for name, result in results.items()} == {
        name: metrics["test"][key] for name, key in expected.items()
    }
    assert card.data.model_name == "wav2vec2"
    assert card.data.pipeline_tag == "audio-classification"
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "facebook/wav2vec2-base-960h"
    assert results["UAR"].dataset_name == "RAVDESS speech + TESS, holdout split"


@pytest.mark.parametrize(
    ("corpora", "license_id", "has_name"),
    [
        ("ravdess", "cc-by-nc-sa-4.0", False),
        ("tess", "cc-by-nc-nd-4.0", False),
        ("ravdess+tess", "other", True),
        ("demo", "apache-2.0", False),
    ],
)
def test_the_licence_is_that_of_the_corpora(measured, card_of, corpora, license_id, has_name):
    text = card_of(measured[corpora][0])
    card = ModelCard(text)
    assert card.data.license == license_id
    assert bool(card.data.license_name) == has_name
    assert (card.data.license_link or "").startswith("https://") == has_name
    for corpus in corpora.split("+"):
        assert CORPORA[corpus].license_url in card.text and CORPORA[corpus].citation in card.text
    assert "mit" not in str(card.data.license).lower().split("-")
    assert ("non-commercial" in card.text) == (corpora != "demo")


@pytest.mark.parametrize(
    ("licenses", "text"),
    [
        (["odbl"], "These weights are under the terms of every licence above (ODBL)."),
        (["odbl", "cc-by-nc-sa-4.0"], "Some of the corpora are for non-commercial use only"),
        (["odbl", "cc-by-nc-sa-4.0"], "These licences may be incompatible: ask"),
        (["cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"], "The corpora are for non-commercial use only"),
        (["cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"], "no-derivatives licences are incompatible: ask"),
    ],
)
def test_the_card_states_the_combined_terms_of_the_licences(measured, card_of, licenses, text):
    metrics = measured["ravdess"][0]
    corpora = [
        metrics["corpora"][0] | {"license": name, "license_url": f"https://{name}"} for name in licenses
    ]
    assert text in card_of(metrics | {"corpora": corpora})


def test_the_tables_contain_the_values_of_metrics_json(run_folder):
    card = (run_folder / "README.md").read_text()
    metrics = json.loads((run_folder / "metrics.json").read_text())
    test, per_corpus = metrics["test"], metrics["test_per_corpus"]
    assert f"(UAR) of **{percent(test['uar'])} %**" in card
    assert "chance is 14.3 %" in card and "5 speakers who are not in the training data" in card
    low, high = per_corpus["ravdess"]["intervals"]["uar"]
    bounds = {
        "all": "(no interval: too few speakers)",
        "RAVDESS speech": f"[{percent(low)}, {percent(high)}]",
    }
    bounds["TESS"] = bounds["all"]
    for title, scores in {"all": test, "RAVDESS speech": per_corpus["ravdess"]}.items():
        cells = row_of(card, title)
        uar = f"{percent(scores['uar'])} {bounds[title]}"
        assert cells[1:4] == [str(scores["clips"]), str(scores["speakers"]), uar]
        assert cells[5:] == [percent(scores["macro_f1"]), f"{scores['loss']:.3f}"]
    assert row_of(card, "TESS")[3].endswith(bounds["TESS"])
    assert "There is none over all test clips, because a corpus with a single test speaker" in card
    for emotion, scores in test["per_emotion"].items():
        figures = [percent(scores[name]) for name in ("recall", "precision", "f1")]
        assert row_of(card, emotion) == [emotion, *figures, str(scores["support"])]
    for split, rows in metrics["split"].items():
        assert row_of(card, split)[1:3] == [str(rows["clips"]), str(rows["minutes"])]
    assert row_of(card, "parameters")[1] == "94,571,153"
    assert metrics["split_digest"] in card and "Seed 42" in card


def test_the_card_shows_exactly_the_figures_of_the_folder(run_folder):
    card = (run_folder / "README.md").read_text()
    shown = {line.split("](")[1].rstrip(")") for line in card.splitlines() if line.startswith("![")}
    assert shown == {f"figures/{path.name}" for path in (run_folder / "figures").iterdir()}


def test_the_card_is_valid_markdown(measured, card_of):
    for metrics, _ in measured.values():
        body = ModelCard(card_of(metrics)).text
        assert body.lstrip().startswith("# ")
        lines = body.splitlines()
        for before, line in itertools.pairwise(lines):
            assert not (line.startswith("|") and before and not before.startswith("|")), line
            assert not (line.startswith("#") and before), line
        for _, table in itertools.groupby(lines, lambda line: line.startswith("|")):
            rows = [line for line in table if line.startswith("|")]
            assert len({row.count("|") for row in rows}) <= 1, rows
        prose = body.split("```")[::2]
        assert not any(blank in text for text in prose for blank in ("None", " nan", "{{", "{%", "\n\n\n"))


IN_TEMPLATE = [
    "command",
    "commit",
    "duration_seconds",
    "emotions",
    "protocol_words",
    "seed",
    "split",
    "split_digest",
    "test_per_corpus",
    "versions",
    "corpora.0.unusable",
    "corpora.0.identical",
    "corpora.0.clips_expected",
    "latency.p50_ms",
    "latency.p95_ms",
    "latency.real_time_factor",
    "latency.device",
    "model.description",
    "model.starts_random",
    "model.weights_mb",
    "split.test.minutes",
    "split.train.speakers",
    "test.per_emotion.sad.f1",
    "test.clips",
    "training.description",
    "training.device",
]


IN_FRONT_MATTER_OR_FILTERS = [
    "demo",
    "protocol",
    "model.library",
    "model.base_model",
    "model.parameters",
    "test.uar",
    "test_per_corpus.ravdess.loss",
]


def without(metrics: dict, path: str) -> dict:
    metrics = copy.deepcopy(metrics)
    *parents, last = path.split(".")
    inner = metrics
    for key in parents:
        inner = inner[int(key) if key.isdigit() else key]
    del inner[last]
    return metrics


@pytest.mark.parametrize("path", IN_TEMPLATE)
def test_a_missing_value_in_the_text_is_an_error_and_not_an_empty_string(measured, card_of, tmp_path, path):
    with pytest.raises(jinja2.UndefinedError, match=path.split(".")[-1]):
        card_of(without(measured["ravdess"][0], path))
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("path", IN_FRONT_MATTER_OR_FILTERS)
def test_a_missing_value_in_the_front_matter_or_a_filter_is_an_error(measured, card_of, tmp_path, path):
    with pytest.raises((jinja2.UndefinedError, KeyError, TypeError)):
        card_of(without(measured["ravdess"][0], path))
    assert not (tmp_path / "README.md").exists()


def test_the_card_of_a_model_of_own_recordings_states_neither_a_language_nor_a_data_set(measured, card_of):
    metrics = measured["ravdess"][0]
    own = metrics["corpora"][0] | {"name": "custom-mine", "license": "unknown", "license_url": ""}
    text = card_of(metrics | {"corpora": [*metrics["corpora"], own]})
    card = ModelCard(text)
    assert card.data.language is None and not card.data.datasets
    assert card.data.license == "other" and card.data.license_name == "terms-of-the-recordings"
    assert "North American English" not in text and "does not know their languages" in text
    assert ModelCard(card_of(metrics)).data.language == "en"


def test_a_model_of_song_classifies_singing(measured, card_of):
    metrics = measured["ravdess"][0]
    song = metrics["corpora"][0] | {"name": "ravdess_song"}
    assert "classifies a clip of singing" in card_of(metrics | {"corpora": [song]})
    assert "classifies a clip of speech" in card_of(metrics)


def test_the_command_of_several_processes_is_that_of_accelerate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    metrics, _ = measure_run("ravdess")
    assert metrics["command"].startswith("accelerate launch --num_processes 2 train_wav2vec2.py --data_dir")


def test_an_emotion_without_test_clips_has_dashes_instead_of_scores(measured, card_of):
    metrics = copy.deepcopy(measured["ravdess"][0])
    metrics["test"]["per_emotion"]["calm"] = {"precision": None, "recall": None, "f1": None, "support": 0}
    assert row_of(card_of(metrics), "calm") == ["calm", "–", "–", "–", "0"]


def test_the_card_warns_of_a_random_split_after_the_title(card_of):
    lines = ModelCard(card_of(measure_run("ravdess", protocol="random")[0])).text.strip().splitlines()
    assert lines[0].startswith("# ")
    assert any("Do not quote these figures" in line for line in lines[1:4])
    assert not any("not in the training data" in line for line in lines)


def test_the_card_warns_of_a_randomly_initialised_encoder_after_the_title(measured, card_of):
    metrics = copy.deepcopy(measured["ravdess"][0])
    metrics["model"]["starts_random"] = True
    lines = ModelCard(card_of(metrics)).text.strip().splitlines()
    assert any("not a model to use" in line for line in lines[1:4])


def test_the_card_says_what_the_encoder_was_pretrained_on(measured, card_of):
    metrics = copy.deepcopy(measured["ravdess"][0])
    assert "was pretrained on" not in card_of(metrics)
    metrics["model"] |= {"base_model": "a/b", "pretraining": {"data": "many hours", "license": "MIT"}}
    text = "The encoder `a/b` was pretrained on many hours; the licence of its weights is MIT."
    assert text in card_of(metrics)


def test_the_card_says_how_much_of_a_long_clip_is_classified(measured, card_of):
    metrics = copy.deepcopy(measured["ravdess"][0])
    assert "about one to ten seconds" in card_of(metrics)
    metrics["model"]["window_seconds"] = 4
    assert "one to 4 seconds: of a longer clip, only the first 4 seconds are classified." in card_of(metrics)


def test_the_card_of_a_regular_run_has_no_warning(measured, card_of):
    assert not any(line.startswith(">") for line in card_of(measured["ravdess"][0]).splitlines())


def test_the_card_warns_of_the_demo_corpus_after_the_title(measured, card_of):
    card = ModelCard(card_of(measured["demo"][0]))
    assert any("Not a real model" in line for line in card.text.strip().splitlines()[1:4])
    assert "synthetic-demo" in card.data.tags


def test_the_card_lists_missing_unusable_and_identical_clips(card_of):
    table = clip_table("ravdess").iloc[:-100]  # a hundred clips are missing
    table.loc[5, "problem"] = "empty file"
    table.loc[9, "same_as"] = table.loc[8, "clip"]
    metrics, _ = measure_run("ravdess", table=table)
    card = card_of(metrics)
    assert "1340 of its 1440 clips were found" in card
    assert f"left out: {table.loc[5, 'clip']}: empty file" in card
    assert f"byte-identical: {table.loc[9, 'clip']} = {table.loc[8, 'clip']}" in card
    assert "1338 clips by" in card


def test_the_card_does_not_call_complete_corpora_incomplete(run_folder):
    card = (run_folder / "README.md").read_text()
    assert "incomplete" not in card and "left out" not in card


@pytest.mark.parametrize(
    ("corpora", "included", "excluded"),
    [("ravdess", "RAVDESS has", "TESS has"), ("tess", "TESS has", "RAVDESS has")],
)
def test_the_limitations_are_those_of_the_corpora(measured, card_of, corpora, included, excluded):
    card = card_of(measured[corpora][0])
    assert included in card and excluded not in card and "Acted speech" in card


def test_the_card_states_the_calibration_error(measured, card_of):
    metrics, predictions = measured["ravdess"]
    card = card_of(metrics)
    errors = [metrics["calibration"][name]["ece"] for name in ("after", "before")]
    assert errors[0] != errors[1]
    assert f"on the test clips is {percent(errors[0])} points, and larger on other recordings" in card
    row = "expected calibration error (ECE), points"
    assert row_of(card, row)[1:3] == [percent(errors[1]), percent(errors[0])]
    assert "The logits were divided by 1.50" in card and "not scaled" not in card
    unscaled = metrics | {"calibration": metrics["calibration"] | {"temperature": 1.0}}
    assert "The logits of this model are not scaled" in card_of(unscaled)

    # The error before scaling is that of the probabilities with the temperature removed.
    probabilities = predictions.filter(regex="^p_").to_numpy()
    unscaled = scale_temperature(probabilities, 1 / 1.5)
    labels = predictions["emotion"].map(metrics["emotions"].index).to_numpy()
    assert errors[1] == pytest.approx(expected_calibration_error(labels, unscaled))
    assert errors[0] == pytest.approx(expected_calibration_error(labels, probabilities))


def test_each_fold_has_its_own_temperature(measured):
    metrics, predictions = measured["ravdess"]
    halves = predictions.assign(fold=np.where(np.arange(len(predictions)) % 2, "b", "a"))
    calibration = report.describe_calibration(halves, metrics["emotions"], {"a": 1.0, "b": 2.0, "final": 3.0})
    assert calibration["temperature"] == 3.0
    probabilities = halves.filter(regex="^p_").to_numpy().copy()
    probabilities[1::2] = scale_temperature(probabilities[1::2], 0.5)
    labels = halves["emotion"].map(metrics["emotions"].index).to_numpy()
    assert calibration["before"]["ece"] == pytest.approx(expected_calibration_error(labels, probabilities))


def test_the_command_and_the_code_example_of_the_card_are_valid(measured, card_of, tmp_path):
    """The command runs a script of this kit, and the example contains no local path."""
    metrics = measured["ravdess"][0]
    card = card_of(metrics)
    assert (PROJECT_ROOT / metrics["script"]).is_file() and metrics["command"] in card
    snippet = card.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert str(tmp_path) not in snippet


def test_different_splits_have_different_digests():
    table = clip_table("ravdess")
    emotions = CORPORA["ravdess"].emotions
    holdout, random, other = (
        split_digest(split_table(table, protocol, emotions, seed))
        for protocol, seed in (("holdout", 0), ("random", 0), ("random", 1))
    )
    assert len({holdout, random, other}) == 3


def test_a_checkpoint_of_another_run_with_another_split_is_refused(tmp_path):
    checkpoint = tmp_path / "other" / "checkpoints" / "holdout" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    identity_file = tmp_path / "other" / "checkpoints" / "run.json"
    write_json(identity_file, IDENTITY | {"split_digest": "another"})
    with pytest.raises(InputError, match="split_digest another"):
        begin_run(tmp_path / "run", str(checkpoint), IDENTITY)
    write_json(identity_file, IDENTITY)
    assert begin_run(tmp_path / "run", str(checkpoint), IDENTITY) == str(checkpoint)


def test_a_missing_checkpoint_is_an_error_and_no_other_is_used(tmp_path):
    with pytest.raises(InputError, match="checkpoint-33: expected true"):
        begin_run(tmp_path / "run", str(tmp_path / "checkpoint-33"), IDENTITY)


def test_an_output_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        check_run_folder(tmp_path / "run", overwrite=True, resume=False)


def test_a_project_folder_is_not_treated_as_a_run(tmp_path):
    (tmp_path / "README.md").write_text("# A project")
    for flags in ({"overwrite": True, "resume": False}, {"overwrite": False, "resume": True}):
        with pytest.raises(InputError, match="holds no run"):
            check_run_folder(tmp_path, **flags)
