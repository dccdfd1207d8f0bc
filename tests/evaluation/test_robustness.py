"""The robustness test: models of constant predictions or of loudness alone fail, perturbations are exact.

Run: python -m pytest tests/evaluation/test_robustness.py
"""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from utils.data.audio import read_waveform
from utils.data.corpora import parse_clip
from utils.evaluation.perturbations import PERTURBATIONS, apply_perturbation, unavailable_perturbations
from utils.evaluation.robustness import measure_robustness
from utils.evaluation.robustness_assessment import assess_robustness

EMOTIONS = ("sad", "angry")


@pytest.fixture(scope="module")
def loud_and_quiet_clips(demo_folder):
    paths = [path for path in sorted(demo_folder.rglob("*.wav")) if parse_clip(path).emotion in EMOTIONS]
    clips = pd.DataFrame(vars(parse_clip(path)) for path in paths[:48])
    waveforms = [read_waveform(path) for path in paths[:48]]
    for row, emotion in enumerate(clips["emotion"]):  # angry clips are loud
        waveforms[row] = waveforms[row] / np.abs(waveforms[row]).max() * (0.4 if emotion == "angry" else 0.1)
    return clips, Dataset.from_dict({"waveform": waveforms})


def by_loudness(waveforms: list[np.ndarray]) -> np.ndarray:
    loud = np.array([np.abs(waveform).max() > 0.2 for waveform in waveforms], dtype=float)
    return np.column_stack([1 - loud, loud]) * 0.9 + 0.05


def test_a_model_of_loudness_alone_fails_at_changed_gains(loud_and_quiet_clips):
    robustness = measure_robustness(by_loudness, *loud_and_quiet_clips, EMOTIONS, seed=1)
    assert robustness["clean"]["uar"] == 1
    verdicts = {name: result["verdict"] for name, result in robustness["perturbations"].items()}
    assert verdicts["gain +12 dB"] == verdicts["gain -12 dB"] == "failed"
    assert verdicts["silence after"] == "passed" and verdicts["pitch +2"] == "not tested"
    failed = [name for name, verdict in verdicts.items() if verdict == "failed"]
    assert len(robustness["limitations"]) == len(failed)
    assert any(sentence.startswith("With a gain of -12 dB,") for sentence in robustness["limitations"])
    assert robustness["perturbations"]["gain +12 dB"]["uar_difference"] == pytest.approx(-0.5)


def test_a_constant_prediction_passes_no_test(loud_and_quiet_clips):
    robustness = measure_robustness(
        lambda waveforms: np.full((len(waveforms), 2), [0.6, 0.4]), *loud_and_quiet_clips, EMOTIONS, seed=1
    )
    verdicts = {result["verdict"] for result in robustness["perturbations"].values()}
    assert verdicts == {"inconclusive", "not tested"}
    (sentence,) = robustness["limitations"]
    assert "is not distinguishable from chance" in sentence


def test_probabilities_of_a_wrong_shape_are_an_error(loud_and_quiet_clips):
    clips, _ = loud_and_quiet_clips
    with pytest.raises(ValueError, match=r"clean: expected finite probabilities \(32, 2\), got \(3, 2\)"):
        assess_robustness({"clean": np.full((3, 2), 0.5)}, clips, EMOTIONS, seed=1)


def test_the_same_seed_gives_the_same_perturbed_clip(loud_and_quiet_clips):
    waveform, other = (np.float32(loud_and_quiet_clips[1][row]["waveform"]) for row in (0, 1))
    for name in PERTURBATIONS:
        first, again = (apply_perturbation(name, waveform, "a", 3, [other]) for _ in range(2))
        assert np.array_equal(first, again) and np.isfinite(first).all() and first.dtype == np.float32
    noises = [apply_perturbation("white noise, 0 dB", waveform, clip, 3, []) for clip in ("a", "b")]
    assert not np.array_equal(*noises)


def test_noise_has_the_given_signal_to_noise_ratio():
    waveform = np.float32(np.sin(np.arange(32_000) * 0.3))  # no silence
    for snr_db in (20, 10, 0):
        noise = apply_perturbation(f"white noise, {snr_db} dB", waveform, "a", 3, []) - waveform
        assert 10 * np.log10((waveform**2).mean() / (noise**2).mean()) == pytest.approx(snr_db, abs=0.2)


def test_codecs_keep_length_alignment_and_level(loud_and_quiet_clips):
    waveform = np.float32(loud_and_quiet_clips[1][0]["waveform"])
    skipped = unavailable_perturbations()
    for name in ("MP3", "Opus", "µ-law, 8 kHz"):
        if name not in skipped:
            decoded = apply_perturbation(name, waveform, "a", 3, [])
            assert decoded.shape == waveform.shape
            assert np.corrcoef(decoded, waveform)[0, 1] > 0.8, name
            assert decoded.std() == pytest.approx(waveform.std(), rel=0.2)
