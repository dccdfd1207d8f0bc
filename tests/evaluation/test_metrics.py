"""Scores equal those of scikit-learn; latency, calibration.

Run: python -m pytest tests/evaluation/test_metrics.py
"""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from utils.evaluation.calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
    scale_temperature,
)
from utils.evaluation.emotion_metric import EmotionMetric
from utils.evaluation.latency import measure_latency
from utils.evaluation.metrics import mean_uar, score

EMOTIONS = ("neutral", "happy", "sad", "angry")


def random_clips(num_clips: int, num_labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random labels, and predictions of which about half are correct."""
    generator = np.random.default_rng(seed)
    references, guesses = generator.integers(num_labels, size=(2, num_clips))
    return references, np.where(generator.random(num_clips) < 0.4, references, guesses)


def random_probabilities(num_clips: int, num_labels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(num_labels), size=num_clips)


def compute(references, predictions, num_labels: int) -> dict:
    metric = EmotionMetric(keep_in_memory=True)
    return metric.compute(predictions=predictions, references=references, num_labels=num_labels)


# ---------------------------------------------------------------------------------------------------
# The metric


@pytest.mark.parametrize("num_labels", [2, 4, 8])
def test_scores_equal_scikit_learn(num_labels):
    references, predictions = random_clips(200, num_labels)
    scores = compute(references, predictions, num_labels)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(references, predictions),
        "uar": sklearn_metrics.balanced_accuracy_score(references, predictions),
        "macro_precision": sklearn_metrics.precision_score(references, predictions, average="macro"),
        "macro_f1": sklearn_metrics.f1_score(references, predictions, average="macro"),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    confusion = sklearn_metrics.confusion_matrix(references, predictions)
    assert scores["confusion_matrix"] == confusion.tolist()
    assert [label["support"] for label in scores["per_label"]] == confusion.sum(axis=1).tolist()
    for name in ("precision", "recall", "f1"):
        function = getattr(sklearn_metrics, f"{name}_score")
        expected = function(references, predictions, average=None)
        assert [label[name] for label in scores["per_label"]] == pytest.approx(expected.tolist())


def test_an_emotion_without_clips_has_no_score_and_does_not_count():
    references, predictions = random_clips(200, 4)
    references[references == 2] = 3  # label 2 is predicted but never true
    scores = compute(references, predictions, num_labels=5)  # label 4 is neither
    assert 2 in predictions
    for absent in (2, 4):
        assert scores["per_label"][absent] == {"precision": None, "recall": None, "f1": None, "support": 0}
    occurring = [0, 1, 3]
    options = {"labels": occurring, "average": "macro"}
    expected = {
        "uar": sklearn_metrics.recall_score(references, predictions, **options),
        "macro_precision": sklearn_metrics.precision_score(references, predictions, **options),
        "macro_f1": sklearn_metrics.f1_score(references, predictions, **options),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert np.shape(scores["confusion_matrix"]) == (5, 5)


def test_an_emotion_that_is_never_predicted_scores_zero_and_counts():
    scores = compute([0, 0, 1, 1], [0, 0, 0, 0], num_labels=2)
    assert scores["per_label"][1] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 2}
    assert scores["uar"] == 0.5


def test_scores_of_batches_equal_those_of_all_clips():
    references, predictions = random_clips(50, 4)
    metric = EmotionMetric(keep_in_memory=True)
    for start in range(0, 50, 8):
        batch = slice(start, start + 8)
        metric.add_batch(predictions=predictions[batch], references=references[batch])
    assert metric.compute(num_labels=4) == compute(references, predictions, 4)


# ---------------------------------------------------------------------------------------------------
# The test block of metrics.json


def test_score_equals_scikit_learn():
    references, _ = random_clips(120, 4)
    probabilities = random_probabilities(120, 4)
    speakers = [f"ravdess-{clip % 6:02d}" for clip in range(120)]
    scores = score(references, probabilities, EMOTIONS, speakers, ["ravdess"] * 120)
    predictions = probabilities.argmax(axis=1)
    assert scores["loss"] == pytest.approx(sklearn_metrics.log_loss(references, probabilities))
    assert scores["uar"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(references, predictions))
    supports = {name: row["support"] for name, row in scores["per_emotion"].items()}
    assert supports == dict(zip(EMOTIONS, np.bincount(references).tolist(), strict=True))
    assert (scores["clips"], scores["speakers"]) == (120, 6)
    for name in ("accuracy", "uar"):
        low, high = scores["intervals"][name]
        assert 0 <= low <= scores[name] <= high <= 1


def test_models_are_selected_by_the_mean_of_the_corpora_not_by_the_largest():
    references = np.array([0, 1] * 50 + [0, 1, 0, 1])
    corpora = ["large"] * 100 + ["small"] * 4
    good_on_large = np.concatenate([references[:100], 1 - references[100:]])
    assert mean_uar(references, good_on_large, corpora) == 0.5
    assert mean_uar(references, references, corpora) == 1
    assert mean_uar(references, good_on_large, ["one"] * 104) == pytest.approx(100 / 104)


def test_an_error_with_probability_one_has_a_large_finite_loss():
    scores = score([0, 1], np.array([[1.0, 0.0], [1.0, 0.0]]), ("happy", "sad"), ["a", "b"], ["tess"] * 2)
    assert 100 < scores["loss"] < np.inf


# ---------------------------------------------------------------------------------------------------
# Latency


def test_latency_of_a_model_that_takes_ten_milliseconds():
    predicted = []

    def predict(waveform):
        predicted.append(waveform)
        time.sleep(0.010)

    waveforms = [np.zeros(8_000, np.float32)] * 20
    latency = measure_latency(predict, waveforms, sampling_rate=16_000, num_warm_up=3)
    assert len(predicted) == 23 and latency["clips"] == 20
    # A busy machine sleeps longer, never shorter.
    assert 10 <= latency["p50_ms"] < 40 and latency["p50_ms"] <= latency["p95_ms"]
    assert 0.02 <= latency["real_time_factor"] < 0.08  # 10 ms for half a second


def test_real_time_factor_is_processing_time_per_duration():
    def predict(waveform):
        time.sleep(0.02 * len(waveform) / 1_000)

    waveforms = [np.zeros(length) for length in (500, 1_000, 2_500)]
    latency = measure_latency(predict, waveforms, sampling_rate=1_000)
    assert 0.02 <= latency["real_time_factor"] < 0.08
    assert latency["p50_ms"] < latency["p95_ms"]


# ---------------------------------------------------------------------------------------------------
# Calibration


def calibrated_clips(num_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities: each label is drawn with its predicted probability."""
    probabilities = random_probabilities(num_clips, 4)
    generator = np.random.default_rng(1)
    return np.array([generator.choice(4, p=row) for row in probabilities]), probabilities


def test_overconfident_probabilities_have_a_calibration_error():
    references, probabilities = calibrated_clips(20_000)
    assert expected_calibration_error(references, probabilities) < 0.02
    overconfident = scale_temperature(probabilities, 1 / 3)
    assert expected_calibration_error(references, overconfident) > 0.15
    assert (overconfident.argmax(axis=1) == probabilities.argmax(axis=1)).all()


def validation_of(references) -> pd.DataFrame:
    """The table of a split with these validation clips, by speakers who do not train."""
    return pd.DataFrame({"split": "validation", "speaker": "ravdess-19", "label": references})


@pytest.mark.parametrize("factor", [0.6, 1.0, 3.0])
def test_the_temperature_of_scaled_probabilities_is_found_and_inverted(factor):
    references, probabilities = calibrated_clips(20_000)
    scaled = scale_temperature(probabilities, 1 / factor)
    temperature = fit_temperature(validation_of(references), scaled)
    assert temperature == pytest.approx(factor, rel=0.05)
    np.testing.assert_allclose(scale_temperature(scaled, factor), probabilities, atol=1e-9)


def test_calibration_error_by_hand():
    # Two clips at 0.9, one of them wrong; two at 0.6, both correct.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.6, 0.4]])
    references = [0, 1, 1, 0]
    bins = reliability_bins(references, probabilities)
    assert [(row["share"], row["correct"]) for row in bins] == [(0.5, 1.0), (0.5, 0.5)]
    assert [row["confidence"] for row in bins] == pytest.approx([0.6, 0.9])
    assert expected_calibration_error(references, probabilities) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


@pytest.mark.parametrize("correct", [True, False])
def test_probabilities_of_one_have_a_finite_temperature(correct):
    references = np.arange(8) % 4
    probabilities = np.eye(4)[references if correct else (references + 1) % 4]
    temperature = fit_temperature(validation_of(references), probabilities)
    assert 0.5 <= temperature <= 20
    assert np.isfinite(scale_temperature(probabilities, temperature)).all()
