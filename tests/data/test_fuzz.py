"""Generated file names, zips and audio files are used or refused with an error message of the kit.

Run: python -m pytest tests/data/test_fuzz.py

By default each test has a few examples, the same in each run. For many new examples:
FUZZ_EXAMPLES=20000 python -m pytest tests/data/test_fuzz.py. Add each failure to the test as an `@example`.
"""

import contextlib
import io
import os
import string
import tempfile
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_corpora import WHOLE_CORPORA

from utils.data.audio import MAX_PEAK, MAX_SECONDS, MIN_SECONDS, SAMPLING_RATE, AudioError, read_waveform
from utils.data.corpora import AUDIO_SUFFIXES, CORPORA, parse_clip
from utils.data.labels import EMOTIONS
from utils.data.unpack import MARKER, unpack
from utils.runtime import InputError

NUM_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))


def fuzz(num_examples: int):
    """Return the settings of a test.

    Args:
        num_examples: number of examples without FUZZ_EXAMPLES.
    """
    return settings(
        max_examples=NUM_EXAMPLES or num_examples,
        derandomize=not NUM_EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# ---------------------------------------------------------------------------------------------------
# File names

SPEAKERS = {
    name: {parse_clip(f"{stem}.wav").speaker for stem in stems} for name, stems in WHOLE_CORPORA.items()
}
# Names of songs by actor 18, which do not exist, and of more than the default 16 demo speakers are accepted.
SPEAKERS |= {"ravdess_song": SPEAKERS["ravdess"], "demo": {f"demo-{actor:02d}" for actor in range(1, 25)}}
SENTENCES = {"kids are talking by the door", "dogs are sitting by the door"}

# ASCII characters, and others that Unicode treats as equivalent to them.
two_digits = st.text(st.sampled_from("0123456789٣٠²௧"), min_size=1, max_size=3)
ravdess_like = st.builds("-".join, st.lists(two_digits, min_size=6, max_size=8))
real_parts = st.sampled_from([f"{number:02d}" for number in range(26)])
ravdess_near = st.builds("-".join, st.tuples(st.just("03"), *[real_parts] * 6))
tess_like = st.builds(
    "_".join,
    st.tuples(
        st.sampled_from(["OAF", "OA", "YAF", "yaf", "oAf", "XAF", ""]),
        st.text(st.sampled_from(string.ascii_letters + "KſéßıİŁ_- \n\0"), max_size=6),
        st.sampled_from(["angry", "SAD", "ſad", "ps", "Pſ", "fear", "neutral", "calm", "diſguſt", "sad\n"]),
    ),
)
real_names = st.sampled_from([name for names in WHOLE_CORPORA.values() for name in names])
suffixes = st.sampled_from([*AUDIO_SUFFIXES, ".WAV", ".Flac", ".wav ", ".wav\0", ".mp3", "", ".", ".ﬂac"])
any_text = st.binary(max_size=20).map(lambda name: name.decode("utf-8", "surrogateescape"))
copies = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "Copy of "]), real_names, st.sampled_from(["", " - Copy", " (٣)", " (2)"])
    ),
)
stems = ravdess_like | ravdess_near | tess_like | real_names | copies | any_text
folders = st.sampled_from(["", "Actor_01/", "/", "../", "C:/", "日本/", "a\0b/", "\udce9/"])


@fuzz(400)
@given(folder=folders, stem=stems, suffix=suffixes)
@example(folder="", stem="YAF_dog_ſad", suffix=".wav")  # raised KeyError
@example(folder="", stem="03-01-01-01-01-01-1٣", suffix=".wav")  # gave the speaker ravdess-1٣
@example(folder="", stem="OAF_bacK_fear", suffix=".wav")  # gave a word with the Kelvin sign
def test_any_file_name_gives_a_clip_with_valid_attributes_or_none(folder, stem, suffix):
    clip = parse_clip(folder + stem + suffix)
    if clip is None:
        assert stem not in all_real_names or suffix.lower() not in AUDIO_SUFFIXES
        return
    corpus = CORPORA[clip.corpus]
    assert clip.emotion in EMOTIONS and clip.speaker in SPEAKERS[clip.corpus]
    assert clip.gender in ("male", "female") and clip.intensity in ("normal", "strong")
    assert clip.text.isascii() and clip.text.islower()
    assert clip.text in SENTENCES or corpus.name not in ("ravdess", "ravdess_song", "demo")
    assert clip.clip in stem and clip.clip.isascii()
    # The attributes depend only on the stem, not on the folder and the format.
    assert (
        parse_clip(clip.clip + ".flac") == clip == parse_clip(PurePosixPath("elsewhere", clip.clip + ".wav"))
    )


all_real_names = {name for names in WHOLE_CORPORA.values() for name in names}


# ---------------------------------------------------------------------------------------------------
# Zips

CLIP = "03-01-01-01-01-01-01.wav"
parts = st.sampled_from(
    ["", ".", "..", "Actor_01", "ACTOR_01", "C:", "é", "e\u0301", "con", "a" * 300, " ", "~", "\udce9", "\n"]
)
member_names = st.builds(
    lambda folders, separator, name: separator.join([*folders, name]),
    st.lists(parts, max_size=3),
    st.sampled_from(["/", "\\"]),
    st.sampled_from(
        [CLIP, CLIP.upper(), CLIP[:-3] + "WAV", "OAF_back_fear.wav", "notes.txt", CLIP + "/", ".."]
    ),
)
members = st.tuples(
    member_names,
    st.binary(max_size=60) | st.integers(0, 20_000).map(bytes),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.sampled_from([0, 0o100644, 0o40755, 0o120777, 0o10644, 0o20644]),
)


@st.composite
def hostile_zips(draw) -> bytes:
    """Draw a zip with unusual members, with some of its bytes changed, removed or inserted."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content, method, mode in draw(st.lists(members, min_size=1, max_size=4)):
            member = zipfile.ZipInfo("x")
            member.filename = name or "x"
            member.compress_type, member.external_attr = method, mode << 16
            with contextlib.suppress(ValueError), warnings.catch_warnings(action="ignore"):
                archive.writestr(member, content)  # raises for lone surrogates, and warns of duplicates
    return draw(mutations(buffer.getvalue()))


@st.composite
def mutations(draw, content: bytes) -> bytes:
    """Draw the same bytes, or bytes with a few changes, removals, repetitions or insertions.

    Most changes are in the first or last hundred bytes, where audio files and zips have their headers.
    """
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        if not content:
            break
        offset = draw(st.integers(0, min(99, len(content) - 1)))
        at = draw(st.sampled_from([offset, len(content) - 1 - offset]) | st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(["byte", "bits", "number", "cut", "drop", "insert", "double"]))
        if kind == "byte":
            content[at] = draw(st.integers(0, 255))
        elif kind == "bits":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":  # sizes, offsets, rates, counts
            number = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
            content[at : at + 4] = number.to_bytes(4, draw(st.sampled_from(["little", "big"])))
        elif kind == "cut":
            del content[at:]
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 50))]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        else:
            content[at:at] = content[max(0, at - draw(st.integers(1, 500))) : at]
    return bytes(content)


@fuzz(150)
@given(content=hostile_zips() | st.binary(max_size=200).map(lambda tail: b"PK\x03\x04" + tail))
def test_any_zip_is_unpacked_to_clips_or_refused_and_no_other_folder_changes(content):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "a", "b")
        folder.mkdir(parents=True)
        (folder / "in.zip").write_bytes(content)
        try:
            unpack(folder / "in.zip", folder / "out")
        except InputError as error:
            assert "in.zip" in str(error)
            assert not (folder / "out").exists()
        else:
            for path in (folder / "out").rglob("*"):
                assert path.is_dir() or (path.is_file() and not path.is_symlink())
                assert path.is_dir() or path.name == MARKER or parse_clip(path)
        assert {path.name for path in folder.iterdir()} <= {"in.zip", "out", ".out.lock"}
        assert list(Path(scratch).iterdir()) == [folder.parent] and list(folder.parent.iterdir()) == [folder]


# ---------------------------------------------------------------------------------------------------
# Audio files


def encode(form: str, subtype: str, sampling_rate: int, num_channels: int) -> bytes:
    times = np.arange(int(0.4 * sampling_rate)) / sampling_rate
    tone = 0.5 * np.sin(2 * np.pi * 220 * times) + np.random.default_rng(0).normal(0, 0.01, len(times))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([tone] * num_channels, 1), sampling_rate, format=form, subtype=subtype)
    return buffer.getvalue()


AUDIO_FILES = [
    encode(*kind)
    for kind in (
        ("WAV", "PCM_16", 16_000, 1),
        ("WAV", "PCM_U8", 8_000, 2),
        ("WAV", "FLOAT", 16_000, 1),
        ("WAV", "DOUBLE", 8_000, 1),
        ("WAV", "IMA_ADPCM", 16_000, 1),
        ("WAV", "MS_ADPCM", 16_000, 1),
        ("WAV", "GSM610", 8_000, 1),
        ("WAVEX", "PCM_24", 16_000, 6),
        ("RF64", "PCM_16", 16_000, 1),
        ("AIFF", "PCM_16", 16_000, 1),
        ("AIFF", "FLOAT", 16_000, 1),
        ("FLAC", "PCM_16", 16_000, 1),
        ("FLAC", "PCM_24", 48_000, 2),
        ("OGG", "VORBIS", 16_000, 1),
        ("OGG", "OPUS", 16_000, 1),
        ("MP3", "MPEG_LAYER_III", 16_000, 1),
        ("AU", "ULAW", 8_000, 1),
        ("CAF", "ALAC_16", 16_000, 1),
        ("W64", "PCM_16", 16_000, 1),
        ("NIST", "PCM_16", 16_000, 1),
    )
]


@fuzz(400)
@given(content=st.sampled_from(AUDIO_FILES).flatmap(mutations) | st.binary(max_size=300))
def test_any_bytes_give_a_valid_waveform_or_an_error_message(content):
    try:
        waveform = read_waveform(content)
    except AudioError as error:
        assert str(error)
        return
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert np.isfinite(waveform).all() and np.abs(waveform).max() <= 2 * MAX_PEAK
    assert MIN_SECONDS * SAMPLING_RATE - 1 <= len(waveform) <= MAX_SECONDS * SAMPLING_RATE + 1


@pytest.mark.parametrize("content", AUDIO_FILES)
def test_the_unchanged_audio_files_are_valid(content):
    assert len(read_waveform(content)) >= 0.3 * SAMPLING_RATE
