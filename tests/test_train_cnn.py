"""train_cnn.py as a user runs it: complete runs, resuming after a kill, options; and its batches.

Run: python -m pytest tests/test_train_cnn.py
"""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from datasets import Dataset
from scripts import REPORTED, command_of, error_of, metrics_of, reported
from scripts import train as train_script
from sklearn.metrics import balanced_accuracy_score

import train_cnn
from utils.cnn.batches import TrainingSegments, WholeClips
from utils.cnn.saving import NEWER_SETTINGS
from utils.cnn.training import ResumableTraining, WeightAverage
from utils.data.audio import read_waveform

train = functools.partial(train_script, "train_cnn.py")
SMALL = ("--demo", "--emotions", "sad", "angry", "--width=4")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def demo_run(finished_runs) -> Path:
    assert "not real results" in finished_runs.log("demo/cnn")
    return finished_runs / "demo/cnn"


def test_the_demo_is_better_than_chance_and_has_a_complete_run_folder(demo_run):
    files = {path.relative_to(demo_run).as_posix() for path in demo_run.rglob("*") if path.is_file()}
    code = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "utils").rglob("*.py")}
    predictions = pd.read_csv(demo_run / "predictions.csv")
    correctly_classified = set(predictions[predictions["emotion"] == predictions["predicted"]]["emotion"])
    assert files - code == {
        "README.md", "metrics.json", "predictions.csv", "unpublished/reference_predictions.npz",
        "train_cnn.py", "model_card.md", "requirements.txt", "model.keras",
        "figures/coverage.png", "figures/genders_demo.png", "figures/intensity_demo.png",
        "figures/speakers.png", "figures/reliability.png",
        "figures/confusion_matrix.png", "figures/per_emotion.png", "figures/learning_curves.png",
        "figures/waveforms.png", "figures/model.png", "figures/robustness.png", "figures/perturbations.png",
        *(f"figures/explained_{emotion}.png" for emotion in correctly_classified),
    }  # fmt: skip
    assert code <= files
    metrics = metrics_of(demo_run)
    assert metrics["test"]["clips"] == 120 and metrics["test"]["intervals"]["uar"][0] > 2 / 8
    assert metrics["training"]["history"][0]["eval_uar"] < metrics["validation"]["uar"]
    card = (demo_run / "README.md").read_text()
    assert "library_name: keras" in card and "### Robustness" in card
    assert all(sentence in card for sentence in metrics["robustness"]["limitations"])


def test_the_code_example_of_the_card_needs_only_keras_and_gives_the_probabilities_of_the_report(
    demo_run, tmp_path
):
    snippet = re.search(r"```python\n(.*?)```", (demo_run / "README.md").read_text(), re.DOTALL).group(1)
    row = pd.read_csv(demo_run / "predictions.csv").iloc[17]
    shutil.copytree(demo_run, tmp_path / "runs" / "cnn")
    clip = PROJECT / "data" / "demo" / f"Actor_{row['clip'][-2:]}" / f"{row['clip']}.wav"
    shutil.copy(clip, tmp_path / "speech.wav")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    probabilities = dict(line.split() for line in done.stdout.splitlines())
    assert len(probabilities) == 8
    for emotion, probability in probabilities.items():
        assert float(probability) == pytest.approx(row[f"p_{emotion}"], abs=1e-3)


def test_earlier_versions_of_keras_can_load_the_saved_classifier(demo_run):
    """Keras 3.13 refuses settings that it does not know; the file has been loaded with 3.13 to 3.15."""
    with zipfile.ZipFile(demo_run / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert '"BatchNormalization"' in config and '"GlorotUniform"' in config
    assert not [setting for setting in NEWER_SETTINGS if f'"{setting}"' in config]
    oldest = metrics_of(demo_run)["model"]["readable_from"]
    assert f'"keras>={oldest}"' in (demo_run / "README.md").read_text()
    assert f"\nkeras>={oldest}\n" in (demo_run / "requirements.txt").read_text()


def test_the_saved_classifier_is_not_compiled_for_each_clip_length_on_a_gpu(demo_run):
    assert train_cnn.keras.models.load_model(demo_run / "model.keras").jit_compile is False


@pytest.mark.slow
def test_settings_of_keras_in_the_environment_and_the_home_do_not_matter(tmp_path, cache, monkeypatch):
    (tmp_path / "keras.json").write_text('{"image_data_format": "channels_first", "floatx": "float16"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    train(tmp_path / "run", cache, *SMALL, "--num_train_epochs=1")
    assert (tmp_path / "run" / "README.md").exists()


@pytest.mark.slow
def test_a_training_that_diverges_is_a_one_line_error(tmp_path, cache):
    options = (*SMALL, *REPORTED, "--num_train_epochs=1", "--learning_rate=1e30")
    output = train(tmp_path / "run", cache, *options, expect=2)
    assert "error: the training diverged" in output and "Traceback" not in output
    assert reported(tmp_path / "run")["train/epoch"] == [1], "the failed run leaves what it reported"


@pytest.mark.parametrize("clip", ["Actor_01/03-03-05-01-01-01-01", "Actor_02/03-03-04-01-02-01-02"])
def test_gain_silence_and_other_clips_of_the_batch_do_not_change_the_probabilities(demo_run, clip):
    classifier = train_cnn.keras.models.load_model(demo_run / "model.keras")
    waveform = read_waveform(PROJECT / "data" / "demo" / f"{clip}.wav")[None]
    probabilities = classifier.predict_on_batch(waveform)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(classifier.predict_on_batch(0.01 * waveform), probabilities, atol=1e-4)
    padded = np.pad(waveform, ((0, 0), (7_680, 24_000)))
    np.testing.assert_allclose(classifier.predict_on_batch(padded), probabilities, atol=0.05)
    batch = classifier.predict_on_batch(np.concatenate([waveform, waveform[:, ::-1]]))
    np.testing.assert_allclose(batch[:1], probabilities, atol=1e-5)


@pytest.mark.slow
def test_a_killed_and_resumed_run_equals_an_uninterrupted_run(tmp_path, cache):
    folder, options = tmp_path / "killed", (*SMALL, "--num_train_epochs=8")
    process = subprocess.Popen(
        command_of("train_cnn.py", folder, cache, *options),
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    history = folder / "checkpoints" / "holdout" / "history.jsonl"
    deadline = time.monotonic() + 300
    while not history.exists() or len(history.read_text().splitlines()) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "README.md").exists(), "a killed run must not look finished"
    before_kill = [json.loads(line) for line in history.read_text().splitlines()]

    assert "unfinished" in error_of(*command_of("train_cnn.py", folder, cache, *options)[1:])
    output = train(folder, cache, *options, "--resume_from_checkpoint")
    assert "Epoch 1/" not in output
    whole = tmp_path / "uninterrupted"
    train(whole, cache, *options)
    assert (folder / "predictions.csv").read_text() == (whole / "predictions.csv").read_text()
    for split in ("validation", "test"):
        assert metrics_of(folder)[split] == metrics_of(whole)[split]
    resumed, uninterrupted = (metrics_of(each)["training"] for each in (folder, whole))
    assert resumed["history"] == uninterrupted["history"]
    # The duration includes the epochs before the kill.
    assert resumed["seconds"] > sum(epoch["seconds"] for epoch in before_kill)
    assert "complete" in train(folder, cache, *options, "--resume_from_checkpoint")


@pytest.mark.slow
def test_with_folds_each_clip_is_tested_once_by_a_model_that_was_trained_without_its_speaker(tmp_path, cache):
    train(tmp_path / "run", cache, *SMALL, "--protocol=folds", "--num_train_epochs=1")
    metrics = metrics_of(tmp_path / "run")
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert len(predictions) == 128 and predictions["clip"].is_unique
    assert predictions.groupby("speaker")["fold"].nunique().max() == 1
    assert [fold["clips"] for fold in metrics["folds"]] == [32] * 4
    assert "models, one per fold" in (tmp_path / "run" / "README.md").read_text()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--corpora=ravdes"], "ravdes"),
        (["--num_train_epochs=many"], "many"),
        (["--demo", "--protocol=cross-corpus"], "at least two corpora"),
        (["--demo", "--emotions", "hapy", "sad"], "did you mean 'happy'"),
    ],
)
def test_invalid_options_are_refused(options, expected, tmp_path):
    assert expected in error_of("train_cnn.py", *options, f"--output_dir={tmp_path / 'run'}")


def test_a_finished_run_is_not_overwritten_without_the_option(demo_run):
    assert "--overwrite" in error_of("train_cnn.py", "--demo", f"--output_dir={demo_run}")


# ---- Batches ----


def clips(num_clips: int) -> Dataset:
    generator = np.random.default_rng(0)
    lengths = generator.integers(8_000, 40_000, num_clips)
    waveforms = [generator.normal(size=length).astype(np.float32) * 0.1 for length in lengths]
    labels = [0] * (num_clips - 4) + [1, 1, 2, 2]
    columns = {"waveform": waveforms, "num_samples": lengths.tolist(), "label": labels}
    return Dataset.from_dict(columns | {"corpus": ["ravdess"] * num_clips})


def segments(dataset: Dataset, **options) -> TrainingSegments:
    settings = {"mixup": 0.0, "label_smoothing": 0.0} | options
    return TrainingSegments(dataset, batch_size=4, num_samples=24_000, num_emotions=3, seed=1, **settings)


def test_all_emotions_have_the_same_weight_in_an_epoch():
    dataset = clips(12)
    weights = np.zeros(3)
    for waveforms, targets, share in (segments(dataset)[batch] for batch in range(3)):
        assert waveforms.shape == (4, 24_000) and waveforms.dtype == np.float32
        weights += (targets * share[:, None]).sum(axis=0)
    np.testing.assert_allclose(weights, 4, rtol=1e-5)


def test_a_batch_depends_only_on_the_seed_the_epoch_and_its_number():
    first, second = segments(clips(12), mixup=0.2), segments(clips(12), mixup=0.2)
    second[0]  # an earlier batch has no effect on the next one
    for array, expected in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(array, expected)
    second.epoch = 1
    assert not np.array_equal(first[1][0], second[1][0])


def test_mixed_clips_have_mixed_targets():
    waveforms, targets, _ = segments(clips(12), mixup=5.0, label_smoothing=0.3)[0]
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert targets.min() == pytest.approx(0.1, abs=1e-6) and np.isfinite(waveforms).all()


def test_the_weighted_accuracy_of_the_validation_batches_is_the_uar():
    dataset = clips(50)
    validation = WholeClips(dataset, 3, batch_size=8)
    predictions, labels, weights, lengths = [], [], [], []
    for waveforms, targets, share in (validation[batch] for batch in range(len(validation))):
        lengths.append(waveforms.shape[1])
        predictions += list((np.abs(waveforms).sum(axis=1) * 10).astype(int) % 3)
        labels += list(targets.argmax(axis=1))
        weights += list(share)
    assert len(labels) == 50 and lengths == sorted(lengths)
    accuracy = np.average(np.equal(predictions, labels), weights=weights)
    assert accuracy == pytest.approx(balanced_accuracy_score(labels, predictions), abs=1e-6)


def test_with_several_corpora_it_is_the_mean_of_their_uar():
    dataset = clips(50)
    corpora = ["tess"] * 40 + ["ravdess"] * 10
    dataset = dataset.remove_columns("corpus").add_column("corpus", corpora)
    validation = WholeClips(dataset, 3, batch_size=50)
    _, targets, weights = validation[0]
    rows, labels = validation.batches[0], targets.argmax(axis=1)
    predictions = np.where(np.array(corpora)[rows] == "tess", labels, (labels + 1) % 3)
    assert np.average(predictions == labels, weights=weights) == pytest.approx(0.5)


# ---- Resuming ----


def small_model():
    layers = train_cnn.layers
    return train_cnn.keras.Sequential(
        [
            train_cnn.keras.Input((None,)),
            layers.Reshape((-1, 1)),
            layers.Conv1D(4, 400, strides=200, activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dropout(0.4),
            layers.Dense(3, activation="softmax"),
        ]
    )


def fit(folder: Path, epochs: int, learning_rate: float = 1e-3) -> tuple[ResumableTraining, int]:
    """Train a small model on a few clips as the script does.

    Returns:
        callback, and number of epochs that had been trained before.
    """
    keras = train_cnn.keras
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    dataset = clips(12)
    trainee, classifier = (small_model() for _ in range(2))
    trainee.compile(keras.optimizers.AdamW(learning_rate), loss="categorical_crossentropy", jit_compile=False)
    average = WeightAverage(trainee, classifier, classifier, WholeClips(dataset, 3), decay=0.9)
    early_stopping = keras.callbacks.EarlyStopping("val_uar", mode="max", patience=2)
    plateau = keras.callbacks.ReduceLROnPlateau("val_uar", mode="max", patience=5)
    resumable = ResumableTraining(folder, segments(dataset), average, early_stopping, plateau)
    num_done = resumable.restore(trainee)
    if num_done < epochs and not trainee.stop_training:
        callbacks = [average, early_stopping, plateau, resumable]
        trainee.fit(
            resumable.segments,
            initial_epoch=num_done,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    resumable.restore_best()
    return resumable, num_done


def test_training_that_was_stopped_early_is_not_continued_after_a_kill(tmp_path):
    stopped, _ = fit(tmp_path, epochs=9, learning_rate=0.0)  # without improvement
    assert len(stopped.history) == 3
    resumed, num_done = fit(tmp_path, epochs=9, learning_rate=0.0)
    assert num_done == 3 and resumed.history == stopped.history
    assert resumed.early_stopping.best_epoch == 0


def test_an_epoch_with_an_incomplete_state_is_trained_again(tmp_path):
    uninterrupted, _ = fit(tmp_path / "uninterrupted", epochs=3)
    fit(tmp_path / "killed", epochs=2)
    for name in ("state-2.weights.h5", "mean-2.npz"):  # of an epoch that is not yet in the history
        content = (tmp_path / "uninterrupted" / name).read_bytes()
        (tmp_path / "killed" / name).write_bytes(content[: len(content) // 2])
    resumed, num_done = fit(tmp_path / "killed", epochs=3)
    assert num_done == 2
    for array, expected in zip(resumed.average.values, uninterrupted.average.values, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_the_other_scripts_do_not_import_tensorflow():
    check = (
        "import sys, train_baselines, utils.compare, train_wav2vec2; sys.exit('tensorflow' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    assert not subprocess.run([sys.executable, "-c", check], cwd=PROJECT, env=environment).returncode
