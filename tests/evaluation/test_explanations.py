"""Explanations find known evidence: a tone, a group of features, a region of a spectrogram.

Run: python -m pytest tests/evaluation/test_explanations.py
"""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from utils.evaluation import explanations
from utils.report import explanation_plots
from utils.report.style import save_figure

RATE = 16_000


def predict_beep(waveforms: list[np.ndarray]) -> np.ndarray:
    """A model whose probability of the second emotion is the clip's peak (full scale = 1)."""
    peaks = np.array([np.abs(waveform).max() for waveform in waveforms])
    return np.stack([1 - peaks, peaks], axis=1)


def clip_with_beep(start: float = 1.2, end: float = 1.3, seconds: float = 3.0) -> np.ndarray:
    waveform = np.full(round(seconds * RATE), 0.05, np.float32)
    waveform[round(start * RATE) : round(end * RATE)] = 0.9
    return waveform


def test_occlusion_finds_the_beep_that_the_prediction_depends_on():
    waveform = clip_with_beep()
    result = explanations.occlude(predict_beep, waveform, RATE, label=1)
    seconds, drops = np.array(result["center_seconds"]), np.array(result["probability_drops"])
    assert result["probability"] == pytest.approx(0.9)
    covered = (seconds - 0.125 <= 1.19) & (seconds + 0.125 >= 1.31)  # with the fades
    outside = (seconds + 0.125 <= 1.2) | (seconds - 0.125 >= 1.3)
    assert covered.any() and drops[covered] == pytest.approx(0.85, abs=1e-6)
    assert outside.any() and np.abs(drops[outside]).max() < 1e-6
    other = explanations.occlude(predict_beep, waveform, RATE, label=0)
    assert other["probability_drops"] == pytest.approx((-drops).tolist())
    assert waveform.tolist() == clip_with_beep().tolist()  # the input is not modified


def test_a_clip_shorter_than_the_window_is_silenced_whole():
    result = explanations.occlude(predict_beep, clip_with_beep(0.05, 0.1, 0.15), RATE, label=1)
    assert result["center_seconds"] == [0.075] and result["window_seconds"] == 0.15
    assert result["probability_drops"][0] > 0.8


def test_the_most_confident_clip_of_an_emotion_is_a_correct_one():
    predictions = pd.DataFrame(
        {
            "emotion": ["happy", "happy", "happy", "sad", "angry"],
            "predicted": ["happy", "happy", "sad", "sad", "sad"],
            "p_happy": [0.6, 0.8, 0.1, 0.2, 0.1],
            "p_sad": [0.2, 0.1, 0.9, 0.7, 0.8],
            "p_angry": [0.2, 0.1, 0.0, 0.1, 0.1],
        }
    )
    assert explanations.most_confident_clips(predictions, ["happy", "sad", "angry"]) == {"happy": 1, "sad": 3}


def test_permutation_importance_finds_the_group_that_an_emotion_depends_on():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((300, 4))
    truth = np.where(features[:, 0] > 0.5, "angry", np.where(features[:, 2] > 0, "happy", "sad"))

    def predict(rows):
        return np.where(rows[:, 0] > 0.5, "angry", np.where(rows[:, 2] > 0, "happy", "sad"))

    groups, emotions = ["pitch", "pitch", "energy", "noise"], ["calm", "happy", "sad", "angry"]
    losses = explanations.permutation_importance(predict, features, truth, groups, emotions, seed=1)
    assert set(losses["recall"]) == {"happy", "sad", "angry"}  # there is no calm clip
    assert losses["recall"]["angry"]["energy"] == 0 and losses["recall"]["angry"]["pitch"] > 0.5
    assert losses["recall"]["happy"]["energy"] > 0.2
    assert all(loss["noise"] == 0 for loss in losses["recall"].values())
    for group, uar in losses["uar"].items():
        assert uar == pytest.approx(np.mean([loss[group] for loss in losses["recall"].values()]))
    # The same permutation by hand, scored by scikit-learn.
    shuffle = np.random.default_rng(1).permutation(300)
    by_hand = features.copy()
    by_hand[:, :2] = features[shuffle, :2]
    expected = 1 - balanced_accuracy_score(truth, predict(by_hand))
    once = explanations.permutation_importance(predict, features, truth, groups, emotions, 1, num_repeats=1)
    assert once["uar"]["pitch"] == pytest.approx(expected)


def make_classifier(channels: int = 3):
    """A small classifier like those of `train_cnn.py`: spectrogram, convolution, speech mask, mean, dense."""
    keras = pytest.importorskip("keras")
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    waveform = keras.Input((None,))
    mel = layers.MelSpectrogram(
        fft_length=512, sequence_stride=160, sampling_rate=RATE, num_mel_bins=16, power_to_db=False
    )(waveform)
    power = ops.transpose(mel, (0, 2, 1))
    speech = ops.cast(ops.max(power, axis=2) > 1e-3, "float32")
    spectrogram = keras.Model(waveform, {"bands": ops.expand_dims(power, -1), "speech": speech})
    bands, mask = keras.Input((None, 16, 1), name="bands"), keras.Input((None,), name="speech")
    hidden = layers.Conv2D(channels, 1, bias_initializer="ones")(bands)  # makes silence differ from 0
    hidden = layers.ReLU()(hidden) * ops.expand_dims(ops.expand_dims(mask, -1), -1)
    probabilities = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(hidden))
    network = keras.Model({"bands": bands, "speech": mask}, probabilities)
    return keras.Model(waveform, network(spectrogram(waveform)))


def test_grad_cam_equals_the_class_activation_map():
    classifier = make_classifier()
    from utils.cnn.grad_cam import grad_cam

    waveform = np.zeros(RATE, np.float32)
    waveform[6_000:10_000] = np.sin(2 * np.pi * 1_000 * np.arange(4_000) / RATE)
    network = classifier.layers[-1]
    convolution = next(layer for layer in network.layers if type(layer).__name__ == "Conv2D")
    dense = network.layers[-1]
    kernel, bias = (weights.numpy() for weights in (convolution.kernel, convolution.bias))
    for label in (0, 1):
        result = grad_cam(classifier, waveform, label)
        mask = result["bands"].max(axis=1) > 1e-3
        # After global average pooling, a channel's weight is its weight in the last layer (Zhou et al. 2016).
        activation = np.maximum(result["bands"][:, :, None] * kernel[0, 0] + bias, 0) * mask[:, None, None]
        by_hand = np.maximum((activation * dense.kernel.numpy()[:, label]).sum(axis=-1), 0)
        assert result["heat"] == pytest.approx(by_hand / (by_hand.max() or 1), abs=1e-4)
        assert not result["heat"][~mask].any() and not mask.all()  # silence has no weight
    assert result["hop_seconds"] == 0.01 and result["heat"].shape == result["bands"].shape
    loudest = result["hertz"][result["bands"].max(axis=0).argmax()]
    assert loudest == pytest.approx(1_000, rel=0.25)  # within one band of the tone


def test_the_figures_are_drawn_and_label_their_axes(tmp_path):
    waveform = clip_with_beep()
    result = explanations.occlude(predict_beep, waveform, RATE, label=1)
    heat = np.linspace(0, 1, 300 * 64).reshape(300, 64)
    hertz = np.geomspace(100, 7_500, 64)
    grad_cam_result = {"bands": heat, "heat": heat, "hertz": hertz, "hop_seconds": 0.01}
    losses = {"pitch": 0.2, "energy": -0.05}
    figures = {
        "occlusion": explanation_plots.plot_occlusion(waveform, RATE, result, "Occlusion, angry"),
        "heat": explanation_plots.plot_grad_cam(grad_cam_result, "Grad-CAM, angry"),
        "groups": explanation_plots.plot_group_importance(losses, "Permutation importance, angry"),
    }
    for name, figure in figures.items():
        labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
        assert any("(s)" in x or "Time (s)" in x or "points" in x for x, _ in labels)
        assert all(y for _, y in labels)
        save_figure(figure, tmp_path / f"{name}.png")
    curve = figures["occlusion"].axes[2].lines[0]
    assert curve.get_ydata() == pytest.approx(100 * np.array(result["probability_drops"]))
    assert figures["groups"].axes[0].patches[-1].get_width() == pytest.approx(20)  # the largest at the top
