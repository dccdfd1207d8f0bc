"""train_wav2vec2.py as a user runs it: complete runs, cards, resuming, several processes, options, corpora.

Run: python -m pytest tests/test_train_wav2vec2.py
"""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import transformers
from conftest import PROJECT
from scripts import command_of, error_of, metrics_of
from scripts import train as train_script
from transformers import (
    AutoModelForAudioClassification,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    pipeline,
)

from utils.data.audio import read_waveform
from utils.data.demo import make_demo_corpus
from utils.encoders import build_classifier
from utils.encoders.embeddings import SHARD
from utils.runtime import InputError

train = functools.partial(train_script, "train_wav2vec2.py")
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
STEPS = (
    "--max_steps=2",
    "--logging_strategy=steps",
    "--logging_steps=1",
    "--eval_strategy=steps",
    "--eval_steps=2",
    "--save_strategy=steps",
    "--save_steps=2",
)
TWO_STEPS = ("--demo", "--emotions", "sad", "angry", *STEPS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def refusal(folder: Path, *options: str) -> str:
    """Return the message with which the script refuses its options or its run folder."""
    command = command_of("train_wav2vec2.py", folder, folder.parent / "cache", *options)
    return error_of(*command[1:])


@pytest.fixture(scope="module")
def demo_run(finished_runs) -> Path:
    assert "not real results" in finished_runs.log("demo/wav2vec2")
    return finished_runs / "demo/wav2vec2"


# ---- Demo ----


def test_the_demo_classifies_emotions_of_new_speakers_better_than_chance(demo_run):
    test = metrics_of(demo_run)["test"]
    assert test["clips"] == 120 and test["speakers"] == 4
    low, high = test["intervals"]["uar"]
    assert 1 / 8 < low <= test["uar"] <= high and test["uar"] > 2 / 8, "expected more than chance"


def test_the_run_folder_is_complete_and_contains_no_pickles(demo_run):
    files = {path.relative_to(demo_run).as_posix() for path in demo_run.rglob("*") if path.is_file()}
    code = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "utils").rglob("*.py")}
    predictions = pd.read_csv(demo_run / "predictions.csv")
    correctly_classified = set(predictions[predictions["emotion"] == predictions["predicted"]]["emotion"])
    assert files - code == {
        "README.md", "metrics.json", "predictions.csv", "unpublished/reference_predictions.npz",
        "train_wav2vec2.py", "model_card.md", "requirements.txt",
        "config.json", "model.safetensors", "preprocessor_config.json",
        "figures/coverage.png", "figures/genders_demo.png", "figures/intensity_demo.png",
        "figures/speakers.png",
        "figures/confusion_matrix.png", "figures/layers.png", "figures/learning_curves.png",
        "figures/per_emotion.png", "figures/reliability.png",
        "figures/waveforms.png", "figures/robustness.png", "figures/perturbations.png",
        *(f"figures/explained_{emotion}.png" for emotion in correctly_classified),
    }  # fmt: skip
    assert code <= files
    assert len(predictions) == 120


def test_the_card_of_the_demo_has_a_warning_and_no_local_path(demo_run):
    card = (demo_run / "README.md").read_text()
    assert "**Not a real model.**" in card.split("## Use")[0]
    assert str(demo_run.parent) not in card + (demo_run / "metrics.json").read_text()
    assert "python train_wav2vec2.py --demo" in card


def demo_clips(demo_run: Path, number: int) -> pd.DataFrame:
    """Return evenly spaced rows of predictions.csv, with the path of each clip."""
    rows = pd.read_csv(demo_run / "predictions.csv").iloc[:: 120 // number].copy()
    root = PROJECT / "data" / "demo"
    rows["path"] = [root / f"Actor_{clip[-2:]}" / f"{clip}.wav" for clip in rows["clip"]]
    return rows


def test_pipeline_gives_the_emotion_names_and_the_probabilities_of_the_report(demo_run):
    classifier = pipeline("audio-classification", model=str(demo_run))
    for row in demo_clips(demo_run, 12).itertuples():
        results = classifier(read_waveform(row.path), top_k=None)
        probabilities = {result["label"]: result["score"] for result in results}
        assert set(probabilities) == set(metrics_of(demo_run)["emotions"])
        assert max(probabilities, key=probabilities.get) == row.predicted
        for emotion, probability in probabilities.items():
            assert probability == pytest.approx(getattr(row, f"p_{emotion}"), abs=1e-5)


def test_no_weight_of_the_saved_model_is_randomly_initialised_when_it_is_loaded(demo_run):
    waveform = torch.tensor(read_waveform(demo_clips(demo_run, 1)["path"].iloc[0]))[None]
    logits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model, loading = AutoModelForAudioClassification.from_pretrained(demo_run, output_loading_info=True)
        assert not loading["missing_keys"] and not loading["unexpected_keys"]
        logits.append(model(waveform).logits)
    assert torch.equal(*logits)


def test_the_code_example_of_the_card_runs_on_a_stereo_file_with_48_khz(demo_run, tmp_path):
    snippet = re.search(r"```python\n(.*?)```", (demo_run / "README.md").read_text(), re.DOTALL).group(1)
    shutil.copytree(demo_run, tmp_path / "runs" / "wav2vec2")
    times = np.arange(96_000) / 48_000
    stereo = np.stack([np.sin(2 * np.pi * 220 * times), np.sin(2 * np.pi * 330 * times)], axis=1)
    soundfile.write(tmp_path / "speech.wav", 0.3 * stereo, 48_000)
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8 and "surprised" in done.stdout


# ---- Resuming after a kill ----


def kill_when(folder: Path, *options: str, cache: Path, pattern: str, root: Path, wait: float = 0) -> None:
    """Run the script, and kill it `wait` seconds after a file below `root` matches `pattern`."""
    process = subprocess.Popen(
        command_of("train_wav2vec2.py", folder, cache, *options),
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list(root.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(wait)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "README.md").exists(), "a killed run must not look finished"


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_twice_ends_with_the_same_metrics(tmp_path):
    folder, cache = tmp_path / "killed", tmp_path / "cache"
    options = ["--demo", "--emotions", "calm", "sad", "angry", "happy", "--num_train_epochs=4"]
    kill_when(folder, *options, cache=cache, pattern="embeddings-*/*.npz", root=cache)
    shards = {path: path.stat().st_mtime_ns for path in cache.glob("embeddings-*/*.npz")}
    assert len(shards) < 256 / SHARD, "the run was killed too late"
    kill_when(
        folder,
        *[*options, "--resume_from_checkpoint=true"],
        cache=cache,
        pattern="checkpoints/holdout/checkpoint-*/trainer_state.json",
        root=folder,
        wait=2,  # until the middle of a later epoch
    )
    for path, modified in shards.items():
        assert path.stat().st_mtime_ns == modified, "finished clips were encoded again"

    output = train(folder, cache, *options, "--resume_from_checkpoint=true")
    assert "Resuming from" in output
    train(tmp_path / "uninterrupted", cache, *options)
    resumed, uninterrupted = metrics_of(folder), metrics_of(tmp_path / "uninterrupted")
    for split in ("validation", "test"):
        assert resumed[split] == uninterrupted[split]
    assert (folder / "predictions.csv").read_text() == (
        tmp_path / "uninterrupted" / "predictions.csv"
    ).read_text()

    # For a complete run, the same command does nothing.
    before = (folder / "metrics.json").read_bytes()
    assert "complete" in train(folder, cache, *options, "--resume_from_checkpoint=true")
    assert (folder / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_training_that_was_stopped_early_is_not_continued_after_a_kill(tmp_path, cache):
    options = ["--demo", "--emotions", "calm", "angry", "--no_probe", "--early_stopping_patience=1"]
    options += ["--learning_rate=0", "--head_learning_rate=0"]  # without improvement
    killed = tmp_path / "killed"
    kill_when(killed, *options, cache=cache, pattern="model.safetensors", root=killed)
    train(killed, cache, *options, "--resume_from_checkpoint=true")
    training = metrics_of(killed)["training"]
    assert training["epochs"] == 2
    assert [entry["epoch"] for entry in training["history"] if "eval_uar" in entry] == [1, 2]


@pytest.mark.slow
def test_a_run_that_was_killed_in_a_later_fold_is_resumed_there_and_ends_with_the_same_scores(
    tmp_path, cache
):
    options = ["--demo", "--emotions", "calm", "angry", "--protocol=folds", "--num_train_epochs=2"]
    options += ["--max_length_seconds=1"]
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    train(uninterrupted, cache, *options)
    fold_3 = "checkpoints/fold_3/checkpoint-*/trainer_state.json"
    kill_when(killed, *options, cache=cache, pattern=fold_3, root=killed)

    output = train(killed, cache, *options, "--resume_from_checkpoint=true")
    for fold in ("fold 1", "fold 2"):
        assert f"{fold}: was trained and tested before" in output
    assert "Resuming from" in output
    assert metrics_of(killed)["test"] == metrics_of(uninterrupted)["test"]
    assert metrics_of(killed)["validation"] == metrics_of(uninterrupted)["validation"]
    predictions = pd.read_csv(killed / "predictions.csv")
    assert (killed / "predictions.csv").read_text() == (uninterrupted / "predictions.csv").read_text()

    # Each speaker was tested once, by a model that was trained without them; an additional model was saved.
    assert len(predictions) == 128 and predictions["clip"].is_unique
    assert predictions.groupby("speaker")["fold"].nunique().max() == 1
    assert [fold["clips"] for fold in metrics_of(uninterrupted)["folds"]] == [32] * 4
    assert "models, one per fold" in (uninterrupted / "README.md").read_text()
    assert not (uninterrupted / "checkpoints").exists()
    assert AutoModelForAudioClassification.from_pretrained(uninterrupted).config.num_labels == 2


def test_folds_cannot_be_resumed_from_a_given_checkpoint(tmp_path):
    options = ["--demo", "--protocol=folds", "--resume_from_checkpoint=elsewhere"]
    message = refusal(tmp_path / "run", *options)
    assert "expected true" in message and "5 models" in message


# ---- Probe without fine-tuning, and adapters ----


@pytest.mark.slow
def test_leave_one_speaker_out_with_the_probe_alone_encodes_each_clip_once(tmp_path):
    folder = tmp_path / "probe"
    options = ["--demo", "--protocol=loso", "--num_train_epochs=0"]
    assert train(folder, tmp_path / "cache", *options).count("Encoding 480 of 480 clips") == 1

    predictions, metrics = pd.read_csv(folder / "predictions.csv"), metrics_of(folder)
    assert len(predictions) == 480 and predictions["clip"].is_unique
    assert (predictions.groupby("fold")["speaker"].nunique() == 1).all()
    assert predictions["fold"].nunique() == 16 == len(metrics["folds"])
    assert metrics["test"]["intervals"]["uar"][0] > 1 / 8, "no better than chance"
    assert len(metrics["probe"]["choices"]) == 17  # a layer is selected for each fold and for the saved model
    assert metrics["training"]["history"] == [] and metrics["stages"]["final"]["kept"] == "probe"

    # The saved model is the final probe. It was cross-validated among all speakers, and needs no others.
    card = (folder / "README.md").read_text()
    assert "frozen, with a linear classifier on" in card
    assert (folder / "figures/layers.png").exists() and not (folder / "figures/learning_curves.png").exists()
    assert list(metrics["split"]) == ["train"] and metrics["split"]["train"]["clips"] == 480
    best = max(metrics["probe"]["choices"]["final"].values())
    assert metrics["stages"]["final"]["validation_uar"]["probe"] == best


@pytest.mark.slow
def test_adapters_are_trained_and_merged_into_a_stock_model(tmp_path, cache):
    folder = tmp_path / "lora"
    options = ["--demo", "--no_probe", "--parameter_efficient=lora", "--num_train_epochs=2"]
    train(folder, cache, *options, "--emotions", "calm", "angry")
    model, loading = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert "low-rank adapters (LoRA, rank 8)" in (folder / "README.md").read_text()

    transformers.set_seed(metrics_of(folder)["seed"])
    initial, _ = build_classifier("", "tiny", ("calm", "angry"))
    changed = {
        name
        for name, values in model.base_model.named_parameters()
        if not torch.equal(values, dict(initial.base_model.named_parameters())[name])
    }
    layers = range(model.config.num_hidden_layers)
    parts = ("intermediate_dense", "output_dense")
    assert changed == {f"encoder.layers.{n}.feed_forward.{part}.weight" for n in layers for part in parts}


# ---- Several processes ----


def train_on_two_machines(folder: Path, *options: str) -> str:
    """Run the script in two processes on each of two simulated machines without a common folder.

    Returns:
        output of the first machine.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    machines = []
    for rank in range(2):
        machine_folder = folder / f"machine {rank}"
        machine_folder.mkdir(parents=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={rank}"]
        command += ["--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
        command += ["train_wav2vec2.py", *options]
        command += [f"--output_dir={machine_folder}/run", f"--cache_dir={machine_folder}/cache"]
        with (machine_folder / "printed.txt").open("w") as printed:
            machines.append(subprocess.Popen(command, cwd=PROJECT, stdout=printed, stderr=printed))
    codes = [machine.wait(timeout=900) for machine in machines]
    printed = [(folder / f"machine {rank}" / "printed.txt").read_text() for rank in range(2)]
    # The process that fails first prints its traceback first; the others lose the connection to it.
    tracebacks = [text[text.find("Traceback") :][:3000] for text in printed]
    assert codes == [0, 0], "\n".join(tracebacks)
    return printed[0]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, cache) -> Path:
    """A run of two steps in one process."""
    folder = tmp_path_factory.mktemp("one process") / "run"
    train(folder, cache, *TWO_STEPS)
    return folder


@pytest.mark.slow
def test_four_processes_on_two_machines_give_the_same_steps_and_predictions_as_one(one_process, tmp_path):
    one, four = one_process, tmp_path / "machine 0" / "run"
    options = [*TWO_STEPS, "--use_cpu=true"]
    assert "world size 4" in train_on_two_machines(tmp_path, *options)
    assert not list((tmp_path / "machine 1" / "run").iterdir())  # only the first machine writes the run

    histories = [metrics_of(folder)["training"]["history"] for folder in (one, four)]
    for quantity in ("loss", "grad_norm", "eval_uar", "eval_loss"):
        steps = [[entry[quantity] for entry in history if quantity in entry] for history in histories]
        assert steps[0] and steps[1] == pytest.approx(steps[0], rel=1e-4), quantity

    predictions = [pd.read_csv(folder / "predictions.csv") for folder in (one, four)]
    assert len(predictions[1]) == 32 and predictions[1]["clip"].is_unique
    assert (predictions[1]["clip"] == predictions[0]["clip"]).all()
    probabilities = [rows.filter(regex="^p_").to_numpy() for rows in predictions]
    np.testing.assert_allclose(*probabilities, atol=1e-4)


@pytest.mark.slow
def test_gradient_accumulation_gives_the_same_losses(one_process, tmp_path, cache):
    train(tmp_path / "run", cache, *TWO_STEPS, "--gradient_accumulation_steps=4")
    losses = [
        [entry["loss"] for entry in metrics_of(folder)["training"]["history"] if "loss" in entry]
        for folder in (one_process, tmp_path / "run")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_the_script_runs_with_accelerate_launch(tmp_path, cache):
    train(tmp_path / "run", cache, *TWO_STEPS, "--augment", launcher=ACCELERATE)
    assert metrics_of(tmp_path / "run")["arguments"]["augment"] is True


# ---- Options ----


def test_options_can_be_read_from_a_yaml_file(tmp_path, cache):
    options = tmp_path / "options.yaml"
    options.write_text(
        f"demo: true\nmax_steps: 1\nlearning_rate: 1e-3\nclass_weights: none\nemotions: [sad, angry]\n"
        f"output_dir: {tmp_path / 'run'}\ncache_dir: {cache}\n"
    )
    done = subprocess.run(
        [sys.executable, "train_wav2vec2.py", str(options)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = metrics_of(tmp_path / "run")
    assert metrics["emotions"] == ["sad", "angry"]
    assert metrics["arguments"]["class_weights"] == "none" and metrics["arguments"]["learning_rate"] == 1e-3
    assert metrics["test"]["clips"] == 32


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--corpora=ravdes"], "--corpora: unknown corpus 'ravdes'"),
        (["--data_dir=/no/such/place"], "--data_dir /no/such/place"),
        (["--demo", "--emotions", "hapy", "sad"], "did you mean 'happy'"),
        (["--demo", "--unfreeze_layers=9"], "--unfreeze_layers 9: expected 0 to 3"),
        (["--demo", "--keep_layers=4"], "--keep_layers 4: expected 1 to 3"),
        (["--demo", "--window_seconds=5"], "--window_seconds 5: this wav2vec2 has no window"),
        (
            ["--demo", "--global_batch_size=6", "--gradient_accumulation_steps=4"],
            "--global_batch_size 6: expected a multiple of 4",
        ),
        (["--demo", "--max_length_seconds=0.1"], "--max_length_seconds 0.1"),
        (["--protocol=lucky"], "--protocol"),
        (["--nonsense=1"], "--nonsense"),
        (["--hub_tok=hf_abbreviated"], "--hub_tok"),
        (["--eval_strategy=no"], "--eval_strategy no"),
        (["--num_train_epochs=many"], "--num_train_epochs"),
        (["--demo", "--from_config=huge"], "--from_config"),
        (["--demo", "--no_probe", "--num_train_epochs=0"], "--no_probe with --num_train_epochs 0"),
        (["--demo", "--parameter_efficient=prefix"], "--parameter_efficient"),
        (["missing.yaml"], "missing.yaml"),
    ],
)
def test_invalid_options_are_refused(options, expected, tmp_path):
    if options[0].endswith(".yaml"):
        assert expected in error_of("train_wav2vec2.py", *options)
    else:
        assert expected in refusal(tmp_path / "run", *options)


def test_an_invalid_option_gives_a_one_line_error_and_exit_code_2(tmp_path, cache):
    output = train(tmp_path / "run", cache, "--corpora=ravdes", expect=2)
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if line.startswith("error: --corpora")]


def test_a_finished_run_is_not_overwritten_without_the_option(demo_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(demo_run, folder)
    before = (folder / "metrics.json").read_bytes()
    for options in (["--data_dir", str(PROJECT / "data")], ["--demo"]):
        assert "--overwrite" in refusal(folder, *options)
    # With the option, the run is kept if the new run has invalid options.
    refusal(folder, "--demo", "--overwrite=true", "--emotions", "hapy", "sad")
    assert (folder / "metrics.json").read_bytes() == before and (folder / "README.md").exists()


def test_a_run_cannot_be_resumed_with_another_split(tmp_path):
    folder = tmp_path / "run"
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    identity = {"encoder": "tiny", "emotions": ["sad", "angry"], "split_digest": "another"}
    (checkpoints / "run.json").write_text(json.dumps(identity))
    message = refusal(folder, "--demo", "--emotions", "sad", "angry", "--resume_from_checkpoint=true")
    assert "split_digest" in message and (checkpoints / "run.json").exists()


# ---- Imperfect copies of corpora ----


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """Synthetic clips with names of 24 RAVDESS actors and two TESS speakers, and faults of real copies."""
    folder = tmp_path_factory.mktemp("Köpie der Daten")
    voices = make_demo_corpus(tmp_path_factory.mktemp("voices"), num_speakers=24)
    words = ["back", "bar", "base", "bath", "bean"]
    tess = {
        "01": "neutral",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fear",
        "07": "disgust",
        "08": "ps",
    }
    for path in sorted(voices.rglob("*.wav")):
        fields = path.stem.split("-")
        actor, emotion = fields[-1], fields[2]
        if fields[4] == "02":  # one sentence is enough, and faster
            continue
        target = folder / f"Actor_{actor}" / f"03-01-{'-'.join(fields[2:])}.wav"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
        # Clips of the first ten speakers are also used as words of TESS.
        if emotion in tess and int(actor) <= 10 and fields[3:5] == ["01", "01"]:
            speaker = "OAF" if int(actor) % 2 else "YAF"
            target = folder / "TESS" / f"{speaker}_{tess[emotion]}"
            target.mkdir(parents=True, exist_ok=True)
            waveform, rate = soundfile.read(path)
            name = f"{speaker}_{words[(int(actor) - 1) // 2]}_{tess[emotion]}.wav"
            soundfile.write(target / name, np.repeat(waveform, 3)[::2], rate * 3 // 2)
    (folder / "Actor_05" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "Actor_05" / "03-01-05-01-01-01-05.wav").write_bytes(b"")
    shutil.copytree(folder / "Actor_07", folder / "Actor_07" / "Actor_07")
    return folder


def test_missing_and_damaged_clips_are_errors_that_name_them(corpora, tmp_path):
    message = refusal(tmp_path / "run", "--data_dir", str(corpora), "--from_config=tiny")
    assert "RAVDESS speech: only 360 of 1440 clips" in message
    assert "TESS: only 70 of 2800 clips" in message
    assert "03-01-05-01-01-01-05.wav: empty file" in message
    assert not (tmp_path / "run" / "README.md").exists()


def test_with_allow_partial_missing_and_damaged_clips_are_listed_in_the_card(corpora, tmp_path, cache):
    folder = tmp_path / "run"
    train(
        folder,
        cache,
        *["--data_dir", str(corpora), "--allow_partial", "--from_config=tiny"],
        *[*STEPS, "--robustness=false"],
    )
    metrics, card = metrics_of(folder), (folder / "README.md").read_text()
    assert metrics["emotions"] == ["neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    assert [row["clips_found"] for row in metrics["corpora"]] == [360, 70]
    assert metrics["corpora"][0]["unusable"] == ["03-01-05-01-01-01-05: empty file"]
    # The 48 calm clips and the damaged one are not used.
    assert [row["clips"] for row in metrics["corpora"]] == [360 - 48 - 1, 70]
    known = set(metrics["split"]["train"]["speakers"]) | set(metrics["split"]["validation"]["speakers"])
    assert not known & set(metrics["split"]["test"]["speakers"])
    assert set(metrics["test_per_corpus"]) == {"ravdess", "tess"}
    assert "360 of its 1440 clips" in card and "70 of its 2800 clips" in card
    assert "03-01-05-01-01-01-05: empty file" in card


@pytest.mark.slow
def test_the_log_the_metrics_and_the_card_warn_of_a_random_split(corpora, tmp_path, cache):
    folder = tmp_path / "run"
    output = train(
        folder,
        cache,
        *["--corpora=ravdess", "--data_dir", str(corpora), "--allow_partial", "--from_config=tiny"],
        *["--protocol=random", "--emotions", "sad", "angry", *STEPS],
    )
    assert "seen in training" in output
    assert "seen in training" in metrics_of(folder)["protocol_words"]
    assert "Do not quote" in (folder / "README.md").read_text().split("## Use")[0]


# ---- Encoders ----

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.mark.parametrize(
    ("config_class", "model_class"),
    [(Wav2Vec2Config, Wav2Vec2Model), (HubertConfig, HubertModel), (WavLMConfig, WavLMModel)],
)
def test_pretrained_encoders_of_each_family_keep_their_weights(config_class, model_class, tmp_path):
    encoder = model_class(config_class(**SMALL))
    encoder.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    model, extractor = build_classifier(str(tmp_path), None, ("sad", "angry"))
    assert model.config.id2label == {0: "sad", 1: "angry"} and not model.config.use_weighted_layer_sum
    assert extractor.return_attention_mask
    for name, weight in encoder.state_dict().items():
        torch.testing.assert_close(model.base_model.state_dict()[name], weight)


def test_of_a_classifier_of_another_task_only_the_encoder_is_used(tmp_path):
    """A checkpoint may be a finished run of this kit, whose layer weights are one-hot."""
    config = Wav2Vec2Config(**SMALL, num_labels=2, problem_type="multi_label_classification")
    config.use_weighted_layer_sum = True
    old = AutoModelForAudioClassification.from_config(config)
    with torch.no_grad():
        old.layer_weights.copy_(torch.tensor([0.0, 30.0, 0.0]))
        old.classifier.weight.fill_(7)
    old.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    model, extractor = build_classifier(str(tmp_path), None, ("sad", "angry"))
    assert not model.config.use_weighted_layer_sum
    assert not (model.classifier.weight == 7).any()
    for name, weight in old.base_model.state_dict().items():
        torch.testing.assert_close(model.base_model.state_dict()[name], weight)

    model.save_pretrained(tmp_path / "new")
    extractor.save_pretrained(tmp_path / "new")
    scores = pipeline("audio-classification", model=str(tmp_path / "new"))(np.ones(16_000, np.float32))
    assert sum(score["score"] for score in scores) == pytest.approx(1)


@pytest.mark.slow
def test_a_training_that_diverges_is_left_out_and_the_card_says_so(tmp_path, cache):
    options = [*TWO_STEPS, "--learning_rate=1e30", "--head_learning_rate=1e30"]
    output = train(tmp_path / "run", cache, *options)
    metrics, card = metrics_of(tmp_path / "run"), (tmp_path / "run" / "README.md").read_text()
    assert "Fine-tuning diverged and is left out" in output and "The fine-tuning diverged" in card
    assert metrics["stages"]["holdout"]["kept"] == "probe" and metrics["test"]["uar"] > 1 / 2
    output = train(tmp_path / "fresh", cache, *options, "--no_probe", expect=2)
    assert "error: the training diverged" in output and "Traceback" not in output


def test_an_encoder_with_missing_weights_is_refused(tmp_path):
    config = Wav2Vec2Config(**SMALL)
    model = AutoModelForAudioClassification.from_config(config)
    weights = {name: w for name, w in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no weights for"):
        build_classifier(str(tmp_path), None, ("sad", "angry"))


def test_an_encoder_that_cannot_be_downloaded_is_a_one_line_error():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(InputError, match="--model_name_or_path nobody/no-such-encoder: cannot be loaded"):
        build_classifier("nobody/no-such-encoder", None, ("sad", "angry"))
