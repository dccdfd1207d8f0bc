"""Calibration on speakers who do not train, inside the saved model.

Run: python -m pytest tests/evaluation/test_calibration.py
"""

import copy

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from utils.data.splits import selection_folds
from utils.evaluation.calibration import (
    calibrate,
    calibration_scores,
    fit_temperature,
    scale_temperature,
)


def test_the_temperature_comes_from_validation_speakers_who_do_not_train():
    """Clips of a speaker who trains are all correct; probabilities fitted on them would be overconfident."""
    generator = np.random.default_rng(3)
    draws = generator.dirichlet(np.ones(4), size=600)
    labels = np.array([generator.choice(4, p=row) for row in draws])
    overconfident = draws**3 / (draws**3).sum(axis=1, keepdims=True)  # logits three times as large
    unseen = pd.DataFrame({"split": "validation", "speaker": "b", "label": labels})
    seen = pd.DataFrame({"split": "validation", "speaker": "a", "label": [0] * 600})
    train = pd.DataFrame({"split": "train", "speaker": "a", "label": [0]})
    certain = np.tile([0.97, 0.01, 0.01, 0.01], (600, 1))
    alone = fit_temperature(pd.concat([train, unseen]), overconfident)
    assert alone == pytest.approx(3, rel=0.2)
    both = fit_temperature(pd.concat([seen, unseen, train]), np.concatenate([certain, overconfident]))
    assert both == alone
    assert fit_temperature(pd.concat([seen, train]), certain) == 1.0
    before, after = (
        calibration_scores(labels, probabilities)["ece"]
        for probabilities in (overconfident, scale_temperature(overconfident, alone))
    )
    assert after < before / 2


def test_clips_that_are_all_correct_do_not_make_every_probability_0_or_1():
    split = pd.DataFrame({"split": "validation", "speaker": "b", "label": np.arange(40) % 4})
    probabilities = np.where(np.eye(4)[split["label"]] == 1, 0.7, 0.1)
    assert fit_temperature(split, probabilities) == pytest.approx(0.5, abs=1e-3)
    assert scale_temperature(probabilities, 0.5).max() < 0.95


def clips_of_speakers(num_speakers: int, seed: int, rare: bool = False) -> tuple[np.ndarray, pd.DataFrame]:
    """Features of three emotions, with an offset of each speaker, and their table; `rare`: few sad clips."""
    generator = np.random.default_rng(seed)
    label = np.tile(np.arange(3), 20 * num_speakers)
    speaker = np.repeat(np.arange(num_speakers), 60)
    centres = generator.normal(0, 0.7, (num_speakers, 3, 12))  # how a speaker expresses an emotion
    features = np.eye(3, 12)[label] + centres[speaker, label] + generator.normal(0, 0.5, (len(label), 12))
    emotion = np.array(["happy", "sad", "angry"])[label]
    table = pd.DataFrame({"speaker": speaker, "text": "kids", "label": label, "emotion": emotion})
    kept = (label != 1) | (generator.random(len(label)) < 0.15) if rare else np.ones(len(label), bool)
    return features[kept], table[kept].reset_index(drop=True)


def fit_and_calibrate(last, num_speakers: int, seed: int, num_train: int, **options):
    """Return features, table, which clips train, and a fitted pipeline before and after the calibration."""
    features, table = clips_of_speakers(num_speakers, seed, **options)
    train = (table["speaker"] < num_train).to_numpy()
    rows = table[train]
    model = make_pipeline(StandardScaler(), last).fit(features[train], rows["emotion"])
    folds = selection_folds(rows, "holdout", seed=0)
    calibrated, temperature = calibrate(copy.deepcopy(model), features[train], rows, folds, by_speaker=True)
    return features, table, train, model, calibrated, temperature


@pytest.mark.parametrize("last", [LogisticRegression(C=100), LinearDiscriminantAnalysis(solver="lsqr")])
def test_a_linear_model_contains_its_temperature(last):
    features, table, train, model, calibrated, temperature = fit_and_calibrate(last, 12, 0, 8)
    assert temperature > 1.2  # without it, too confident for other speakers
    before, after = (each.predict_proba(features) for each in (model, calibrated))
    np.testing.assert_allclose(after, scale_temperature(before, temperature))
    truth = table["emotion"][~train]
    assert log_loss(truth, after[~train]) < log_loss(truth, before[~train])


@pytest.mark.parametrize(
    ("last", "by_speaker"), [(KNeighborsClassifier(), True), (LogisticRegression(), False)]
)
def test_models_without_logits_or_other_speakers_stay_as_they_are(last, by_speaker):
    features, rows = clips_of_speakers(4, seed=1)
    model = make_pipeline(StandardScaler(), last).fit(features, rows["emotion"])
    before = model.predict_proba(features)
    folds = selection_folds(rows, "holdout", seed=0)
    calibrated, temperature = calibrate(model, features, rows, folds, by_speaker)
    assert temperature == 1.0
    np.testing.assert_array_equal(calibrated.predict_proba(features), before)


def test_decisions_scaled_by_speaker_are_better_calibrated_than_over_clips():
    svm = SVC(class_weight="balanced")
    features, table, train, model, scaled, _ = fit_and_calibrate(svm, 12, 2, 8)
    over_clips = CalibratedClassifierCV(model, ensemble=False).fit(features[train], table["emotion"][train])
    losses = [
        log_loss(table["emotion"][~train], each.predict_proba(features[~train]))
        for each in (scaled, over_clips)
    ]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("rare", [False, True])
def test_the_predictions_stay_those_of_the_support_vector_machine(rare):
    svm = SVC(class_weight="balanced")
    features, _, _, model, scaled, temperature = fit_and_calibrate(svm, 16, 3, 10, rare=rare)
    decisions = model.decision_function(features)
    assert (scaled.predict(features) == model.classes_[decisions.argmax(axis=1)]).all()
    # The logarithms of the probabilities are the decision values, up to the temperature and a constant.
    probabilities = scaled.predict_proba(features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    ratio = np.diff(np.log(probabilities), axis=1) / np.diff(decisions, axis=1)
    np.testing.assert_allclose(ratio, 1 / temperature, rtol=1e-6)


def test_a_speaker_with_most_clips_does_not_decide_on_the_temperature():
    features, table = clips_of_speakers(9, seed=4)
    model = make_pipeline(StandardScaler(), SVC()).fit(features, table["emotion"])
    is_first = (table["speaker"] == 0).to_numpy()
    repeated = np.concatenate([np.repeat(np.flatnonzero(is_first), 10), np.flatnonzero(~is_first)])
    temperatures = []
    for order in (np.arange(len(table)), repeated):
        rows = table.iloc[order].reset_index(drop=True)
        held_out = [np.flatnonzero(rows["speaker"] % 3 == fold) for fold in range(3)]
        folds = [(np.setdiff1d(rows.index, part), part) for part in held_out]
        temperatures.append(calibrate(model, features[order], rows, folds, by_speaker=True)[1])
    assert temperatures[1] == pytest.approx(temperatures[0], rel=0.3)


def test_two_emotions_have_probabilities_too():
    features, table = clips_of_speakers(8, seed=5)
    kept = (table["emotion"] != "sad").to_numpy()
    features, rows = features[kept], table[kept].reset_index(drop=True)
    model = make_pipeline(StandardScaler(), SVC()).fit(features, rows["emotion"])
    scaled, _ = calibrate(model, features, rows, selection_folds(rows, "holdout", seed=0), by_speaker=True)
    probabilities = scaled.predict_proba(features)
    assert (model.predict(features) == model.classes_[probabilities.argmax(axis=1)]).all()
    assert 0.5 < probabilities.max(axis=1).mean() < 1


def test_the_folds_of_a_random_split_are_shuffled():
    """Clips are listed by speaker: in blocks, each fold would have speakers of its own."""
    _, table = clips_of_speakers(8, seed=4)
    for _, held_out in selection_folds(table.assign(clip=table.index), "random", seed=0):
        assert table["speaker"].iloc[held_out].nunique() == 8
