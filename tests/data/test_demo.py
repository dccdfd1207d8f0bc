"""The synthetic demo corpus: complete, reproducible, with the intended prosody.

Run: python -m pytest tests/data/test_demo.py
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import librosa
import numpy as np
import pytest
import soundfile

from utils.data import demo
from utils.data.corpora import CORPORA, parse_clip
from utils.data.demo import make_demo_corpus
from utils.data.labels import EMOTIONS

NUM_SPEAKERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_demo_corpus(tmp_path_factory.mktemp("demo"), num_speakers=NUM_SPEAKERS)


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mean_over_speakers(folder, measure, emotion: str, intensity: str) -> float:
    """Mean of `measure(waveform)` over both sentences of all speakers."""
    code = f"{EMOTIONS.index(emotion) + 1:02d}"
    paths = list(folder.glob(f"*/03-03-{code}-{intensity}-*.wav"))
    assert len(paths) == 2 * NUM_SPEAKERS
    return float(np.mean([measure(soundfile.read(path, dtype="float32")[0]) for path in paths]))


def level_db(waveform) -> float:
    return 20 * np.log10(np.std(waveform))


def pitch_semitones(waveform) -> np.ndarray:
    """Pitch of the loud frames above 100 Hz."""
    f0 = librosa.yin(waveform, fmin=60, fmax=700, sr=16_000, frame_length=1024, hop_length=256)
    rms = librosa.feature.rms(y=waveform, frame_length=1024, hop_length=256)[0]
    return 12 * np.log2(f0[rms > 0.4 * rms.max()] / 100)


def mean_pitch(waveform) -> float:
    return float(np.median(pitch_semitones(waveform)))


def pitch_spread(waveform) -> float:
    return float(np.subtract(*np.percentile(pitch_semitones(waveform), (80, 20))))


def high_share_db(waveform) -> float:
    """Energy of 1-4 kHz relative to that below 1 kHz."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / 16_000)
    return 10 * np.log10(power[(hertz > 1000) & (hertz < 4000)].sum() / power[hertz <= 1000].sum())


def test_names_contain_the_labels(folder):
    paths = sorted(folder.rglob("*.wav"))
    clips = [parse_clip(path) for path in paths]
    assert {clip.corpus for clip in clips} == {"demo"}
    assert len(clips) == len({clip.clip for clip in clips}) == 30 * NUM_SPEAKERS
    corpus = CORPORA["demo"]
    assert 30 * corpus.num_speakers == corpus.num_clips
    expected = {emotion: 2 * NUM_SPEAKERS * (1 if emotion == "neutral" else 2) for emotion in EMOTIONS}
    assert Counter(clip.emotion for clip in clips) == expected
    assert all(clip.intensity == "normal" for clip in clips if clip.emotion == "neutral")
    for path, clip in zip(paths, clips, strict=True):
        actor = int(clip.speaker.removeprefix("demo-"))
        assert path.parent.name == f"Actor_{actor:02d}"
        assert clip.gender == ("male" if actor % 2 else "female")


def test_same_seed_gives_the_same_bytes_for_any_number_of_speakers(folder, tmp_path):
    fewer = contents(make_demo_corpus(tmp_path / "fewer", num_speakers=1))
    whole = contents(folder)
    clips = [name for name in fewer if name.endswith(".wav")]
    assert len(clips) == 30
    assert all(fewer[name] == whole[name] for name in clips)
    other = contents(make_demo_corpus(tmp_path / "other", seed=1, num_speakers=1))
    assert all(fewer[name] != other[name] for name in clips)


def test_a_complete_folder_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(demo, "synthesise", lambda *_: pytest.fail("synthesised a clip again"))
    assert make_demo_corpus(folder, num_speakers=NUM_SPEAKERS) == folder


def test_an_interrupted_folder_is_completed(tmp_path, monkeypatch):
    whole = contents(make_demo_corpus(tmp_path / "whole", num_speakers=1))
    synthesise, made = demo.synthesise, []

    def interrupted(*codes):
        if len(made) == 7:
            raise KeyboardInterrupt
        made.append(codes)
        return synthesise(*codes)

    monkeypatch.setattr(demo, "synthesise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo_corpus(tmp_path / "half", num_speakers=1)
    half = contents(tmp_path / "half")
    assert len(half) == 7 and half.items() <= whole.items()
    monkeypatch.undo()
    assert contents(make_demo_corpus(tmp_path / "half", num_speakers=1)) == whole


def test_deleted_clips_are_restored(tmp_path):
    whole = contents(make_demo_corpus(tmp_path, num_speakers=1))
    for path in sorted(tmp_path.rglob("*.wav"))[::3]:
        path.unlink()
    assert contents(make_demo_corpus(tmp_path, num_speakers=1)) == whole
    (tmp_path / demo.MARKER).unlink()
    next(tmp_path.rglob("*.wav")).unlink()
    assert contents(make_demo_corpus(tmp_path, num_speakers=1)) == whole


def test_a_folder_never_mixes_two_seeds_or_sizes(tmp_path):
    expected = contents(make_demo_corpus(tmp_path / "fresh", seed=1, num_speakers=1))
    make_demo_corpus(tmp_path / "used", seed=0, num_speakers=2)
    assert contents(make_demo_corpus(tmp_path / "used", seed=1, num_speakers=1)) == expected


def test_concurrent_calls_do_not_interfere(tmp_path):
    expected = contents(make_demo_corpus(tmp_path / "alone", num_speakers=1))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: make_demo_corpus(tmp_path / "shared", num_speakers=1), range(2)))
    assert contents(tmp_path / "shared") == expected


@pytest.mark.parametrize("num_speakers", [0, 25])
def test_invalid_numbers_of_speakers_are_rejected(tmp_path, num_speakers):
    with pytest.raises(ValueError, match="expected 1 to 24"):
        make_demo_corpus(tmp_path, num_speakers=num_speakers)
    assert not list(tmp_path.iterdir())


def test_clips_are_valid_audio_files(folder):
    for path in folder.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 1.0 <= info.duration <= 2.2
        waveform = soundfile.read(path)[0]
        assert 0.01 < np.abs(waveform).max() < 0.99
        quiet = max(np.std(waveform[:1000]), np.std(waveform[-1000:]))
        assert level_db(waveform) > 20 * np.log10(quiet) + 10  # silence around the voice


def test_voices_have_the_pitch_of_their_gender(folder):
    for actor in range(1, NUM_SPEAKERS + 1):
        waveform = soundfile.read(next(folder.glob(f"Actor_{actor:02d}/03-03-01-*.wav")), dtype="float32")[0]
        hertz = 100 * 2 ** (mean_pitch(waveform) / 12)
        assert 75 < hertz < 160 if actor % 2 else 140 < hertz < 300


def test_anger_is_loud_and_bright_and_sadness_is_soft_and_slow(folder):
    for actor in range(1, NUM_SPEAKERS + 1):
        angry, sad = (
            soundfile.read(folder / f"Actor_{actor:02d}" / f"03-03-{code}-02-01-01-{actor:02d}.wav")[0]
            for code in ("05", "04")
        )
        assert level_db(angry) > level_db(sad) + 6
        assert high_share_db(angry) > high_share_db(sad) + 3
        assert len(sad) > 1.1 * len(angry)


@pytest.mark.parametrize("high", ["happy", "fearful", "surprised"])
def test_excited_emotions_are_high_pitched(folder, high):
    pitch = mean_over_speakers(folder, mean_pitch, high, "02")
    assert pitch > mean_over_speakers(folder, mean_pitch, "neutral", "01") + 2
    assert pitch > mean_over_speakers(folder, mean_pitch, "sad", "02") + 2


def test_surprise_has_a_larger_pitch_range_than_sadness(folder):
    spread = mean_over_speakers(folder, pitch_spread, "surprised", "02")
    assert spread > mean_over_speakers(folder, pitch_spread, "sad", "02") + 1


def test_strong_intensity_is_further_from_neutral(folder):
    neutral, normal, strong = (
        mean_over_speakers(folder, level_db, emotion, intensity)
        for emotion, intensity in (("neutral", "01"), ("angry", "01"), ("angry", "02"))
    )
    assert neutral + 2 < normal < strong - 1
