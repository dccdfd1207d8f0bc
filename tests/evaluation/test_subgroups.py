"""Results by subgroup, error analysis, calibration: verdicts of the tests, a sentence for each failed one.

Run: python -m pytest tests/evaluation/test_subgroups.py
"""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss

from utils.data.corpora import CORPORA
from utils.evaluation.calibration import (
    accuracy_at_coverage,
    brier_score,
    calibration_scores,
)
from utils.evaluation.error_analysis import analyse_errors, most_confused_pair
from utils.evaluation.intervals import uar_gap
from utils.evaluation.subgroups import describe_subgroups, join_clips
from utils.report import audit_plots
from utils.report.predictions import prediction_table
from utils.report.style import save_figure

EMOTIONS = ("neutral", "happy", "sad", "angry")


def make_clips(speakers=range(1, 9), corpus="ravdess") -> pd.DataFrame:
    """Eight clips of each emotion by each speaker; odd speakers are men. Angry clips are louder, and so are
    those of men."""
    generator = np.random.default_rng(0)
    rows = [
        {
            "clip": f"{corpus}-{speaker}-{emotion}-{take}",
            "corpus": corpus,
            "speaker": f"{corpus}-{speaker:02d}",
            "gender": "male" if speaker % 2 else "female",
            "emotion": emotion,
            "label": label,
            "intensity": "strong" if take % 2 and emotion != "neutral" else "normal",
            "text": "kids" if take < 4 else "dogs",
            "loudness": 3 * (emotion == "angry") + 2.5 * (speaker % 2) + generator.normal(0, 0.5),
        }
        for speaker in speakers
        for label, emotion in enumerate(EMOTIONS)
        for take in range(8)
    ]
    return pd.DataFrame(rows)


def predict(clips: pd.DataFrame, labels, confidence: float = 0.7) -> pd.DataFrame:
    """The joined predictions of a model that predicts `labels`, all with the same confidence."""
    rest = (1 - confidence) / (len(EMOTIONS) - 1)
    probabilities = np.where(np.eye(len(EMOTIONS))[np.asarray(labels)] == 1, confidence, rest)
    return join_clips(prediction_table(clips, probabilities, EMOTIONS, "holdout"), clips)


def by_loudness(clips: pd.DataFrame) -> np.ndarray:
    """A model that uses loudness alone: above a threshold it predicts angry, below it neutral."""
    return np.where(clips["loudness"] > 2.5, 3, 0)


def verdicts(subgroups: dict) -> dict[str, str]:
    return {test["name"]: test["verdict"] for test in subgroups["tests"]}


# ---------------------------------------------------------------------------------------------------
# Results by subgroup


def test_a_perfect_model_passes_every_test_and_has_no_limitation():
    clips = make_clips()
    subgroups = describe_subgroups(predict(clips, clips["label"]), EMOTIONS)
    assert set(verdicts(subgroups).values()) == {"passed"} and len(subgroups["tests"]) == 5
    assert subgroups["limitations"] == []
    assert all(test["difference"] == 0 and test["interval"] == [0, 0] for test in subgroups["tests"])


def test_a_constant_prediction_passes_no_test():
    clips = make_clips()
    subgroups = describe_subgroups(predict(clips, np.zeros(len(clips), int)), EMOTIONS)
    assert set(verdicts(subgroups).values()) == {"inconclusive"}
    (sentence,) = subgroups["limitations"]
    assert "On RAVDESS speech, the UAR of 25.0 % is not distinguishable from chance (25.0 %)" in sentence


def test_a_model_of_loudness_alone_fails_for_the_gender_that_is_louder():
    clips = make_clips()
    subgroups = describe_subgroups(predict(clips, by_loudness(clips)), EMOTIONS)
    recall = subgroups["recall"]["ravdess"]["neutral"]
    assert recall["female"] > 0.9 and recall["male"] < 0.7  # neutral clips of men are predicted as angry
    gap = recall["female"] - recall["male"]
    assert verdicts(subgroups)["recall of neutral"] == "failed"
    assert verdicts(subgroups)["recall of happy"] == "passed"  # never predicted, for either gender
    expected = (
        f"Recall of neutral clips is {100 * gap:.1f} points lower for men than for women on RAVDESS speech "
        "(threshold: 17.5)."
    )
    assert expected in subgroups["limitations"]
    failed = [test for test in subgroups["tests"] if test["verdict"] == "failed"]
    assert len(failed) == 1 and "not decidable" in verdicts(subgroups)["UAR"]
    assert len(subgroups["limitations"]) == 2


@pytest.mark.parametrize(
    ("men_wrong", "verdict"),
    [((2, 2, 2, 2), "passed"), ((0, 0, 1, 11), "not decidable"), ((6, 6, 7, 7), "failed")],
)
def test_a_test_is_decided_by_the_whole_interval(men_wrong, verdict):
    """Of the 32 clips of each speaker; the threshold of 7.5 points is 2.4 clips."""
    clips = make_clips()
    labels = clips["label"].to_numpy().copy()
    men = [speaker for speaker in clips["speaker"].unique() if int(speaker[-2:]) % 2]
    for speaker, wrong in zip(men, men_wrong, strict=True):
        rows = np.flatnonzero(clips["speaker"] == speaker)[:wrong]
        labels[rows] = (labels[rows] + 1) % len(EMOTIONS)
    subgroups = describe_subgroups(predict(clips, labels), EMOTIONS)
    uar = subgroups["tests"][0]
    assert uar["name"] == "UAR" and uar["difference"] == pytest.approx(sum(men_wrong) / 128)
    assert uar["verdict"] == verdict
    sentences = [sentence for sentence in subgroups["limitations"] if "UAR" in sentence]
    expected = {
        "passed": [],
        "failed": [
            f"UAR is {100 * sum(men_wrong) / 128:.1f} points lower for men than for women on RAVDESS speech "
            "(threshold: 7.5)."
        ],
        "not decidable": [
            "On RAVDESS speech, whether the UAR differs between women and men is not decidable with too few "
            "speakers (4 women, 4 men)."
        ],
    }
    assert sentences == expected[verdict]


def test_scores_of_groups_equal_scikit_learn_and_the_worst_speaker_comes_first():
    clips = make_clips()
    labels = np.where(clips["speaker"] == "ravdess-05", by_loudness(clips), clips["label"])
    rows = predict(clips, labels)
    subgroups = describe_subgroups(rows, EMOTIONS)
    for column, groups in (("gender", "genders"), ("speaker", "speakers"), ("corpus", "corpora")):
        assert set(subgroups[groups]) == set(rows[column])
        for name, group in subgroups[groups].items():
            chosen = rows[rows[column] == name]
            expected = balanced_accuracy_score(chosen["emotion"], chosen["predicted"])
            assert group["uar"] == pytest.approx(expected) and group["clips"] == len(chosen)
            assert group["interval"][0] <= group["uar"] <= group["interval"][1]
            assert group["sampling_unit"] == ("clips" if column == "speaker" else "speakers")
    assert subgroups["worst_speaker"] == next(iter(subgroups["speakers"])) == "ravdess-05"
    assert subgroups["speakers"]["ravdess-05"]["gender"] == "male"
    json.dumps(subgroups, allow_nan=False)


def test_a_corpus_of_women_is_not_measurable_and_does_not_count_as_a_gender():
    tess = make_clips(speakers=(2,), corpus="tess")
    both = pd.concat([make_clips(), tess], ignore_index=True)
    labels = np.where(both["corpus"] == "tess", 0, both["label"])  # constant on TESS, perfect elsewhere
    subgroups = describe_subgroups(predict(both, labels), EMOTIONS)
    of_tess = [test for test in subgroups["tests"] if test["corpus"] == "tess"]
    assert {test["verdict"] for test in of_tess} == {"not measurable"} and len(of_tess) == 5
    assert {test["reason"] for test in of_tess} == {"no test clips of men"}
    assert subgroups["limitations"] == []
    assert {test["verdict"] for test in subgroups["tests"] if test["corpus"] == "ravdess"} == {"passed"}


def test_speakers_of_unknown_gender_are_in_no_group():
    clips = make_clips().assign(gender="unknown")
    subgroups = describe_subgroups(predict(clips, clips["label"]), EMOTIONS)
    assert subgroups["genders"] == {} and set(verdicts(subgroups).values()) == {"not measurable"}
    assert {test["reason"] for test in subgroups["tests"]} == {"no test clips of women or men"}


def test_a_single_speaker_of_a_gender_decides_nothing():
    clips = make_clips(speakers=(1, 2, 4))
    tests = describe_subgroups(predict(clips, clips["label"]), EMOTIONS)["tests"]
    assert {test["interval"] for test in tests} == {None}
    assert {(test["verdict"], test["reason"]) for test in tests} == {
        ("not decidable", "too few speakers (2 women, 1 men)")
    }


def test_a_predicted_clip_that_is_not_in_the_table_is_an_error():
    clips = make_clips()
    predictions = prediction_table(clips, np.full((len(clips), 4), 0.25), EMOTIONS, "holdout")
    with pytest.raises(
        ValueError, match="1 predicted clips are not in the table, such as ravdess-1-neutral-0"
    ):
        join_clips(predictions, clips.drop(index=0))


# ---------------------------------------------------------------------------------------------------
# Intervals


def test_the_interval_of_a_gap_reflects_the_differences_between_speakers():
    references = np.tile(np.arange(4), 8)
    speakers = np.repeat(np.arange(8), 4)
    first = speakers < 4
    predictions = np.where(first, references, 0)  # one group is correct, the other for one emotion of four
    assert uar_gap(references, predictions, first, speakers, 4) == [0.75, 0.75]
    predictions = np.where(speakers % 2, references, 0)
    low, high = uar_gap(references, predictions, first, speakers, 4)
    assert low < -0.2 and high > 0.2


# ---------------------------------------------------------------------------------------------------
# Error analysis


def test_errors_are_listed_by_confidence_and_the_most_confused_pair_is_found():
    clips = make_clips()
    labels = clips["label"].to_numpy().copy()
    happy = np.flatnonzero(clips["emotion"] == "happy")[:12]
    sad = np.flatnonzero(clips["emotion"] == "sad")[:4]
    labels[happy], labels[sad] = 3, 1
    rows = predict(clips, labels)
    rows.loc[happy[5], ["p_angry", "p_happy"]] = [0.9, 0.05]
    errors = analyse_errors(rows, EMOTIONS)
    assert errors["errors"] == 16 and len(errors["most_confident_errors"]) == 10
    assert errors["most_confident_errors"][0] == {
        "clip": clips["clip"][happy[5]],
        "corpus": "ravdess",
        "speaker": clips["speaker"][happy[5]],
        "emotion": "happy",
        "predicted": "angry",
        "probability": 0.9,
        "true_emotion_probability": 0.05,
    }
    assert errors["most_confused"] == {
        "emotions": ["happy", "angry"],
        "shares": [12 / 64, 0.0],
        "clips": [12, 0],
    }
    json.dumps(errors, allow_nan=False)


def test_a_perfect_model_confuses_nothing():
    clips = make_clips()
    errors = analyse_errors(predict(clips, clips["label"]), EMOTIONS)
    assert (errors["errors"], errors["most_confident_errors"], errors["most_confused"]) == (0, [], None)


def test_a_rare_emotion_counts_as_much_in_the_most_confused_pair():
    clips = make_clips()
    clips = clips[(clips["emotion"] != "sad") | clips["clip"].str.endswith("-0")]  # 8 sad clips, 64 of others
    labels = clips["label"].to_numpy().copy()
    labels[clips["emotion"] == "sad"] = 0  # all 8 sad clips
    labels[np.flatnonzero(clips["emotion"] == "happy")[:20]] = 3  # 20 of the 64 happy clips
    pair = most_confused_pair(predict(clips, labels), EMOTIONS)
    assert pair == {"emotions": ["sad", "neutral"], "shares": [1.0, 0.0], "clips": [8, 0]}


def test_intensities_are_compared_on_the_emotions_that_have_both():
    clips = make_clips()
    labels = np.where((clips["intensity"] == "normal") & (clips["emotion"] == "sad"), 0, clips["label"])
    labels = np.where(clips["emotion"] == "neutral", 1, labels)  # has no strong clip and must not count
    errors = analyse_errors(predict(clips, labels), EMOTIONS)
    assert errors["intensity"]["ravdess"]["normal"]["uar"] == pytest.approx(2 / 3)
    assert errors["intensity"]["ravdess"]["strong"]["uar"] == 1
    assert set(errors["text"]["ravdess"]) == {"dogs", "kids"}
    words = clips.assign(text=clips["clip"])
    errors = analyse_errors(predict(words, labels), EMOTIONS)
    assert errors["text"] == {} and errors["too_many_texts"] == {"ravdess": len(clips)}


# ---------------------------------------------------------------------------------------------------
# Calibration


def test_the_brier_score_equals_scikit_learn():
    generator = np.random.default_rng(2)
    references, probabilities = generator.integers(4, size=200), generator.dirichlet(np.ones(4), size=200)
    expected = sum(brier_score_loss(references == label, probabilities[:, label]) for label in range(4))
    assert brier_score(references, probabilities) == pytest.approx(expected)
    assert brier_score([1], [[0, 1, 0, 0]]) == 0 and brier_score([0], [[0, 1, 0, 0]]) == 2
    assert brier_score(references, np.full((200, 4), 0.25)) == pytest.approx(0.75)


def test_coverage_starts_with_the_most_confident_clips():
    references = [0, 0, 1, 1, 0]
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4], [0.8, 0.2]])
    curve = accuracy_at_coverage(references, probabilities)
    by_hand = [  # 0.9 correct; both at 0.8 correct; both at 0.6 wrong; equal confidences are added together
        {"coverage": 0.2, "accuracy": 1.0, "confidence": 0.9},
        {"coverage": 0.6, "accuracy": 1.0, "confidence": 0.8},
        {"coverage": 1.0, "accuracy": 0.6, "confidence": 0.6},
    ]
    assert curve == [pytest.approx(point) for point in by_hand]
    scores = calibration_scores(references, probabilities)
    assert [point["coverage"] for point in scores["coverage_table"]] == [1.0, 0.6, 0.2]
    assert scores["coverage_curve"] == curve


# ---------------------------------------------------------------------------------------------------
# Figures


def test_the_dots_of_the_speakers_are_sorted_and_show_their_uar():
    clips = make_clips()
    subgroups = describe_subgroups(predict(clips, by_loudness(clips)), EMOTIONS)
    figure = audit_plots.plot_speakers(subgroups["speakers"], len(EMOTIONS), 0.4)
    axes = figure.axes[0]
    dots = [line.get_data() for line in axes.lines if line.get_marker() == "o"]
    shown = [
        (name.get_text(), 100 * subgroups["speakers"][name.get_text().split(" ")[0]]["uar"])
        for name in axes.get_yticklabels()
    ]
    assert [float(x[0]) for x, _ in dots] == pytest.approx([uar for _, uar in shown])
    assert shown == sorted(shown, key=lambda row: row[1]) and shown[0][0].endswith(" (n=32)")
    assert "clips" in axes.get_xlabel() and axes.get_xlim() == (0, 100)


def test_the_figures_are_drawn_and_label_their_axes(tmp_path):
    clips = pd.concat([make_clips(), make_clips(speakers=(2,), corpus="tess")], ignore_index=True)
    rows = predict(clips, by_loudness(clips))
    subgroups, errors = describe_subgroups(rows, EMOTIONS), analyse_errors(rows, EMOTIONS)
    calibration = calibration_scores(
        clips["label"], rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy()
    )
    gaps = audit_plots.plot_gender_recall(
        subgroups["recall"]["ravdess"], {"neutral"}, CORPORA["ravdess"].title
    )
    neutral = subgroups["recall"]["ravdess"]["neutral"]
    (text,) = gaps.axes[0].texts
    assert text.get_text() == f"{100 * abs(neutral['female'] - neutral['male']):.0f} points"
    figures = [
        gaps,
        audit_plots.plot_gender_recall(subgroups["recall"]["tess"], (), CORPORA["tess"].title),
        audit_plots.plot_speakers(subgroups["speakers"], len(EMOTIONS), 0.5),
        audit_plots.plot_coverage({"as saved": calibration["coverage_curve"]}, 0.25),
        audit_plots.plot_groups(errors["intensity"]["ravdess"], "UAR by intensity"),
    ]
    for number, figure in enumerate(figures):
        axes = figure.axes[0]
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()
        save_figure(figure, tmp_path / f"{number}.png")
