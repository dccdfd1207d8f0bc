"""Figures: labels are complete, the numbers are those of the input, the same input gives the same file.

Run: python -m pytest tests/report/test_plots.py
"""

import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from utils.data.labels import EMOTIONS
from utils.report.audio_plots import DYNAMIC_RANGE, plot_perturbations, plot_waveforms
from utils.report.audit_plots import plot_robustness
from utils.report.model_plots import plot_importance, plot_probe
from utils.report.plots import (
    plot_comparison,
    plot_confusion_matrix,
    plot_learning_curves,
    plot_per_emotion,
    plot_reliability,
)
from utils.report.style import save_figure
from utils.runtime import PROJECT_ROOT

SAMPLING_RATE = 16_000
HISTORY = [
    {"epoch": 1.0, "loss": 2.0, "learning_rate": 1e-4},
    {"epoch": 1.0, "eval_loss": 1.9, "eval_uar": 0.30},
    {"epoch": 2.0, "loss": 1.5, "learning_rate": 1e-4},
    {"epoch": 2.0, "eval_loss": 1.7, "eval_uar": 0.45},
    {"epoch": 3.0, "loss": 1.1, "learning_rate": 1e-5},
    {"epoch": 3.0, "eval_loss": 1.8, "eval_uar": 0.45},
    {"epoch": 3.0, "train_runtime": 1.0, "train_loss": 1.5},
]


def confusion(num_emotions: int) -> list[list[int]]:
    return (np.arange(num_emotions**2).reshape(num_emotions, num_emotions) + 1).tolist()


def scores(emotions) -> dict[str, dict]:
    return {
        emotion: {"precision": 0.1 * i, "recall": 0.1 * i + 0.05, "f1": 0.1 * i + 0.02, "support": 20 + i}
        for i, emotion in enumerate(emotions)
    }


def tones(emotions, seconds: float = 0.25) -> dict[str, np.ndarray]:
    """A pure tone of 1 kHz per emotion, each longer and louder than the one before."""
    return {
        emotion: (
            0.1 * i * np.sin(2000 * np.pi * np.arange(int(seconds * i * SAMPLING_RATE)) / SAMPLING_RATE)
        ).astype(np.float32)
        for i, emotion in enumerate(emotions, start=1)
    }


def series(axes) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def check_png(figure: Figure, path) -> None:
    """Check that the PNG fits a notebook and has no metadata."""
    save_figure(figure, path)
    height, width = matplotlib.image.imread(path).shape[:2]
    assert 3 * 150 < width < 10 * 150 and 2 * 150 < height < 12 * 150
    assert path.read_bytes().startswith(b"\x89PNG") and b"tEXt" not in path.read_bytes()


@pytest.mark.parametrize("num_emotions", [2, 7, 8])
def test_confusion_matrix_shows_shares_and_counts(num_emotions, tmp_path):
    emotions, counts = EMOTIONS[-num_emotions:], confusion(num_emotions)
    figure = plot_confusion_matrix(counts, emotions, "Test clips")
    axes, colour_bar = figure.axes
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("True emotion", "Predicted emotion")
    assert axes.get_title() == "Test clips"
    assert colour_bar.get_ylabel() == "Share of the true emotion's clips (%)"
    assert colour_bar.get_ylim() == (0, 100)
    for tick_labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in tick_labels] == list(emotions)
    cells = {}
    for text in axes.texts:
        cells.setdefault(text.xy, []).append(text.get_text())
    assert cells == {
        (column + 0.5, row + 0.5): [f"{100 * count / sum(counts[row]):.0f} %", str(count)]
        for row in range(num_emotions)
        for column, count in enumerate(counts[row])
    }
    assert axes.yaxis_inverted()  # the first row of the matrix is at the top
    check_png(figure, tmp_path / "confusion.png")


def test_emotion_without_clips_is_a_blank_row(tmp_path):
    figure = plot_confusion_matrix([[3, 1], [0, 0]], ["calm", "surprised"], "")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["75 %", "3", "25 %", "1"]
    np.testing.assert_array_equal(axes.collections[0].get_array(), [[75, 25], [0, 0]])
    check_png(figure, tmp_path / "confusion.png")


def test_learning_curves_show_the_training_log(tmp_path):
    figure = plot_learning_curves(HISTORY)
    loss, uar = figure.axes
    assert loss.get_xlabel() == uar.get_xlabel() == "Epoch"
    assert loss.get_ylabel() == "Cross-entropy loss (nats)"
    assert uar.get_ylabel() == "Validation UAR (%)"
    assert series(loss)["training"] == [(1, 2.0), (2, 1.5), (3, 1.1)]
    assert series(loss)["validation"] == [(1, 1.9), (2, 1.7), (3, 1.8)]
    assert series(uar)["validation"] == [(1, 30), (2, 45), (3, 45)]
    best = "best UAR: 45.0 %, epoch 2"  # the first of equals
    assert series(loss)[best] == series(uar)[best] == [(2, 0), (2, 1)]
    assert best in [text.get_text() for text in uar.get_legend().get_texts()]
    check_png(figure, tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("history", "loss_series", "uar_series"),
    [
        (HISTORY[:2], {"training", "validation", "best UAR: 30.0 %, epoch 1"}, {"validation"}),
        ([{"epoch": 0.5, "loss": 2.0}], {"training"}, set()),
        ([{"epoch": 1.0, "eval_loss": 1.9}], {"validation"}, set()),
        ([{"epoch": 1.0, "loss": float("nan"), "eval_loss": None}], set(), set()),
        ([], set(), set()),
    ],
)
def test_learning_curves_of_a_partial_log(history, loss_series, uar_series, tmp_path):
    figure = plot_learning_curves(history)
    loss, uar = figure.axes
    assert set(series(loss)) == loss_series
    assert {label for label in series(uar) if not label.startswith("best")} == uar_series
    for axes in (loss, uar):
        assert [text.get_text() for text in axes.texts] == ([] if axes.lines else ["not recorded"])
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    check_png(figure, tmp_path / "curves.png")


@pytest.mark.parametrize("num_emotions", [2, 8])
def test_bars_per_emotion(num_emotions, tmp_path):
    per_emotion = scores(EMOTIONS[-num_emotions:])
    figure = plot_per_emotion(per_emotion, "Per emotion")
    (axes,) = figure.axes
    assert axes.get_title() == "Per emotion" and axes.get_ylabel() == "Score (%)"
    assert axes.get_xlabel() == "True emotion (number of clips)"
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"{emotion}\n(n={values['support']})" for emotion, values in per_emotion.items()
    ]
    for bars, key in zip(axes.containers, ("precision", "recall", "f1"), strict=True):
        heights = [bar.get_height() for bar in bars]
        assert heights == pytest.approx([100 * values[key] for values in per_emotion.values()])
        middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        assert np.round(middles).tolist() == list(range(num_emotions))
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"Precision", "Recall", "F1", f"Chance ({100 / num_emotions:.1f} %)"}
    assert axes.lines[0].get_ydata()[0] == 100 / num_emotions
    check_png(figure, tmp_path / "per_emotion.png")


def test_absent_emotion_has_no_bars(tmp_path):
    absent = {"precision": None, "recall": None, "f1": None, "support": 0}
    figure = plot_per_emotion(scores(["happy"]) | {"calm": absent}, "")
    assert [len(bars) for bars in figure.axes[0].containers] == [1, 1, 1]
    assert figure.axes[0].get_xticklabels()[1].get_text() == "calm\n(n=0)"
    check_png(figure, tmp_path / "one.png")
    check_png(plot_per_emotion({"calm": absent, "sad": absent}, ""), tmp_path / "none.png")


@pytest.mark.parametrize("num_emotions", [2, 8])
def test_waveforms_and_spectrograms(num_emotions, tmp_path):
    examples = tones(EMOTIONS[-num_emotions:])
    figure = plot_waveforms(examples, SAMPLING_RATE, "One clip per emotion")
    *panels, colour_bar = figure.axes
    assert figure.get_suptitle() == "One clip per emotion"
    assert colour_bar.get_ylabel() == "Power (dB, 0 = maximum of the clip)"
    left, right = panels[::2], panels[1::2]
    assert [axes.get_title(loc="left") for axes in left] == list(examples)
    assert {axes.get_ylabel() for axes in left} == {"Amplitude"}
    assert {axes.get_ylabel() for axes in right} == {"Frequency\n(Hz)"}
    assert left[-1].get_xlabel() == right[-1].get_xlabel() == "Time (s)"
    assert {axes.get_xlim() for axes in panels} == {(0, 0.25 * num_emotions)}
    assert len({axes.get_ylim() for axes in left}) == 1
    for axes, waveform in zip(left, examples.values(), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), waveform)
        assert axes.lines[0].get_xdata()[-1] == (len(waveform) - 1) / SAMPLING_RATE
    check_png(figure, tmp_path / "waveforms.png")


@pytest.mark.parametrize("sampling_rate", [8_000, 16_000, 48_000])
def test_a_tone_appears_at_its_frequency_and_time(sampling_rate):
    waveform = np.zeros(2 * sampling_rate)
    seconds = np.arange(sampling_rate) / sampling_rate
    waveform[sampling_rate:] = 0.01 * np.sin(2000 * np.pi * seconds)  # 1 kHz in the second half
    axes = plot_waveforms({"calm": waveform}, sampling_rate, "").axes[1]
    (image,) = axes.images
    bands, frames = image.get_array().shape
    left, right, bottom, top = image.get_extent()
    band = image.get_array().max(axis=1).argmax()
    first_loud_frame = (image.get_array().max(axis=0) > -10).argmax()
    tick_labels = [label.get_text() for label in axes.get_yticklabels()]
    one_kilohertz = axes.get_yticks()[tick_labels.index("1000")]
    assert bottom + (band + 0.5) * (top - bottom) / bands == pytest.approx(one_kilohertz, abs=0.7)
    assert left + (first_loud_frame + 0.5) * (right - left) / frames == pytest.approx(1, abs=0.011)
    assert image.get_array().max() == 0 and image.get_array()[:, frames // 4].max() == -DYNAMIC_RANGE


def test_the_spectrogram_of_silence_is_at_its_minimum(tmp_path):
    silence = {"calm": np.zeros(SAMPLING_RATE, np.float32)}
    for name, examples in {"one": silence | tones(["sad"]), "all": silence}.items():
        figure = plot_waveforms(examples, SAMPLING_RATE, "")
        assert (figure.axes[1].images[0].get_array() == -DYNAMIC_RANGE).all()
        check_png(figure, tmp_path / f"{name}.png")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_confusion_matrix(confusion(3), EMOTIONS[:3], "title"),
        lambda: plot_learning_curves(HISTORY),
        lambda: plot_per_emotion(scores(EMOTIONS), "title"),
        lambda: plot_waveforms(tones(EMOTIONS[:2]), SAMPLING_RATE, "title"),
        lambda: plot_probe({"final": {"1": 0.2, "2": 0.5}}, 8),
    ],
)
def test_same_input_gives_the_same_bytes(draw, tmp_path):
    for name in ("once", "again"):
        save_figure(draw(), tmp_path / name)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "again").read_bytes()


def test_texts_are_complete_and_do_not_overlap():
    longest = ["surprised"] * 8
    figure = plot_confusion_matrix((200 * np.eye(8, dtype=int)).tolist(), longest, "title")
    figure.draw_without_rendering()
    for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels(), figure.axes[0].texts):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) for box in boxes)


def test_figures_change_neither_pyplot_nor_the_settings():
    code = """
import matplotlib, sys
before = dict(matplotlib.rcParams.copy())
from utils.report import audio_plots, audit_plots, explanation_plots, model_plots, style
from utils.report.plots import plot_confusion_matrix, plot_learning_curves
assert not {"librosa", "seaborn", "matplotlib.pyplot"} & set(sys.modules)
plot_learning_curves([])
plot_confusion_matrix([[1]], ["sad"], "")
assert dict(matplotlib.rcParams.copy()) == before
from matplotlib import pyplot
assert pyplot.get_fignums() == []
"""
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True)


def test_importance_and_comparison_show_their_input(tmp_path):
    losses = {"pitch": 0.12, "energy": 0.03, "mfcc": 0.3}
    figure = plot_importance(losses)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["energy", "pitch", "mfcc"]
    assert [round(bar.get_width(), 6) for bar in axes.patches] == [3.0, 12.0, 30.0]
    assert "points" in axes.get_xlabel()
    save_figure(figure, tmp_path / "importance.png")

    scores = {
        "cnn": {"uar": 0.6, "intervals": {"uar": [0.5, 0.7]}},
        "svm": {"uar": 0.55, "intervals": {"uar": None}},
    }
    figure = plot_comparison(scores, 8)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["svm", "cnn"]
    assert [text.get_text() for text in axes.texts] == ["55.0 %", "60.0 %"]
    assert axes.lines[0].get_xdata() == pytest.approx([50, 70])  # only one run has an interval
    save_figure(figure, tmp_path / "bars.png")


def test_the_probe_figure_shows_the_uar_per_layer(tmp_path):
    folds = {"fold 1": {"1": 0.2, "2": 0.5}, "fold 2": {"1": 0.3, "2": 0.6}}
    figure = plot_probe(folds | {"final": {"1": 0.25, "2": 0.55}}, 8)
    drawn = series(figure.axes[0])
    assert drawn["saved model"] == [(1, 25.0), (2, pytest.approx(55.0))]
    assert drawn["models of the folds"] == [(1, 20.0), (2, 50.0)]
    assert drawn["Chance (12.5 %)"][0][1] == 12.5
    check_png(figure, tmp_path / "layers.png")
    alone = series(plot_probe({"holdout": {"3": 0.2}}, 8).axes[0])
    assert "models of the folds" not in alone and alone["saved model"] == [(3, 20.0)]


def test_reliability_shows_each_bin_and_the_errors(tmp_path):
    bins = [
        {"share": 0.25, "confidence": 0.4, "correct": 0.5},
        {"share": 0.75, "confidence": 0.9, "correct": 0.7},
    ]
    curves = {"before scaling": bins, "after scaling": bins[:1]}
    figure = plot_reliability(curves, {"before scaling": 0.175, "after scaling": 0.1})
    drawn = series(figure.axes[0])
    assert drawn["before scaling: calibration error 17.5 points"] == [(40.0, 50.0), (90.0, 70.0)]
    assert drawn["after scaling: calibration error 10.0 points"] == [(40.0, 50.0)]
    before, _ = figure.axes[0].collections
    assert before.get_sizes()[1] > before.get_sizes()[0]  # the size grows with the number of clips
    check_png(figure, tmp_path / "reliability.png")


def test_robustness_shows_recall_uar_change_and_verdict(tmp_path):
    clean = {"uar": 0.9, "recall": {"happy": 1.0, "sad": 0.8}}
    threshold = {"name": "small", "min_unchanged": 0.95, "max_uar_loss": None}
    perturbed = {"group": "gain", "uar": 0.6, "uar_difference": -0.3, "unchanged": 0.7}
    perturbed |= {"recall": {"happy": 0.4, "sad": None}, "threshold": threshold, "verdict": "failed"}
    untested = perturbed | {"group": "pitch", "threshold": None, "verdict": "not tested"}
    robustness = {"clean": clean, "perturbations": {"gain +12 dB": perturbed, "pitch +2": untested}}
    figure = plot_robustness(robustness, ["happy", "sad"], "Recall under perturbations")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "unchanged clips",
        "gain +12 dB",
        "pitch +2",
    ]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:5] == ["100", "80", "40", "40", "UAR"]  # a missing recall is blank
    assert texts[8:] == ["90", "60", "-30", "70", "failed", "60", "-30", "70", "–"]
    check_png(figure, tmp_path / "robustness.png")


def test_perturbed_clips_are_drawn_on_one_scale(tmp_path):
    examples = tones(["gain +12 dB", "pitch +2", "room", "MP3", "Opus"])
    figure = plot_perturbations(examples, SAMPLING_RATE, "One happy clip, perturbed")
    tops = figure.axes[::2]
    assert [axes.get_title() for axes in tops] == list(examples)
    assert len({axes.get_ylim() for axes in tops}) == 1 and {axes.get_xlim() for axes in tops} == {(0, 1.25)}
    check_png(figure, tmp_path / "perturbations.png")
