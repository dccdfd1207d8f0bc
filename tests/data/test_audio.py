"""Decoding: the file formats of real corpora, damaged files, and the cache.

Run: python -m pytest tests/data/test_audio.py
"""

import contextlib
import io
import os
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
from conftest import PROJECT

from utils.data import audio, decoding
from utils.data.audio import MAX_FILE_BYTES, AudioError, read_waveform
from utils.data.decoding import Waveforms, decode_files, file_digest
from utils.data.synthesis import synthesise

HERTZ = 440


def tone(sampling_rate=16_000, seconds=0.5, peak=0.5, hertz=HERTZ):
    times = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return peak * np.sin(2 * np.pi * hertz * times)


def encode(samples, sampling_rate=16_000, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sampling_rate, **({"format": "WAV"} | options))
    return buffer.getvalue()


def level_at(waveform, hertz):
    """Amplitude of one frequency in the middle of a clip."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(middle)) / 16_000)
    window = np.hanning(len(middle))
    return 2 * abs(np.sum(window * turns * middle)) / window.sum()


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WAV file of these chunks, padded to even lengths as the format requires."""
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def format_chunk(sampling_rate=16_000, bits=16):
    frame = bits // 8
    return b"fmt ", struct.pack("<HHIIHH", 1, 1, sampling_rate, sampling_rate * frame, frame, bits)


PCM = (tone() * 32767).round().astype("<i2").tobytes()
FMT, DATA = format_chunk(), (b"data", PCM)
WAV = riff(FMT, DATA)


@pytest.mark.parametrize("sampling_rate", [8000, 16_000, 22_050, 24_414, 44_100, 48_000, 96_000])
def test_any_rate_becomes_16_khz_with_the_pitch_and_level_kept(tmp_path, sampling_rate):
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(sampling_rate, seconds=1), sampling_rate)
    waveform = read_waveform(path)
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and waveform.flags.c_contiguous
    assert abs(len(waveform) - 16_000) <= 1
    assert np.argmax(np.abs(np.fft.rfft(waveform, 16_000))) == HERTZ  # bins of 1 Hz
    assert level_at(waveform, HERTZ) == pytest.approx(0.5, rel=0.01)


def test_resampling_does_not_alias():
    samples = tone(96_000, seconds=1) + tone(96_000, seconds=1, hertz=12_000)
    waveform = read_waveform(encode(samples / 2, 96_000))
    assert level_at(waveform, HERTZ) == pytest.approx(0.25, rel=0.01)
    assert level_at(waveform, 4000) < 1e-4


def test_stereo_is_mixed_to_the_mean(tmp_path):
    path = tmp_path / "stereo.wav"
    left, right = tone(), tone(hertz=1000, peak=0.3)
    soundfile.write(path, np.stack([left, right], axis=1), 16_000)
    assert np.allclose(read_waveform(path), (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        ("AIFF", "PCM_16", 1e-4),  # as YAF_germ_angry.wav of TESS
        ("AIFF", "FLOAT", 1e-6),
        ("FLAC", "PCM_16", 1e-4),
        ("WAVEX", "PCM_16", 1e-4),
        ("W64", "PCM_16", 1e-4),
        ("MP3", "MPEG_LAYER_III", 0.05),
        ("OGG", "VORBIS", 0.05),
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("WAV", "ULAW", 0.05),
    ],
)
def test_the_format_is_detected_from_the_content(tmp_path, form, subtype, tolerance):
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(), 16_000, format=form, subtype=subtype)
    waveform = read_waveform(path)
    middle = slice(1000, -1000)  # lossy codecs are inaccurate at the ends
    assert waveform.dtype == np.float32 and len(waveform) == 8000
    assert np.abs(waveform - tone())[middle].max() < tolerance


@pytest.mark.parametrize(
    "content",
    [
        riff(FMT, (b"LIST", b"INFOISFT\x06\0\0\0Lavf60"), DATA),
        riff((b"bext", bytes(602)), FMT, DATA),
        riff(FMT, (b"odd ", bytes(7)), DATA),
        riff((b"odd ", bytes(7)), FMT, (b"odd ", bytes(1)), DATA),
        riff(FMT, DATA, (b"LIST", b"INFOISFT\x06\0\0\0Lavf60")),
        riff(FMT, DATA, (b"id3 ", b"\xff" * 33)),
        WAV + b"trailing bytes",
        riff(FMT, DATA).replace(b"data" + struct.pack("<I", len(PCM)), b"data\xff\xff\xff\xff"),  # streamed
    ],
    ids=["list", "bext", "odd", "two-odd", "list-after", "odd-after", "trailing-bytes", "streamed"],
)
def test_the_data_chunk_may_stand_anywhere_in_a_wav_file(content):
    assert np.array_equal(read_waveform(content), read_waveform(WAV))
    assert len(read_waveform(WAV)) == 8000


@pytest.mark.parametrize("padding", [b"\0", b""])
def test_an_odd_number_of_bytes_is_not_a_truncation(padding):
    samples = (tone() * 100 + 128).astype(np.uint8).tobytes()[:7999]
    content = riff(format_chunk(bits=8), (b"data", samples))
    assert content[-1:] == b"\0"
    assert len(read_waveform(content[:-1] + padding)) == 7999


def test_the_quietest_clips_of_ravdess_are_not_silent():
    waveform = read_waveform(encode(tone(48_000, peak=0.01), 48_000))
    assert np.abs(waveform).max() == pytest.approx(0.01, rel=0.05)


def test_path_string_and_bytes_give_the_same_waveform(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(24_414), 24_414)
    waveform = read_waveform(path)
    assert np.array_equal(waveform, read_waveform(str(path)))
    assert np.array_equal(waveform, read_waveform(path.read_bytes()))


def test_without_file_descriptors_as_on_windows_the_waveform_is_the_same(tmp_path, monkeypatch):
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(16_000) / 10), 16_000)
    expected = read_waveform(path)
    monkeypatch.setattr(audio, "OPENS_DESCRIPTORS", False)
    np.testing.assert_array_equal(read_waveform(path), expected)


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
NOT_FINITE = tone()
NOT_FINITE[4000] = np.nan
INFINITE = np.where(np.arange(8000) == 4000, np.inf, tone())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (
            b"404: Not Found, and not a sound file either\n" * 99,
            "not readable as audio .*Format not recognised",
        ),
        (bytes(20_000), "not readable as audio"),
        (WAV[:-100], "truncated: its last 100 bytes"),
        (WAV[:-1], "truncated: its last 1 bytes"),
        (riff((b"bext", bytes(602)), FMT, DATA)[:-100], "truncated: its last 100 bytes"),
        (riff(FMT, (b"LIST", bytes(900)), DATA)[:500], "truncated"),
        (WAV[:44], "truncated: its last 16,000 bytes"),
        (WAV[:30], "truncated"),
        (encode(tone(), format="AIFF")[:-100], "truncated: its last 100 bytes"),
        (encode(NOISE, format="FLAC")[:-100], "not readable as audio"),
        (encode(NOISE, format="FLAC")[:5000], "not readable as audio"),
        (encode(NOISE, format="OGG")[:500], "truncated"),
        (riff(FMT, (b"data", b"")), "too short: 0.000 s, at least 0.25 s"),
        (riff(FMT), "not readable as audio"),
        (encode(tone(seconds=0.2)), "too short: 0.200 s"),
        (encode(tone(48_000, seconds=0.2), 48_000), "too short: 0.200 s"),
        (encode(np.zeros(8000)), "silent"),
        (encode(np.full(8000, 0.3)), "silent"),
        (encode(np.stack([tone(), -tone()], axis=1)), "silent"),
        (encode(NOT_FINITE, subtype="FLOAT"), "not finite"),
        (encode(INFINITE, subtype="FLOAT"), "not finite"),
    ],
)
def test_unusable_audio_gives_the_reason(tmp_path, content, message):
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message):
        read_waveform(path)


# ---------------------------------------------------------------------------------------------------
# The table of unusual files in the README


def ten_minutes_of_silence() -> bytes:
    """Ten minutes in FLAC: 150 kB that decode to 19 MB."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(10):
            file.write(np.zeros(60 * 8000, np.int16))
    return buffer.getvalue()


SPEECH = synthesise(0, "05", "02", "01", "03")  # a sentence of 1.3 s at 16 kHz


def speech(form: str, subtype: str | None = None) -> bytes:
    return encode(SPEECH, format=form, subtype=subtype)


WITH_LENGTH = [
    speech(form, subtype)
    for form, subtypes in {
        "WAV": ("PCM_16", "PCM_24", "ULAW", "IMA_ADPCM"),
        "WAVEX": ("FLOAT",),
        "RF64": ("PCM_16", "FLOAT"),
        "W64": ("PCM_16", "DOUBLE"),
        "AIFF": ("PCM_16", "ALAW"),
        "AU": ("PCM_16", "ULAW"),
        "CAF": ("PCM_16", "ALAC_16"),
        "NIST": ("PCM_16", "ULAW"),
        "MP3": (None,),
        "OGG": ("VORBIS", "OPUS"),
    }.items()
    for subtype in subtypes
]
FLAC = [speech("FLAC"), speech("FLAC", "PCM_24")]
FLAC_FROM_PIPE = FLAC[0].replace(struct.pack(">I", len(SPEECH)), bytes(4), 1)
LAST_FRAME_OF_FLAC = FLAC[0].rindex(FLAC[0][FLAC[0].index(b"\xff\xf8") :][:2])
MP3_FRAME = 288  # bytes, at 64 kbit/s and 16 kHz; the first frame has the length of all
MP3_WITHOUT_LENGTH = encode(SPEECH, format="MP3", bitrate_mode="CONSTANT", compression_level=0.6)[MP3_FRAME:]
WITHOUT_LENGTH = [
    speech("WAV").replace(b"data" + struct.pack("<I", 2 * len(SPEECH)), b"data\xff\xff\xff\xff"),
    speech("W64").replace(struct.pack("<Q", 24 + 2 * len(SPEECH)), struct.pack("<Q", 2**63 - 1)),
    speech("AU").replace(struct.pack(">I", 2 * len(SPEECH)), b"\xff\xff\xff\xff"),
]


def cut(content: bytes, *lengths: int) -> list[bytes]:
    """Return the beginnings of a file: of these lengths, and of parts of it with an odd number of bytes."""
    parts = [int(part * len(content)) | 1 for part in (0.1, 0.3, 0.5, 0.7, 0.9, 0.95)]
    return [content[:length] for length in [*lengths, *parts]]


UNUSUAL_FILES = {
    "integers of 8 (unsigned), 16, 24 or 32 bits, floats of 32 or 64": [
        speech("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    ],
    "8 to 192 kHz": [
        encode(soxr.resample(SPEECH, 16_000, rate), rate) for rate in (8000, 11_025, 44_100, 88_200, 192_000)
    ],
    "another sampling rate": [encode(tone(rate), rate) for rate in (1, 4000, 7999, 192_001, 384_000)],
    "two to six channels": [encode(np.stack([SPEECH] * number, axis=1)) for number in (2, 4, 6)],
    "a constant offset": [encode(0.5 * SPEECH + 0.7)],
    "WAV, RF64, W64, AIFF, AU, CAF, NIST, FLAC, MP3, Ogg Vorbis or Ogg Opus inside": [
        *WITH_LENGTH,
        *FLAC,
        *WITHOUT_LENGTH,
        MP3_WITHOUT_LENGTH,
        FLAC_FROM_PIPE,
    ],
    "another format inside, such as M4A, WMA, WebM, MP2 or VOC, text or bare samples": [
        b"\0\0\0 ftypM4A " + NOISE.tobytes(),
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + NOISE.tobytes(),
        b"\x1a\x45\xdf\xa3" + NOISE.tobytes(),
        (b"\xff\xfd\x88\xc4" + bytes(572)) * 50,  # frames of MPEG layer II
        *[speech(form) for form in ("VOC", "IRCAM", "MAT5", "SVX")],
        *[b"hello\n" * 9999, PCM, NOISE.tobytes(), b"\x7fELF" * 9999],
    ],
    "an MP3 of varying bit rate without its length, as from a pipe": [speech("MP3")[MP3_FRAME:]],
    "no byte": [b""],
    "a header alone, or one sample": [
        riff(FMT, (b"data", b"")),
        encode(np.full(1, 0.5)),
        encode(np.zeros(0), format="AIFF"),
        encode(np.full(1, 0.5), format="FLAC"),
    ],
    "its end cut off: WAV, RF64, W64, AIFF, AU, CAF, NIST, MP3, Ogg": [
        *[part for content in WITH_LENGTH for part in cut(content, len(content) - 3)],
        *cut(encode(SPEECH, endian="BIG"), -1),
        *cut(MP3_WITHOUT_LENGTH, -1),
    ],
    "its end cut off: FLAC, or any format within its header": [
        *[part for content in FLAC for part in cut(content, 20, 45, -1)],
        FLAC[0][:LAST_FRAME_OF_FLAC],
        *[content[:length] for content in WITH_LENGTH for length in (6, 20, 37, 45, 60)],
    ],
    "its end cut off, and no length declared: WAV, W64 or AU from a pipe; FLAC, MP3 or Ogg between two "
    "frames": [
        *[part for content in WITHOUT_LENGTH for part in cut(content)[1:]],
        *[content[: content.rindex(b"OggS")] for content in WITH_LENGTH[-2:]],
        FLAC_FROM_PIPE[:LAST_FRAME_OF_FLAC],
        MP3_WITHOUT_LENGTH[: 20 * MP3_FRAME],
    ],
    "samples that are NaN or infinite": [
        encode(bad, subtype=subtype)
        for bad in (NOT_FINITE, INFINITE, -INFINITE)
        for subtype in ("FLOAT", "DOUBLE")
    ]
    + [
        encode(np.stack([INFINITE, -INFINITE], axis=1), subtype="FLOAT"),
        encode(tone() * 1e300, subtype="DOUBLE"),
    ],
    "samples far beyond any full scale": [encode(tone() * 1e30, subtype="FLOAT")],
    "silence": [encode(np.zeros(8000)), encode(np.full(8000, 0.3)), encode(tone(peak=1e-5), subtype="FLOAT")],
    "ten minutes": [
        ten_minutes_of_silence(),
        encode(np.tile(tone(8000, seconds=60), 10), 8000, subtype="PCM_U8"),
    ],
    "more than 300 MB": [bytes(MAX_FILE_BYTES + 1)],
}


def readme_table() -> dict[str, str]:
    """Property of a clip -> "used ..." or "refused: ..." with the start of the error message in backticks."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- odd files -->")[2].partition("<!-- /odd files -->")[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    return dict(rows)


def likeness(waveform: np.ndarray) -> float:
    """Largest correlation with the beginning of SPEECH at any shift."""
    spoken, heard = (each - each.mean() for each in (SPEECH[: len(waveform)], waveform))
    spectra = [np.fft.rfft(each, 3 * len(SPEECH)) for each in (spoken, heard)]
    products = np.fft.irfft(spectra[0] * spectra[1].conj())
    return products.max() / np.linalg.norm(spoken) / np.linalg.norm(heard)


def test_the_table_of_the_readme_is_complete():
    assert list(readme_table()) == list(UNUSUAL_FILES)


@pytest.mark.parametrize("clip", UNUSUAL_FILES)
def test_unusual_files_are_used_or_rejected_as_in_the_readme(clip, tmp_path):
    result = readme_table()[clip]
    path = tmp_path / "clip.wav"
    for content in UNUSUAL_FILES[clip]:
        path.write_bytes(content)
        if result.startswith("used"):
            waveform = read_waveform(path)
            num_missing = len(SPEECH) - len(waveform)
            # Without a length the delay of an MP3 stays; ADPCM has blocks of a thousand samples.
            assert num_missing > 200 if result == "used, what is left" else -2400 < num_missing < 2
            assert likeness(waveform) > 0.9
        else:
            with pytest.raises(AudioError) as error:
                read_waveform(path)
            assert any(str(error.value).startswith(message) for message in result.split("`")[1::2])


def test_a_constant_offset_is_kept():
    assert read_waveform(encode(tone(peak=0.2) + 0.7)).mean() == pytest.approx(0.7, abs=1e-3)


def test_one_minute_is_accepted_and_more_is_rejected():
    minute = np.tile(tone(8000, seconds=1), 60)
    assert len(read_waveform(encode(minute, 8000))) == 60 * 16_000
    with pytest.raises(AudioError, match="too long: at most 60 s"):
        read_waveform(encode(np.append(minute, 0), 8000))


@pytest.mark.parametrize("declared", ["many samples", "many channels"])
def test_memory_depends_on_the_content_and_not_on_declared_lengths(declared):
    if declared == "many samples":
        content = bytearray(encode(NOISE, format="FLAC"))
        content[21:26] = bytes([content[21] | 0x0F, 255, 255, 255, 255])  # 36 bits, in STREAMINFO
    else:
        content = encode(np.tile(NOISE[:, None], 1000), subtype="PCM_U8")
    tracemalloc.start()
    with contextlib.suppress(AudioError):
        read_waveform(bytes(content))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20e6


def test_decoding_of_a_long_file_stops_after_one_minute():
    content = ten_minutes_of_silence()
    assert len(content) < 200_000
    tracemalloc.start()
    with pytest.raises(AudioError, match="too long"):
        read_waveform(content)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 12e6  # ten minutes would need 19 MB, and twice that during concatenation


# ---------------------------------------------------------------------------------------------------
# A whole corpus


def test_pipes_and_devices_are_rejected_without_reading(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zeros.wav").symlink_to("/dev/zero")
    dataset = decode([tmp_path / "pipe.wav", tmp_path / "zeros.wav"], tmp_path / "cache")
    assert dataset["problem"][:] == ["cannot be read: no permission, a failing disk, or no regular file"] * 2


@pytest.fixture
def files(tmp_path):
    """Three valid clips of different formats and a damaged one, the third."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    soundfile.write(folder / "a.wav", tone(48_000), 48_000)
    soundfile.write(folder / "b.wav", np.stack([NOISE, NOISE], axis=1), 16_000)
    (folder / "c.wav").write_bytes(WAV[:-100])
    soundfile.write(folder / "d.wav", tone(24_414, seconds=0.7), 24_414, format="AIFF")
    return sorted(folder.iterdir())


def decode(paths, cache_dir):
    return decode_files(paths, [file_digest(path) for path in paths], cache_dir, "clips")


def entries(cache_dir):
    return sorted(path.name for path in cache_dir.rglob("*"))


def test_a_corpus_is_decoded_and_unusable_files_are_reported(files, tmp_path):
    dataset = decode(files, tmp_path / "new" / "cache")
    assert dataset.column_names == ["waveform", "problem"]
    assert dataset["problem"][:] == ["", "", "truncated: its last 100 bytes are missing", ""]
    for path, problem, waveform in zip(files, dataset["problem"], Waveforms(dataset), strict=True):
        expected = np.zeros(0) if problem else read_waveform(path)
        assert waveform.dtype == np.float32 and waveform.flags.writeable
        assert np.array_equal(waveform, expected)


def test_the_second_run_reads_the_cache_and_not_the_files(files, tmp_path):
    digests = [file_digest(path) for path in files]
    first = decode_files(files, digests, tmp_path / "cache", "clips")
    before = entries(tmp_path / "cache")
    shutil.rmtree(files[0].parent)
    second = decode_files(files, digests, tmp_path / "cache", "clips")
    assert second.to_dict() == first.to_dict() and len(second) == 4
    for dataset in (first, second):  # memory-mapped, in the first run too
        assert [entry["filename"] for entry in dataset.cache_files] == [str(tmp_path / "cache" / before[0])]
    assert entries(tmp_path / "cache") == before
    assert len(before) == 1 and before[0].endswith(".arrow")  # no temporary file is left


def test_the_cache_depends_on_content_and_order(files, tmp_path):
    first = decode(files, tmp_path / "cache")
    moved = [shutil.copy(path, tmp_path / f"moved-{path.name}") for path in files]
    assert decode(moved, tmp_path / "cache").to_dict() == first.to_dict()
    assert len(entries(tmp_path / "cache")) == 1

    assert decode(files[::-1], tmp_path / "cache")["problem"][:] == first["problem"][::-1]
    assert len(entries(tmp_path / "cache")) == 2

    files[2].write_bytes(WAV)
    mended = decode(files, tmp_path / "cache")
    assert mended["problem"][:] == [""] * 4 and len(mended["waveform"][2]) == 8000
    assert len(entries(tmp_path / "cache")) == 3


def test_a_temporary_read_error_leaves_no_cache_entry(files, tmp_path):
    digests = [file_digest(path) for path in files]
    files[1].rename(tmp_path / "away.wav")
    with pytest.raises(FileNotFoundError, match=r"b\.wav"):
        decode_files(files, digests, tmp_path / "cache", "clips")
    assert entries(tmp_path / "cache") == []
    (tmp_path / "away.wav").rename(files[1])
    assert len(decode_files(files, digests, tmp_path / "cache", "clips")["waveform"][1]) == 8000


def test_a_file_is_read_again_only_if_it_may_have_changed(tmp_path, monkeypatch):
    """Changes are detected although the size is unchanged; new times alone do not change the digest."""
    path, cache = tmp_path / "clip.wav", tmp_path / "cache"
    read = []
    monkeypatch.setattr(decoding, "file_digest", lambda path: read.append(path) or file_digest(path))
    soundfile.write(path, np.full(8_000, 0.1), 16_000)
    first = decoding.file_digests([path], cache)
    assert first == [file_digest(path)] and len(read) == 1
    assert decoding.file_digests([path], cache) == first
    assert len(read) == 2, "written just before it was read, so it may have changed since"

    monkeypatch.setattr(decoding, "CLOCK_STEP", 0)
    assert decoding.file_digests([path], cache) == first and len(read) == 2
    status = path.stat()
    soundfile.write(path, np.full(8_000, 0.2), 16_000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as programs that copy the times do
    second = decoding.file_digests([path], cache)
    assert second == [file_digest(path)] != first and len(read) == 3

    os.utime(path)
    assert decoding.file_digests([path], cache) == second and len(read) == 4
    path.unlink()
    assert decoding.file_digests([path], cache) == [""]


def test_a_damaged_digest_index_is_ignored(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.full(8_000, 0.1), 16_000)
    (tmp_path / "xxh3.json").write_text('{"half')
    assert decoding.file_digests([path], tmp_path) == [file_digest(path)]
