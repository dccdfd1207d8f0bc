"""A model is heard on changed clips and judged: one that hears nothing, or loudness alone, is found out.

Run: python -m pytest tests/test_stress.py
"""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from utils.data.audio import read_waveform
from utils.data.corpora import parse_clip
from utils.evaluation.perturbations import PERTURBATIONS, apply
from utils.evaluation.robustness import measure_robustness, wants_robustness_test

EMOTIONS = ("sad", "angry")


@pytest.fixture(scope="module")
def heard(demo_folder):
    paths = [path for path in sorted(demo_folder.rglob("*.wav")) if parse_clip(path).emotion in EMOTIONS]
    clips = pd.DataFrame(vars(parse_clip(path)) for path in paths[:48])
    waveforms = [read_waveform(path) for path in paths[:48]]
    for row, emotion in enumerate(clips["emotion"]):  # angry is loud
        waveforms[row] = waveforms[row] / np.abs(waveforms[row]).max() * (0.4 if emotion == "angry" else 0.1)
    return clips, Dataset.from_dict({"waveform": waveforms})


def by_loudness(waveforms: list[np.ndarray]) -> np.ndarray:
    loud = np.array([np.abs(waveform).max() > 0.2 for waveform in waveforms], dtype=float)
    return np.column_stack([1 - loud, loud]) * 0.9 + 0.05


def test_a_model_that_hears_loudness_alone_misses_the_gains(heard):
    found = measure_robustness(by_loudness, *heard, EMOTIONS, seed=1)
    assert found["clean"]["uar"] == 1
    verdicts = {name: result["verdict"] for name, result in found["conditions"].items()}
    assert verdicts["gain +12 dB"] == verdicts["gain -12 dB"] == "missed"
    assert verdicts["silence after"] == "passed"
    missed = [name for name, verdict in verdicts.items() if verdict == "missed"]
    assert len(found["limitations"]) == len(missed)
    assert any(words.endswith("with a gain of -12 dB.") for words in found["limitations"])
    assert found["conditions"]["gain +12 dB"]["uar_difference"] == pytest.approx(-0.5)


def test_of_a_deaf_model_nothing_is_passed(heard):
    found = measure_robustness(
        lambda waveforms: np.full((len(waveforms), 2), [0.6, 0.4]), *heard, EMOTIONS, seed=1
    )
    assert {result["verdict"] for result in found["conditions"].values()} == {"no meaning", "not judged"}
    assert len(found["limitations"]) == 1 and "cannot be told from chance" in found["limitations"][0]


def test_the_same_seed_gives_the_same_clips_in_any_order(heard):
    waveform, voice = (heard[1][row]["waveform"] for row in (0, 1))
    for name in PERTURBATIONS:
        first, again = (apply(name, np.float32(waveform), "a", 3, [np.float32(voice)]) for _ in range(2))
        assert np.array_equal(first, again) and np.isfinite(first).all() and first.dtype == np.float32
    noises = [apply("white noise, 0 dB", np.float32(waveform), clip, 3, []) for clip in ("a", "b")]
    assert not np.array_equal(*noises)


def test_noise_has_the_ratio_that_it_says(heard):
    waveform = np.float32(np.sin(np.arange(32_000) * 0.3))  # sounds throughout
    for snr_db in (20, 10, 0):
        noise = apply(f"white noise, {snr_db} dB", waveform, "a", 3, []) - waveform
        assert 10 * np.log10((waveform**2).mean() / (noise**2).mean()) == pytest.approx(snr_db, abs=0.2)


def test_it_is_made_of_holdout_runs_unless_that_is_not_wanted():
    assert wants_robustness_test("holdout", demo=False, wanted=False, unwanted=False)
    assert wants_robustness_test("holdout", demo=True, wanted=True, unwanted=False)
    assert not wants_robustness_test("holdout", demo=True, wanted=False, unwanted=False)
    assert not wants_robustness_test("holdout", demo=False, wanted=False, unwanted=True)
    assert not wants_robustness_test("folds", demo=False, wanted=True, unwanted=False)
