"""Intervals and tests over speakers keep what they promise: simulated models of known quality.

Run: python -m pytest tests/evaluation/test_intervals.py
"""

import numpy as np
import pandas as pd
import pytest

from utils.evaluation.intervals import (
    clip_intervals,
    speaker_intervals,
    uar_difference,
    uar_difference_p_value,
)
from utils.evaluation.subgroups import describe_subgroups

NUM_SAMPLES = 400
NUM_EMOTIONS = 8
EMOTIONS = [f"emotion {number}" for number in range(NUM_EMOTIONS)]


def speakers_of_equal_models(generator, num_speakers: int, spread: float = 0.8, num_models: int = 1):
    """Return references, predictions (num_models, num_clips) and speakers: 7 clips of each emotion by each.

    How well a speaker is recognised differs: the logit of the recall has a normal distribution over speakers
    and another one over a speaker's emotions, with the same parameters for all models.
    """
    references = np.tile(np.repeat(np.arange(NUM_EMOTIONS), 7), num_speakers)
    speakers = np.repeat(np.arange(num_speakers), 7 * NUM_EMOTIONS)
    predictions = []
    for _ in range(num_models):
        logits = 0.4 + generator.normal(0, spread, (num_speakers, 1))
        logits = logits + generator.normal(0, 0.7, (num_speakers, NUM_EMOTIONS))
        recall = 1 / (1 + np.exp(-logits))
        correct = generator.random(len(references)) < recall[speakers, references]
        predictions.append(np.where(correct, references, (references + 1) % NUM_EMOTIONS))
    return references, np.array(predictions), speakers


def true_uar(spread: float = 0.8) -> float:
    logits = 0.4 + np.random.default_rng(0).normal(0, np.hypot(spread, 0.7), 1_000_000)
    return float(np.mean(1 / (1 + np.exp(-logits))))


@pytest.mark.parametrize("num_speakers", [3, 4, 6, 24])
def test_the_intervals_contain_the_true_score_for_few_and_many_speakers(num_speakers):
    generator, truth, hits = np.random.default_rng(1), true_uar(), 0
    for _ in range(NUM_SAMPLES):
        references, (predictions,), speakers = speakers_of_equal_models(generator, num_speakers)
        corpora = ["one"] * len(references)
        low, high = speaker_intervals(references, predictions, speakers, corpora, NUM_EMOTIONS)["uar"]
        hits += low <= truth <= high
    assert 0.91 <= hits / NUM_SAMPLES <= 0.98


def test_the_intervals_contain_the_true_score_of_two_corpora_of_unequal_size():
    generator, truth, hits = np.random.default_rng(2), true_uar(), 0
    for _ in range(NUM_SAMPLES):
        references, (predictions,), speakers = speakers_of_equal_models(generator, 9)
        corpora = np.where(speakers < 6, "large", "small")
        low, high = speaker_intervals(references, predictions, speakers, corpora, NUM_EMOTIONS)["uar"]
        hits += low <= truth <= high
    assert 0.91 <= hits / NUM_SAMPLES <= 0.98


@pytest.mark.parametrize("num_speakers", [6, 24])
def test_equal_models_are_rarely_called_different(num_speakers):
    generator, rejected = np.random.default_rng(3), 0
    for _ in range(NUM_SAMPLES):
        references, predictions, speakers = speakers_of_equal_models(generator, num_speakers, num_models=2)
        p_value = uar_difference_p_value(references, *predictions, speakers, NUM_EMOTIONS)
        rejected += p_value < 0.05
    assert 0.01 <= rejected / NUM_SAMPLES <= 0.08


def test_a_better_model_is_found_and_two_speakers_decide_nothing():
    references, (predictions,), speakers = speakers_of_equal_models(np.random.default_rng(4), 12)
    corpora = ["one"] * len(references)
    worse = np.where(np.arange(len(references)) % 5 == 0, (references + 1) % NUM_EMOTIONS, predictions)
    low, high = uar_difference(references, predictions, worse, speakers, corpora, NUM_EMOTIONS)
    p_value = uar_difference_p_value(references, predictions, worse, speakers, NUM_EMOTIONS)
    assert 0 < low < high and p_value < 0.01
    two = speakers < 2
    labels = [each[two] for each in (references, predictions, worse)]
    interval = uar_difference(*labels, speakers[two], ["one"] * two.sum(), NUM_EMOTIONS)
    p_value = uar_difference_p_value(*labels, speakers[two], NUM_EMOTIONS)
    assert interval is None and p_value == 0.5


@pytest.mark.parametrize(("num_of_each", "num_samples"), [(2, 40), (8, 12)])
def test_a_model_that_is_equally_good_for_women_and_men_fails_hardly_any_test(num_of_each, num_samples):
    generator, failed, exceeding = np.random.default_rng(5), 0, 0
    for _ in range(num_samples):
        references, (predictions,), speakers = speakers_of_equal_models(generator, 2 * num_of_each)
        rows = pd.DataFrame({"speaker": speakers.astype(str), "corpus": "ravdess"})
        rows["emotion"], rows["predicted"] = (np.take(EMOTIONS, ids) for ids in (references, predictions))
        rows["gender"] = np.where(speakers % 2, "male", "female")
        tests = describe_subgroups(rows, EMOTIONS)["tests"]
        failed += sum(test["verdict"] == "failed" for test in tests)
        exceeding += any(abs(test["difference"]) > test["threshold"] for test in tests)
    assert failed / (num_samples * (1 + NUM_EMOTIONS)) <= 0.02
    if num_of_each == 2:
        assert exceeding / num_samples > 0.8  # the differences alone would have been called failures


def test_speech_and_song_of_the_same_actors_are_one_sample():
    references, (predictions,), speakers = speakers_of_equal_models(np.random.default_rng(6), 5)
    one = speaker_intervals(references, predictions, speakers, ["speech"] * len(references), NUM_EMOTIONS)
    half = np.where(np.arange(len(references)) % 2, "speech", "song")
    assert speaker_intervals(references, predictions, speakers, half, NUM_EMOTIONS) == one


def test_a_corpus_with_a_single_speaker_or_two_speakers_in_all_have_no_interval():
    references, (predictions,), speakers = speakers_of_equal_models(np.random.default_rng(7), 5)
    none = {"accuracy": None, "uar": None}
    lone = np.where(speakers == 4, "tess", "ravdess")
    assert speaker_intervals(references, predictions, speakers, lone, NUM_EMOTIONS) == none
    two = speakers < 2
    assert (
        speaker_intervals(references[two], predictions[two], speakers[two], ["tess"] * two.sum(), 8) == none
    )


def test_an_interval_contains_its_score_within_0_and_1_and_does_not_depend_on_the_order_of_clips():
    references, (predictions,), speakers = speakers_of_equal_models(np.random.default_rng(8), 3, spread=2)
    corpora = np.array(["one"] * len(references))
    intervals = speaker_intervals(references, predictions, speakers, corpora, NUM_EMOTIONS)
    assert 0 <= intervals["uar"][0] < (references == predictions).mean() < intervals["uar"][1] <= 1
    assert intervals["uar"] == pytest.approx(intervals["accuracy"])  # every emotion has as many clips
    order = np.random.default_rng(9).permutation(len(references))
    shuffled = speaker_intervals(references[order], predictions[order], speakers[order], corpora, 8)
    assert shuffled["uar"] == pytest.approx(intervals["uar"])
    perfect = speaker_intervals(references, references, speakers, corpora, NUM_EMOTIONS)
    assert perfect == {"accuracy": [1, 1], "uar": [1, 1]}


def test_differences_between_speakers_widen_the_interval():
    speakers, references = np.repeat(np.arange(10), 40), np.arange(400) % 2
    by_speaker = np.repeat(np.arange(10) % 2 == 0, 40)  # half of the speakers always correct, half never
    by_chance = np.random.default_rng(0).permutation(by_speaker)
    width = {}
    for name, correct in {"by_speaker": by_speaker, "by_chance": by_chance}.items():
        predictions = np.where(correct, references, 1 - references)
        low, high = speaker_intervals(references, predictions, speakers, ["one"] * 400, 2)["uar"]
        width[name] = high - low
    assert width["by_speaker"] > 3 * width["by_chance"]


def test_the_interval_over_clips_contains_the_true_score_of_these_speakers():
    generator, hits = np.random.default_rng(10), 0
    references = np.repeat(np.arange(4), 30)
    recall = np.array([0.9, 0.6, 0.4, 0.7])
    for _ in range(NUM_SAMPLES):
        correct = generator.random(len(references)) < recall[references]
        predictions = np.where(correct, references, (references + 1) % 4)
        low, high = clip_intervals(references, predictions, 4, num_resamples=499)["uar"]
        hits += low <= recall.mean() <= high
    assert 0.91 <= hits / NUM_SAMPLES <= 0.98
    assert clip_intervals([0], [0], 4) == {"accuracy": None, "uar": None}
