"""Functionals: names, difficult clips, invariance (gain, silence), known values, and the cache.

Run: python -m pytest tests/features/test_functionals.py
"""

import subprocess
import sys

import librosa
import numpy as np
import pytest
from conftest import PROJECT
from datasets import Dataset, Features, List, Value
from scipy.signal import lfilter

from utils.features import extraction, other_sets
from utils.features.extraction import (
    FEATURE_SETS,
    extract,
    extract_table,
    feature_groups,
    feature_names,
    normalize_speakers,
)
from utils.runtime import InputError

RATE = 16_000
REFERENCE_SETS = {"compare": 6373, "egemaps": 88}
KIT_SETS = tuple(name for name in FEATURE_SETS if name not in REFERENCE_SETS)


def voice(hertz=120.0, seconds=1.0, peak=0.3, seed=0, glide=0.0):
    """A harmonic tone with a pitch glide of `glide` octaves, and a small amount of noise."""
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(hertz * 2 ** (glide * (times / seconds - 0.5))) / RATE
    harmonics = sum(np.sin(k * phase) / k for k in range(1, int(3000 / hertz) + 1))
    waveform = harmonics / np.abs(harmonics).max() + 0.003 * generator.standard_normal(len(times))
    return (peak * (waveform - waveform.mean())).astype(np.float32)


def noise(seconds=1.0, peak=0.3, seed=0):
    waveform = np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))
    return (peak * (waveform - waveform.mean())).astype(np.float32)


def named(waveform, feature_set="full"):
    return dict(zip(feature_names(feature_set), extract(waveform, feature_set), strict=True))


def semitones(hertz):
    return 12 * np.log2(hertz / 100)


CLICK = np.zeros(RATE, np.float32)
CLICK[5000] = 0.5
DIFFICULT = {
    "noise": noise(),
    "tone": np.sin(0.3 * np.arange(RATE), dtype=np.float32),
    "tone-too-high-for-a-voice": np.sin(2.5 * np.arange(RATE), dtype=np.float32),
    "square": np.sign(voice()),
    "nearly-silent": noise(peak=1.1e-4),
    "nearly-silent-voice": voice(peak=1.1e-4),
    "quarter-second": voice(seconds=0.25),
    "quarter-second-noise": noise(seconds=0.25),
    "click": CLICK,
    "click-at-the-end": np.roll(CLICK, RATE - 5001),
    "click-on-an-offset": CLICK + np.float32(0.3),
    "step": np.repeat([0.2, -0.2], RATE // 2).astype(np.float32),
    "gap-of-digital-silence": np.concatenate([voice(seconds=0.3), np.zeros(RATE, np.float32), noise(0.3)]),
    "louder-than-full-scale": 30 * voice(),
    "long": noise(seconds=20),
}


@pytest.mark.parametrize("feature_set", KIT_SETS)
@pytest.mark.parametrize("case", DIFFICULT)
def test_features_of_difficult_clips_are_finite(case, feature_set):
    row = extract(DIFFICULT[case], feature_set)
    assert row.dtype == np.float32
    assert row.shape == (len(feature_names(feature_set)),)
    assert np.isfinite(row).all()
    assert np.abs(row).max() < 1e5


def test_names_are_distinct_stable_and_grouped():
    for feature_set in KIT_SETS:
        names = feature_names(feature_set)
        assert len(set(names)) == len(names)
        assert list(feature_groups(feature_set)) == list(names)
    assert len(feature_names("mfcc")) == 40 and set(feature_groups("mfcc").values()) == {"mfcc"}
    groups = {"mfcc", "logmel", "pitch", "energy", "spectral", "voice", "formant", "modulation", "timing"}
    assert set(feature_groups().values()) >= groups | {"correlation"}
    assert {"pitch.f0.voiced.p50", "mfcc.c0.all.mean", "timing.duration"} <= set(feature_names())


@pytest.mark.parametrize("call", [lambda name: extract(voice(), name), feature_names, feature_groups])
def test_an_unknown_set_is_rejected(call):
    with pytest.raises(ValueError, match="'mfccs' is none of full, mfcc, compare, egemaps"):
        call("mfccs")


def test_the_mfcc_set_equals_that_of_librosa():
    expected = librosa.feature.mfcc(y=voice(), sr=RATE, n_mfcc=40).mean(axis=1)
    assert np.abs(extract(voice(), "mfcc") - expected).max() < 1e-4


def with_silence(clip, before, after):
    return np.concatenate([np.zeros(before, np.float32), clip, np.zeros(after, np.float32)])


@pytest.mark.parametrize("clip", [voice(), noise(), voice(300, glide=0.5)], ids=["low", "noise", "glide"])
def test_the_full_set_is_invariant_to_gain_offset_and_surrounding_silence(clip):
    clip = with_silence(clip, 1000, 1000)
    expected = extract(clip)
    assert np.array_equal(extract(clip / 64), expected)
    for other in (clip * np.float32(0.013), clip + np.float32(0.1), with_silence(clip, 7000, 9000)):
        np.testing.assert_allclose(extract(other), expected, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("hertz", [85, 120, 220, 330, 500])
def test_the_pitch_of_a_harmonic_tone_is_correct(hertz):
    row = named(voice(hertz))
    assert row["timing.voiced_share"] > 0.95
    for kind in ("mean", "p5", "p50", "p95"):
        assert 100 * 2 ** (row[f"pitch.f0.voiced.{kind}"] / 12) == pytest.approx(hertz, rel=0.02)
    assert row["pitch.f0.voiced.range"] < 0.2
    assert row["voice.hnr.voiced.p50"] > 15


@pytest.mark.parametrize("octaves", [1, -1])
def test_slope_and_range_of_a_pitch_glide_are_correct(octaves):
    row = named(voice(200, glide=octaves))
    assert row["pitch.f0.voiced.mean"] == pytest.approx(semitones(200), abs=0.2)
    assert row["pitch.f0.voiced.range"] == pytest.approx(0.9 * 12, rel=0.05)  # 5th to 95th percentile
    assert row["pitch.f0.voiced.slope"] == pytest.approx(6 * octaves, rel=0.05)  # per half clip


def test_defaults_of_unvoiced_clips():
    row = named(noise())
    assert row["timing.voiced_share"] == 0
    assert row["pitch.f0.all.mean"] == 0 and row["pitch.f0.all.std"] == 0
    assert all(value == 0 for name, value in row.items() if ".voiced." in name)
    assert all(value == 0 for name, value in row.items() if name.startswith(("timing.stretch", "timing.gap")))


def test_durations_of_voiced_segments_and_gaps_are_correct():
    clip = np.concatenate([voice(seconds=0.5), noise(seconds=0.3, peak=0.001), voice(seconds=0.7)])
    row = named(clip)
    assert row["timing.duration"] == pytest.approx(1.5, abs=0.06)
    assert row["timing.gap_max"] == pytest.approx(0.3, abs=0.06)
    assert row["timing.stretch_max"] == pytest.approx(0.7, abs=0.06)
    assert row["timing.voiced_rate"] == pytest.approx(2 / 1.5, rel=0.05)


def test_formants_of_a_filtered_tone_are_correct():
    clip = voice(100)
    for hertz in (700, 1200, 2600):
        radius = np.exp(-np.pi * 80 / RATE)
        clip = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * hertz / RATE), radius**2], clip)
    row = named(clip.astype(np.float32))
    for k, hertz in enumerate((700, 1200, 2600), start=1):
        assert row[f"formant.f{k}.voiced.p50"] == pytest.approx(hertz, rel=0.08)


@pytest.fixture
def clips():
    """Five clips of different lengths; the third could not be decoded."""
    return [voice(100), noise(0.4), np.zeros(0, np.float32), voice(250, 0.6), voice(180, 0.25)]


def as_dataset(clips):
    columns = {"waveform": clips, "problem": ["" if len(clip) else "empty file" for clip in clips]}
    return Dataset.from_dict(
        columns, features=Features({"waveform": List(Value("float32")), "problem": Value("string")})
    )


DIGESTS = [f"{k}" * 64 for k in range(5)]


def test_extract_table_in_other_processes_equals_extract(clips, tmp_path):
    for feature_set in KIT_SETS:
        table = extract_table(as_dataset(clips), DIGESTS, tmp_path / "new" / "cache", feature_set)
        assert table.dtype == np.float32 and table.shape == (5, len(feature_names(feature_set)))
        assert not table[2].any()
        for row, clip in zip(table, clips, strict=True):
            if len(clip):
                np.testing.assert_allclose(row, extract(clip, feature_set), rtol=1e-4, atol=1e-4)
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "new" / "cache").iterdir())
    assert names == sorted(f"features-{name}" for name in KIT_SETS)  # no partial file is left


def test_the_reference_sets_have_their_published_sizes():
    """In a separate process, because openSMILE crashes in one that has loaded TensorFlow."""
    check = (
        "import numpy as np; from utils.features.extraction import extract, feature_groups, feature_names\n"
        "noise = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 0.1\n"
        f"for name in {list(REFERENCE_SETS)}:\n"
        "    rows = [extract(clip, name) for clip in (noise, noise[:4_000], np.zeros_like(noise))]\n"
        "    assert np.isfinite(rows).all() and list(feature_groups(name)) == list(feature_names(name))\n"
        "    print(len(set(feature_names(name))), *{row.shape[0] for row in rows})"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=PROJECT, capture_output=True, text=True)
    sizes = [str(size) for size in REFERENCE_SETS.values() for _ in range(2)]
    assert done.stdout.split() == sizes, done.stderr


def test_without_opensmile_its_sets_are_rejected_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)  # simulates that it is not installed
    other_sets._open_smile.cache_clear()
    with pytest.raises(InputError, match=r"--features egemaps: needs openSMILE.*pip install opensmile"):
        extract(voice(), "egemaps")
    assert np.isfinite(extract(voice(), "mfcc")).all()


def test_normalised_speakers_have_equal_mean_and_standard_deviation():
    generator = np.random.default_rng(0)
    speakers = np.array(["b", "a"] * 30)
    values = generator.normal(size=(60, 5)) * np.where(speakers == "a", 3, 1)[:, None] + 7
    values[:, 4] = 1.0  # a constant feature must stay finite
    normalized = normalize_speakers(values.astype(np.float32), speakers)
    for speaker in "ab":
        rows = normalized[speakers == speaker]
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(rows.std(axis=0), [1, 1, 1, 1, 0], atol=1e-4)
        order = values[speakers == speaker, 0].argsort()
        assert (np.diff(rows[order, 0]) >= 0).all()  # the order of the clips of a speaker is kept


def test_clips_of_several_chunks_stay_in_order(tmp_path):
    clips = [voice(100 + 5 * k, seconds=0.25) for k in range(40)]
    table = extract_table(as_dataset(clips), [str(k) for k in range(40)], tmp_path)
    assert table.shape == (40, len(feature_names()))
    pitches = table[:, feature_names().index("pitch.f0.voiced.p50")]
    np.testing.assert_allclose(pitches, semitones(100 + 5 * np.arange(40)), atol=0.2)


def test_the_cache_depends_on_digests_set_and_version(clips, tmp_path, monkeypatch):
    first = extract_table(as_dataset(clips), DIGESTS, tmp_path)
    others = as_dataset([np.zeros(0, np.float32)] * 5)
    assert np.array_equal(extract_table(others, DIGESTS, tmp_path), first)
    assert not extract_table(others, DIGESTS[::-1], tmp_path).any()
    assert not extract_table(others, DIGESTS, tmp_path, "mfcc").any()
    monkeypatch.setattr(extraction, "_CACHE_VERSION", 0)
    assert not extract_table(others, DIGESTS, tmp_path).any()


def test_no_clips_and_wrong_digests(tmp_path):
    assert extract_table(as_dataset([]), [], tmp_path).shape == (0, len(feature_names()))
    with pytest.raises(ValueError, match="5 waveforms but 4 digests"):
        extract_table(as_dataset([voice()] * 5), DIGESTS[:4], tmp_path)


def test_a_failure_leaves_no_cache_entry(clips, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="no space"):
        extract_table(as_dataset(clips), DIGESTS, tmp_path, "mfcc")
    assert list(tmp_path.iterdir()) == []
