"""`pipeline` gives the probabilities of scikit-learn, and no selection uses a test speaker.

Run: python -m pytest tests/encoders/test_probe.py
"""

import copy
import itertools

import librosa
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_freezing import build, every_encoder
from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor, pipeline

from utils.data.splits import TrainingPart
from utils.encoders.families import keep_layers
from utils.encoders.hidden_states import hidden_states, output_means
from utils.encoders.probe import STRENGTHS, Probe, fit_probes, fold_into, scale_logits
from utils.evaluation.calibration import best_temperature

EXTRACTOR = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
NUM_LABELS = 4


def speakers_and_clips(num_speakers: int, layer: int, num_layers: int = 4, num_labels: int = NUM_LABELS):
    """Means in which one layer depends on the label and the others on the speaker."""
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(num_labels), 6 * num_speakers)
    groups = np.repeat(np.arange(num_speakers), 6 * num_labels)
    means = generator.standard_normal((len(labels), num_layers, 16))
    means += 3 * generator.standard_normal((num_speakers, num_layers, 16))[groups]
    means[:, layer] = 0.4 * generator.standard_normal((len(labels), 16)) + np.eye(16)[labels]
    return means.astype(np.float32), labels, groups


def test_the_encoder_is_cut_after_the_informative_layer():
    means, labels, groups = speakers_and_clips(6, layer=2)
    part = [TrainingPart(np.arange(len(labels)), groups)]
    (probe,) = fit_probes(means, labels, part, NUM_LABELS)
    assert probe.num_layers == 3 and probe.strength in STRENGTHS
    assert list(probe.choice) == [1, 2, 3, 4]
    assert probe.facts["validation_uar"]["probe"] == probe.choice[3].max() > 0.6 > probe.choice[1].max()
    (given,) = fit_probes(means, labels, part, NUM_LABELS, num_layers=2)
    assert given.num_layers == 2 and list(given.choice) == [2]


def test_the_probabilities_are_those_of_scikit_learn():
    means, labels, groups = speakers_and_clips(6, layer=1)
    (probe,) = fit_probes(means, labels, [TrainingPart(np.arange(len(labels)), groups)], NUM_LABELS)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=probe.strength, class_weight="balanced", max_iter=2_000)
    ).fit(means[:, 1], labels)
    probabilities = torch.as_tensor(probe.logits(means)).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, model.predict_proba(means[:, 1]), atol=1e-5)


def test_the_temperature_comes_from_speakers_that_are_held_out():
    means, labels, groups = speakers_and_clips(8, layer=1)
    rows = np.arange(len(labels))
    (probe,) = fit_probes(means, labels, [TrainingPart(rows, groups)], NUM_LABELS)
    held_out = np.zeros((len(labels), NUM_LABELS))
    for train, test in GroupKFold(4).split(rows, groups=groups):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=probe.strength, class_weight="balanced", max_iter=2_000)
        ).fit(means[train, probe.num_layers - 1], labels[train])
        held_out[test] = model.decision_function(means[test, probe.num_layers - 1])
    assert probe.temperature == pytest.approx(best_temperature(held_out, labels), rel=1e-3)
    (by_text,) = fit_probes(means, labels, [TrainingPart(rows, groups, are_speakers=False)], NUM_LABELS)
    assert by_text.temperature == 1.0


def test_clips_outside_the_training_part_have_no_influence():
    means, labels, groups = speakers_and_clips(6, layer=1)
    part = np.flatnonzero(groups != 3)
    (before,) = fit_probes(means, labels, [TrainingPart(part, groups[part])], NUM_LABELS)
    changed = means.copy()
    changed[groups == 3] = 1e3
    (after,) = fit_probes(
        changed, np.where(groups == 3, 0, labels), [TrainingPart(part, groups[part])], NUM_LABELS
    )
    np.testing.assert_equal(before.choice, after.choice)
    np.testing.assert_array_equal(before.weights, after.weights)


def test_the_layer_is_selected_by_all_corpora_not_by_the_largest():
    """One speaker has most clips: layer 1 suits her, layer 2 the five speakers of the other corpus."""
    generator = np.random.default_rng(5)
    means, labels, groups = speakers_and_clips(6, layer=2)
    rows = np.concatenate([np.repeat(np.flatnonzero(groups == 0), 20), np.flatnonzero(groups != 0)])
    means, labels, groups = means[rows], labels[rows], groups[rows]
    corpora = np.where(groups == 0, "large", "small")
    for layer, corpus in ((1, "large"), (2, "small")):
        noise = np.where(corpora == corpus, 0.3, 1.6)[:, None]
        means[:, layer] = np.eye(16)[labels] + noise * generator.standard_normal((len(labels), 16))
    part = [TrainingPart(np.arange(len(labels)), groups)]
    assert fit_probes(means, labels, part, NUM_LABELS)[0].num_layers == 2
    assert fit_probes(means, labels, part, NUM_LABELS, corpora)[0].num_layers == 3


def test_the_cross_validation_is_split_by_speaker():
    """Labels that depend only on the speaker cannot be predicted for other speakers."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 20)
    labels = groups % NUM_LABELS
    means = generator.standard_normal((8, 2, 16))[groups] * 5 + generator.standard_normal((160, 2, 16)) * 0.1
    (probe,) = fit_probes(
        means.astype(np.float32), labels, [TrainingPart(np.arange(160), groups)], NUM_LABELS
    )
    assert probe.facts["validation_uar"]["probe"] < 0.6  # with a split by clips it would be 1


def equal(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[each], b[each]) for each in a)


def test_probes_with_mostly_common_clips_share_a_selection_without_their_test_speakers():
    means, labels, groups = speakers_and_clips(12, layer=1)
    left_out = [np.flatnonzero(groups != speaker) for speaker in range(12)]
    parts = [TrainingPart(rows, groups[rows]) for rows in left_out]
    probes = fit_probes(means, labels, parts, NUM_LABELS)
    # Of 11 training speakers each, 9 are common to three probes; four probes have 8 in common, too few.
    blocks = [probes[start : start + 3] for start in (0, 3, 6, 9)]
    for number, block in enumerate(blocks):
        assert all(equal(probe.choice, block[0].choice) for probe in block)
        common = np.flatnonzero((groups < 3 * number) | (groups >= 3 * number + 3))
        (alone,) = fit_probes(means, labels, [TrainingPart(common, groups[common])], NUM_LABELS)
        assert equal(alone.choice, block[0].choice)
    # Each probe is fitted on all its own training clips.
    assert all(not np.array_equal(a.weights, b.weights) for a, b in itertools.pairwise(probes))

    # With folds of a third of the speakers the training clips have too little in common.
    parts = [
        TrainingPart(rows, groups[rows])
        for rows in (np.flatnonzero(groups // 4 != fold) for fold in range(3))
    ]
    choices = [probe.choice for probe in fit_probes(means, labels, parts, NUM_LABELS)]
    assert not any(equal(a, b) for a, b in itertools.pairwise(choices))


@pytest.fixture(scope="module")
def recordings(demo_folder) -> list:
    return sorted(demo_folder.rglob("*.wav"))[:40:2]


@every_encoder
@pytest.mark.parametrize("num_layers", [1, 3])
def test_pipeline_gives_the_probabilities_of_scikit_learn_for_audio_files(
    encoder, num_layers, recordings, tmp_path
):
    model = build(encoder)
    waveforms = [librosa.load(path, sr=16_000)[0] for path in recordings]
    values = [
        torch.as_tensor(EXTRACTOR(waveform, sampling_rate=16_000)["input_values"][0])
        for waveform in waveforms
    ]
    means = output_means(model, *hidden_states(model, values)).numpy()
    labels = np.arange(len(values)) % NUM_LABELS
    features = means[:, num_layers - 1]
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(features, labels)

    scaler, regression = reference[0], reference[1]
    weights = regression.coef_ / scaler.scale_
    probe = Probe(num_layers, 0.1, weights, regression.intercept_ - weights @ scaler.mean_, {})
    keep_layers(model, num_layers)
    fold_into(model, probe)
    model.save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)

    classifier = pipeline("audio-classification", model=str(tmp_path), top_k=None)
    for waveform, expected in zip(waveforms, reference.predict_proba(features), strict=True):
        scores = {prediction["label"]: prediction["score"] for prediction in classifier(waveform)}
        scores = [scores[f"LABEL_{label}"] for label in range(NUM_LABELS)]
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_two_emotions_and_a_temperature(tmp_path):
    means, labels, groups = speakers_and_clips(4, layer=1, num_labels=2)
    (probe,) = fit_probes(means, labels, [TrainingPart(np.arange(len(labels)), groups)], 2)
    assert probe.weights.shape == (2, 16) and (probe.logits(means).argmax(axis=1) == labels).mean() > 0.8
    config = copy.deepcopy(build("wav2vec2-base").config)
    config.num_labels, config.hidden_size, config.num_hidden_layers = 2, 16, 3
    model = AutoModelForAudioClassification.from_config(config)
    fold_into(model, probe)
    scale_logits(model, 0.5)
    with torch.inference_mode():
        logits = model.classifier(model.projector(torch.as_tensor(means[:, probe.num_layers - 1])))
    np.testing.assert_allclose(logits.numpy(), probe.logits(means) / 2, atol=1e-4)
