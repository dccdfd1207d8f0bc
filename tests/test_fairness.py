"""Fairness, errors and calibration: a model gets the marks that it deserves, and each missed one a sentence.

Run: python -m pytest tests/test_fairness.py
"""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss

from utils.data.corpora import CORPORA
from utils.evaluation.calibration import accuracy_at_coverage, brier_score, describe_scaling, describe_stage
from utils.evaluation.error_analysis import analyse_errors, most_confused_pair
from utils.evaluation.intervals import clip_intervals, speaker_intervals, uar_gap
from utils.evaluation.subgroups import describe_subgroups, join_clips
from utils.report import audit_plots, prediction_table
from utils.report.style import save_figure

EMOTIONS = ("neutral", "happy", "sad", "angry")


def make_clips(speakers=range(1, 9), corpus="ravdess") -> pd.DataFrame:
    """Eight clips of each emotion by each speaker; odd numbers are men. The loudness of anger stands out, and
    men are louder."""
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


def hear(clips: pd.DataFrame, answers, sureness: float = 0.7) -> pd.DataFrame:
    """The joined predictions of a model that names `answers` (labels), always as surely."""
    rest = (1 - sureness) / (len(EMOTIONS) - 1)
    probabilities = np.where(np.eye(len(EMOTIONS))[np.asarray(answers)] == 1, sureness, rest)
    return join_clips(prediction_table(clips, probabilities, EMOTIONS, "holdout"), clips)


def by_loudness(clips: pd.DataFrame) -> np.ndarray:
    """A model that hears loudness alone: above one threshold it is anger, below neutral."""
    return np.where(clips["loudness"] > 2.5, 3, 0)


def verdicts(fairness: dict) -> dict[str, str]:
    return {mark["name"]: mark["verdict"] for mark in fairness["marks"]}


# ---------------------------------------------------------------------------------------------------
# Fairness


def test_a_perfect_model_passes_every_mark_and_has_no_limitation():
    clips = make_clips()
    fairness = describe_subgroups(hear(clips, clips["label"]), EMOTIONS)
    assert set(verdicts(fairness).values()) == {"passed"} and len(fairness["marks"]) == 5
    assert fairness["limitations"] == []
    assert all(mark["value"] == 0 and mark["interval"] == [0, 0] for mark in fairness["marks"])


def test_a_model_that_always_says_the_same_passes_nothing():
    clips = make_clips()
    fairness = describe_subgroups(hear(clips, np.zeros(len(clips), int)), EMOTIONS)
    assert set(verdicts(fairness).values()) == {"no meaning"}
    (sentence,) = fairness["limitations"]
    assert "On RAVDESS speech its UAR of 25.0 % cannot be told from chance (25.0 %)" in sentence


def test_a_model_that_hears_loudness_alone_fails_the_gender_that_is_louder():
    clips = make_clips()
    fairness = describe_subgroups(hear(clips, by_loudness(clips)), EMOTIONS)
    recall = fairness["recall"]["ravdess"]["neutral"]
    assert recall["female"] > 0.9 and recall["male"] < 0.7  # men's neutral clips are called angry
    gap = recall["female"] - recall["male"]
    assert verdicts(fairness)["recall of neutral"] == "missed"
    assert verdicts(fairness)["recall of happy"] == "passed"  # never named, of women and men alike
    expected = (
        f"Recall of neutral clips is {100 * gap:.1f} points lower for men than for women on RAVDESS speech "
        "(mark: at most 17.5)."
    )
    assert expected in fairness["limitations"]
    missed = [mark for mark in fairness["marks"] if mark["verdict"] == "missed"]
    assert len(fairness["limitations"]) == len(missed)


@pytest.mark.parametrize(("wrong", "verdict"), [(9, "passed"), (10, "missed")])
def test_the_mark_is_between_passed_and_missed(wrong, verdict):
    clips = make_clips()
    answers = clips["label"].to_numpy().copy()
    women = np.flatnonzero(clips["gender"] == "female")
    answers[women[:: len(women) // wrong][:wrong]] += 1  # women have 128 clips: 7.5 points are 9.6 of them
    answers %= len(EMOTIONS)
    fairness = describe_subgroups(hear(clips, answers), EMOTIONS)
    uar = fairness["marks"][0]
    assert uar["name"] == "UAR" and uar["value"] == pytest.approx(-wrong / 128)
    assert uar["verdict"] == verdict
    sentences = [sentence for sentence in fairness["limitations"] if sentence.startswith("UAR")]
    expected = f"UAR is {100 * wrong / 128:.1f} points lower for women than for men"
    assert [sentence[: len(expected)] for sentence in sentences] == (
        [expected] if verdict == "missed" else []
    )


def test_groups_are_scored_as_scikit_learn_scores_them_and_the_worst_speaker_comes_first():
    clips = make_clips()
    answers = np.where(clips["speaker"] == "ravdess-05", by_loudness(clips), clips["label"])
    rows = hear(clips, answers)
    fairness = describe_subgroups(rows, EMOTIONS)
    for column, groups in (("gender", "genders"), ("speaker", "speakers"), ("corpus", "corpora")):
        assert set(fairness[groups]) == set(rows[column])
        for name, group in fairness[groups].items():
            chosen = rows[rows[column] == name]
            expected = balanced_accuracy_score(chosen["emotion"], chosen["predicted"])
            assert group["uar"] == pytest.approx(expected) and group["clips"] == len(chosen)
            assert group["interval"][0] <= group["uar"] <= group["interval"][1]
            assert group["over"] == ("clips" if column == "speaker" else "speakers")
    assert fairness["worst_speaker"] == next(iter(fairness["speakers"])) == "ravdess-05"
    assert fairness["speakers"]["ravdess-05"]["gender"] == "male"
    json.dumps(fairness, allow_nan=False)


def test_a_corpus_of_women_is_not_measurable_and_does_not_count_as_a_gender():
    tess = make_clips(speakers=(2,), corpus="tess")
    both = pd.concat([make_clips(), tess], ignore_index=True)
    answers = np.where(both["corpus"] == "tess", 0, both["label"])  # deaf to TESS, perfect elsewhere
    fairness = describe_subgroups(hear(both, answers), EMOTIONS)
    of_tess = [mark for mark in fairness["marks"] if mark["corpus"] == "tess"]
    assert {mark["verdict"] for mark in of_tess} == {"not measurable"} and len(of_tess) == 5
    assert {mark["why"] for mark in of_tess} == {"no test clips of men"}
    assert fairness["limitations"] == []
    assert {mark["verdict"] for mark in fairness["marks"] if mark["corpus"] == "ravdess"} == {"passed"}


def test_speakers_of_unknown_gender_are_in_no_group():
    clips = make_clips().assign(gender="unknown")
    fairness = describe_subgroups(hear(clips, clips["label"]), EMOTIONS)
    assert fairness["genders"] == {} and set(verdicts(fairness).values()) == {"not measurable"}
    assert {mark["why"] for mark in fairness["marks"]} == {"no test clips of women or men"}


def test_one_voice_of_a_gender_gives_no_interval_of_the_gap():
    clips = make_clips(speakers=(1, 2, 4))
    marks = describe_subgroups(hear(clips, clips["label"]), EMOTIONS)["marks"]
    assert {mark["verdict"] for mark in marks} == {"passed"} and {mark["interval"] for mark in marks} == {
        None
    }


def test_a_clip_that_nobody_knows_is_refused():
    clips = make_clips()
    predictions = prediction_table(clips, np.full((len(clips), 4), 0.25), EMOTIONS, "holdout")
    with pytest.raises(
        ValueError, match="1 predicted clips are not in the table, such as ravdess-1-neutral-0"
    ):
        join_clips(predictions, clips.drop(index=0))


# ---------------------------------------------------------------------------------------------------
# Intervals


def test_the_interval_over_clips_is_that_of_single_clips_drawn_again():
    generator = np.random.default_rng(1)
    truth, guesses = generator.integers(4, size=(2, 120))
    predictions = np.where(generator.random(120) < 0.5, truth, guesses)
    each_its_own = speaker_intervals(truth, predictions, range(120), 4)
    for name, interval in clip_intervals(truth, predictions, 4).items():
        assert interval == pytest.approx(each_its_own[name], abs=0.01)
    assert clip_intervals([0], [0], 4) == {"accuracy": None, "uar": None}


def test_the_gap_of_speakers_who_are_all_alike_is_certain_and_of_others_is_not():
    truth = np.tile(np.arange(4), 8)
    speakers = np.repeat(np.arange(8), 4)
    first = speakers < 4
    predictions = np.where(first, truth, 0)  # all of one group right, of the other one emotion in four
    assert uar_gap(truth, predictions, first, speakers, 4) == [0.75, 0.75]
    predictions = np.where(speakers % 2, truth, 0)
    low, high = uar_gap(truth, predictions, first, speakers, 4)
    assert low < -0.2 and high > 0.2


# ---------------------------------------------------------------------------------------------------
# Errors


def test_mistakes_are_listed_by_sureness_and_the_most_confused_pair_is_named():
    clips = make_clips()
    answers = clips["label"].to_numpy().copy()
    happy = np.flatnonzero(clips["emotion"] == "happy")[:12]
    sad = np.flatnonzero(clips["emotion"] == "sad")[:4]
    answers[happy], answers[sad] = 3, 1
    rows = hear(clips, answers)
    rows.loc[happy[5], ["p_angry", "p_happy"]] = [0.9, 0.05]
    errors = analyse_errors(rows, EMOTIONS)
    assert errors["mistakes"] == 16 and len(errors["confident"]) == 10
    assert errors["confident"][0] == {
        "clip": clips["clip"][happy[5]],
        "corpus": "ravdess",
        "speaker": clips["speaker"][happy[5]],
        "emotion": "happy",
        "predicted": "angry",
        "probability": 0.9,
        "probability_of_truth": 0.05,
    }
    assert errors["most_confused"] == {
        "emotions": ["happy", "angry"],
        "shares": [12 / 64, 0.0],
        "clips": [12, 0],
    }
    json.dumps(errors, allow_nan=False)


def test_a_perfect_model_confuses_nothing():
    clips = make_clips()
    errors = analyse_errors(hear(clips, clips["label"]), EMOTIONS)
    assert (errors["mistakes"], errors["confident"], errors["most_confused"]) == (0, [], None)


def test_a_rare_emotion_counts_as_much_in_the_most_confused_pair():
    clips = make_clips()
    clips = clips[(clips["emotion"] != "sad") | clips["clip"].str.endswith("-0")]  # 8 sad clips, 64 of others
    answers = clips["label"].to_numpy().copy()
    answers[clips["emotion"] == "sad"] = 0  # 8 clips, all that are sad
    answers[np.flatnonzero(clips["emotion"] == "happy")[:20]] = 3  # 20 clips, a third of those that are happy
    pair = most_confused_pair(hear(clips, answers), EMOTIONS)
    assert pair == {"emotions": ["sad", "neutral"], "shares": [1.0, 0.0], "clips": [8, 0]}


def test_intensities_are_compared_on_the_emotions_that_have_both():
    clips = make_clips()
    answers = np.where((clips["intensity"] == "normal") & (clips["emotion"] == "sad"), 0, clips["label"])
    answers = np.where(clips["emotion"] == "neutral", 1, answers)  # has no strong clip, and must not count
    errors = analyse_errors(hear(clips, answers), EMOTIONS)
    assert errors["intensity"]["ravdess"]["normal"]["uar"] == pytest.approx(2 / 3)
    assert errors["intensity"]["ravdess"]["strong"]["uar"] == 1
    assert set(errors["text"]["ravdess"]) == {"dogs", "kids"}
    words = clips.assign(text=clips["clip"])
    errors = analyse_errors(hear(words, answers), EMOTIONS)
    assert errors["text"] == {} and errors["not_broken_down"] == {"ravdess": len(clips)}


# ---------------------------------------------------------------------------------------------------
# Calibration


def test_the_brier_score_is_that_of_scikit_learn():
    generator = np.random.default_rng(2)
    truth, probabilities = generator.integers(4, size=200), generator.dirichlet(np.ones(4), size=200)
    expected = sum(brier_score_loss(truth == label, probabilities[:, label]) for label in range(4))
    assert brier_score(truth, probabilities) == pytest.approx(expected)
    assert brier_score([1], [[0, 1, 0, 0]]) == 0 and brier_score([0], [[0, 1, 0, 0]]) == 2
    assert brier_score(truth, np.full((200, 4), 0.25)) == pytest.approx(0.75)


def test_the_least_sure_clips_are_declined_first():
    truth = [0, 0, 1, 1, 0]
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4], [0.8, 0.2]])
    curve = accuracy_at_coverage(truth, probabilities)
    by_hand = [  # 0.9 right; both at 0.8 right; both at 0.6 wrong: of equally sure clips all or none
        {"coverage": 0.2, "accuracy": 1.0, "confidence": 0.9},
        {"coverage": 0.6, "accuracy": 1.0, "confidence": 0.8},
        {"coverage": 1.0, "accuracy": 0.6, "confidence": 0.6},
    ]
    assert curve == [pytest.approx(point) for point in by_hand]
    stage = describe_stage(truth, probabilities)
    assert [point["coverage"] for point in stage["answered"]] == [1.0, 0.6, 0.2]
    assert stage["coverage"] == curve


def test_a_model_that_is_too_sure_is_mended_by_the_temperature_of_the_validation_clips():
    clips = make_clips()
    generator = np.random.default_rng(3)
    draws = generator.dirichlet(np.ones(4), size=(2, len(clips)))
    truth = np.array([[generator.choice(4, p=row) for row in part] for part in draws])
    too_sure = draws**3 / (draws**3).sum(axis=2, keepdims=True)  # logits three times as large
    tables = [
        prediction_table(clips.assign(label=labels), probabilities, EMOTIONS, "holdout")
        for labels, probabilities in zip(truth, too_sure, strict=True)
    ]
    scaling = describe_scaling(*tables, EMOTIONS)
    assert scaling["temperature"] == pytest.approx(3, rel=0.3) and scaling["applied"] is False
    for figure in ("error", "brier"):
        assert scaling["after"][figure] < scaling["before"][figure]
    assert scaling["before"]["brier"] == pytest.approx(brier_score(truth[1], too_sure[1]))
    json.dumps(scaling, allow_nan=False)


# ---------------------------------------------------------------------------------------------------
# Figures


def test_the_dots_of_the_speakers_are_sorted_and_lie_where_they_belong():
    clips = make_clips()
    fairness = describe_subgroups(hear(clips, by_loudness(clips)), EMOTIONS)
    figure = audit_plots.plot_speakers(fairness["speakers"], len(EMOTIONS), 0.4)
    axes = figure.axes[0]
    dots = [line.get_data() for line in axes.lines if line.get_marker() == "o"]
    shown = [
        (name.get_text(), 100 * fairness["speakers"][name.get_text().split(" ")[0]]["uar"])
        for name in axes.get_yticklabels()
    ]
    assert [float(x[0]) for x, _ in dots] == pytest.approx([uar for _, uar in shown])
    assert shown == sorted(shown, key=lambda row: row[1]) and shown[0][0].endswith(" (n=32)")
    assert "clips" in axes.get_xlabel() and axes.get_xlim() == (0, 100)


def test_the_figures_are_drawn_and_label_their_axes(tmp_path):
    clips = pd.concat([make_clips(), make_clips(speakers=(2,), corpus="tess")], ignore_index=True)
    rows = hear(clips, by_loudness(clips))
    fairness, errors = describe_subgroups(rows, EMOTIONS), analyse_errors(rows, EMOTIONS)
    stage = describe_stage(clips["label"], rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy())
    gaps = audit_plots.plot_gender_recall(fairness["recall"]["ravdess"], 0.175, CORPORA["ravdess"].title)
    missed = [
        row for row in fairness["recall"]["ravdess"].values() if abs(row["female"] - row["male"]) > 0.175
    ]
    assert len(gaps.axes[0].texts) == len(missed) > 0
    figures = [
        gaps,
        audit_plots.plot_gender_recall(fairness["recall"]["tess"], 0.175, CORPORA["tess"].title),
        audit_plots.plot_speakers(fairness["speakers"], len(EMOTIONS), 0.5),
        audit_plots.plot_coverage({"as saved": stage["coverage"]}, 0.25),
        audit_plots.plot_breakdown(errors["intensity"]["ravdess"], "By intensity"),
    ]
    for number, figure in enumerate(figures):
        axes = figure.axes[0]
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()
        save_figure(figure, tmp_path / f"{number}.png")
