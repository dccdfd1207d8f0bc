"""Finding, unpacking and downloading corpora, with real zips and a local HTTP server.

Run: python -m pytest tests/data/test_download.py
"""

import contextlib
import hashlib
import io
import logging
import re
import socket
import stat
import struct
import threading
import unicodedata
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from utils.data.corpora import Archive
from utils.data.download import find_corpora
from utils.data.http import download_archive
from utils.data.unpack import unpack
from utils.runtime import InputError

RAVDESS = ("03-01-01-01-01-01-01.wav", "03-01-05-02-02-01-02.wav")
TESS = ("OAF_back_fear.wav", "YAF_dog_ps.wav")
NO_WAITS = (0, 0)


def wav_bytes(name, num_samples=800):
    generator = np.random.default_rng(list(name.encode()))
    buffer = io.BytesIO()
    soundfile.write(buffer, generator.uniform(-0.5, 0.5, num_samples), 16_000, format="WAV")
    return buffer.getvalue()


def write_clips(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(wav_bytes(name))
    return folder


def write_zip(path, members):
    """`members`: names in the zip, or (name or ZipInfo, content) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            name, content = (member, wav_bytes(member)) if isinstance(member, str) else member
            archive.writestr(name, content)
    return path


@pytest.fixture
def places(tmp_path):
    """Arguments that keep `find_corpora` inside `tmp_path` and off the network."""
    root = tmp_path / "kit"
    root.mkdir()
    return {"project_root": root, "kaggle": tmp_path / "kaggle", "offline": True}


def names_of(files):
    return [file.name for file in files]


def all_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


# Places of clips


def test_sources_are_used_in_order(tmp_path, places):
    given, data = tmp_path / "given", places["project_root"] / "data"
    mount = places["kaggle"] / "input" / "ravdess-emotional-speech-audio"
    write_clips(mount, RAVDESS)
    assert find_corpora(["ravdess"], **places)["ravdess"][0].parent == mount
    write_clips(data / "mine", RAVDESS)
    assert find_corpora(["ravdess"], **places)["ravdess"][0].parent == data / "mine"
    write_clips(given / "Actor_01", RAVDESS)
    found = find_corpora(["ravdess"], data_dirs=[given], **places)["ravdess"]
    assert found == [given / "Actor_01" / name for name in RAVDESS]


def test_each_corpus_is_read_from_the_first_place_that_contains_it(tmp_path, places, caplog):
    given = write_clips(tmp_path / "given", RAVDESS)
    write_clips(places["project_root"] / "data", TESS)
    with caplog.at_level(logging.INFO):
        found = find_corpora(["ravdess", "tess"], data_dirs=[given], **places)
    assert names_of(found["ravdess"]) == list(RAVDESS)
    assert names_of(found["tess"]) == list(TESS)
    assert f"TESS: no clip in --data_dir {given}" in caplog.text
    assert f"RAVDESS speech: 2 files from --data_dir {given}" in caplog.text


@pytest.mark.parametrize("mount", ["{slug}", "datasets/{owner}/{slug}"])
def test_both_kinds_of_kaggle_mounts_with_nested_copies_and_mixed_case(places, mount):
    mount = mount.format(owner="ejlok1", slug="toronto-emotional-speech-set-tess")
    base = places["kaggle"] / "input" / mount / "TESS Toronto emotional speech set data"
    write_clips(base / "OAF_Fear", TESS[:1])
    write_clips(base / "YAF_pleasant_surprised", TESS[1:])
    write_clips(base / base.name / "OAF_Fear", TESS[:1])
    (base / "OAF_Fear" / "._OAF_back_fear.wav").write_bytes(b"resource fork")
    (base / ".DS_Store").write_bytes(b"")
    found = find_corpora(["tess"], **places)["tess"]
    assert sorted(names_of(found)) == sorted([TESS[0], TESS[0], TESS[1]])
    assert found == sorted(found)


def test_runs_environments_and_partial_folders_are_not_searched(places):
    root = places["project_root"]
    for folder in ("runs/x", ".venv/x", "data/.hidden", "data/archive.partial"):
        write_clips(root / folder, RAVDESS)
    with pytest.raises(InputError, match="no clip of RAVDESS speech"):
        find_corpora(["ravdess"], **places)


def test_linked_folders_and_circular_links_are_followed(tmp_path, places):
    data = places["project_root"] / "data"
    data.mkdir()
    (data / "ravdess").symlink_to(write_clips(tmp_path / "disk", RAVDESS))
    (tmp_path / "disk" / "back").symlink_to(data)
    assert names_of(find_corpora(["ravdess"], **places)["ravdess"]) == list(RAVDESS)


def test_a_missing_corpus_lists_places_and_solutions(tmp_path, places):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        find_corpora(["ravdess"], data_dirs=[tmp_path / "empty"], **places)
    root, slug = places["project_root"], "ravdess-emotional-speech-audio"
    for expected in (
        f"--data_dir {tmp_path / 'empty'}",
        str(root / "data"),
        f"zips there and in {root}",
        str(tmp_path / "kaggle" / "input" / slug),
        str(tmp_path / "kaggle" / "input" / "datasets" / "uwrfkaggler" / slug),
        "https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
        "offline",
        f"put the zip into {root}",
        f"uwrfkaggler/{slug}",
        "--demo",
    ):
        assert expected in str(error.value)


def test_files_of_data_dir_that_are_not_used_are_counted_in_one_line(tmp_path, places, caplog):
    folder = write_clips(tmp_path / "EMO-DB", ["03a01Wa.wav", "08a02Ta.wav", "x.m4a", "clips.rar", *RAVDESS])
    write_clips(folder, ["._03a01Wa.wav", ".DS_Store", "read me.txt", "LICENSE", "labels.CSV", "x.png"])
    find_corpora(["ravdess"], data_dirs=[folder], **places)
    (line,) = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    example = folder / "03a01Wa.wav"
    assert line.startswith(
        f"--data_dir: not used: 2 .wav, 1 .rar, 1 .m4a files, such as {example}. A clip of"
    )
    with pytest.raises(InputError, match=r"- --data_dir .*EMO-DB \(not used: 4 .wav, 1 .rar, 1 .m4a files, "):
        find_corpora(["tess"], data_dirs=[folder], **places)
    caplog.clear()
    find_corpora(["ravdess"], data_dirs=[write_clips(tmp_path / "all", RAVDESS)], **places)
    assert "not used" not in caplog.text


def test_clips_in_other_formats_are_named_before_the_search_goes_on(tmp_path, places, caplog):
    folder = write_clips(tmp_path / "given", [f"{name[:-4]}.m4a" for name in RAVDESS])
    write_zip(folder / "a.zip", [f"Actor_01/{TESS[0][:-4]}.wma", f"__MACOSX/._{TESS[0]}"])
    data = write_clips(places["project_root"] / "data", [f"{TESS[1][:-4]}.m4a", "other.m4a"])
    write_zip(places["project_root"] / "c.zip", [f"{RAVDESS[0][:-4]}.aac", f"{RAVDESS[0][:-4]}.txt"])
    for corpus in ("ravdess", "tess"):
        with pytest.raises(InputError, match="no clip of"):
            find_corpora([corpus], data_dirs=[folder], **places)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("--data_dir: not used: 2 .m4a, 1 .wma files, such as ")
    assert lines[1].endswith("given; searching elsewhere")
    member = places["project_root"] / "c.zip" / f"{RAVDESS[0][:-4]}.aac"
    assert lines[2] == f"RAVDESS speech: not used: 1 .aac file, such as {member}; convert them to WAV"
    file = data / f"{TESS[1][:-4]}.m4a"
    assert lines[5] == f"TESS: not used: 1 .m4a file, such as {file}; convert them to WAV"


def test_clips_of_every_format_are_found_and_of_two_formats_the_lossless_one(tmp_path, places, caplog):
    names = [f"{RAVDESS[0][:-4]}.mp3", f"{RAVDESS[1][:-4]}.OGG", f"Copy of {RAVDESS[1][:-4]}.flac"]
    folder = write_clips(tmp_path / "given", names)
    assert names_of(find_corpora(["ravdess"], data_dirs=[folder], **places)["ravdess"]) == [
        names[0],
        names[2],
    ]
    assert f"not used: 1 .ogg file, such as {folder / names[1]}" in caplog.text


@pytest.mark.parametrize("name", ["missing", "notes.txt"])
def test_an_invalid_data_dir_is_rejected(tmp_path, places, name):
    (tmp_path / "notes.txt").write_text("no zip")
    with pytest.raises(InputError, match=rf"--data_dir .*{name}: expected a folder or zip"):
        find_corpora(["ravdess"], data_dirs=[tmp_path / name], **places)


# Zips


@pytest.mark.parametrize("place", [".", "data"])
def test_a_zip_in_the_project_is_unpacked(places, place):
    root = places["project_root"]
    zip_path = write_zip(root / place / "Größe 1.zip", [f"Actor 01/{name}" for name in RAVDESS])
    found = find_corpora(["ravdess"], **places)["ravdess"]
    assert found == [root / "data" / "Größe 1" / "Actor 01" / name for name in RAVDESS]
    assert found[0].read_bytes() == wav_bytes(f"Actor 01/{RAVDESS[0]}")
    assert zip_path.exists(), "a zip of the user is kept"


def test_zips_of_data_dir_are_unpacked_below_the_project(tmp_path, places):
    downloads = tmp_path / "downloads"
    # Kaggle names every download archive.zip; the second must not replace the first.
    write_zip(downloads / "a" / "archive.zip", RAVDESS)
    given = write_zip(tmp_path / "archive.ZIP", TESS)
    before = all_files(tmp_path)
    for _ in range(2):
        found = find_corpora(["ravdess", "tess"], data_dirs=[downloads, given], **places)
        data = places["project_root"] / "data"
        assert found["ravdess"] == [data / "archive" / name for name in RAVDESS]
        assert found["tess"] == [data / "archive-2" / name for name in TESS]
        assert all(path.is_relative_to(data) for path in set(all_files(tmp_path)) - set(before))


def test_a_zip_next_to_its_unpacked_clips_is_not_unpacked(tmp_path, places):
    for folder in (tmp_path / "given", places["project_root"] / "data"):
        write_clips(folder / "by hand", RAVDESS)
        write_zip(folder / "archive.zip", RAVDESS)
    find_corpora(["ravdess"], data_dirs=[tmp_path / "given"], **places)
    find_corpora(["ravdess"], **places)
    assert not list(places["project_root"].glob("data/archive*/"))


def test_a_zip_is_unpacked_again_only_if_it_changed(places):
    zip_path = write_zip(places["project_root"] / "a.zip", RAVDESS[:1])
    first = find_corpora(["ravdess"], **places)["ravdess"]
    changed = first[0].stat().st_ctime_ns
    assert find_corpora(["ravdess"], **places)["ravdess"] == first
    assert first[0].stat().st_ctime_ns == changed
    write_zip(zip_path, RAVDESS[1:])
    assert names_of(find_corpora(["ravdess"], **places)["ravdess"]) == list(RAVDESS[1:])


def test_only_clips_are_unpacked(tmp_path):
    junk = [".DS_Store", "__MACOSX/Actor_01/._" + RAVDESS[0], "readme.txt", "other.wav", "x.wav/"]
    members = ["Actor_01/" + RAVDESS[0], *((name, b"junk") for name in junk)]
    unpack(write_zip(tmp_path / "a.zip", members), tmp_path / "out" / "a")
    assert [path for path in all_files(tmp_path / "out") if path.name[0] != "."] == [
        tmp_path / "out" / "a" / "Actor_01" / RAVDESS[0]
    ]


def test_backslashes_of_windows_zips_are_folders(places):
    # ZipInfo would convert the backslash, so the bytes of the file are changed instead.
    path = write_zip(places["project_root"] / "a.zip", [f"Actor_01/{RAVDESS[0]}"])
    path.write_bytes(path.read_bytes().replace(b"Actor_01/", b"Actor_01\\"))
    (found,) = find_corpora(["ravdess"], **places)["ravdess"]
    assert found.parts[-2:] == ("Actor_01", RAVDESS[0])


def test_partial_folders_of_an_interrupted_run_are_replaced(places):
    root = places["project_root"]
    write_zip(root / "a.zip", RAVDESS)
    write_clips(root / "data" / "a.partial", ["03-01-08-01-01-01-24.wav"])
    assert names_of(find_corpora(["ravdess"], **places)["ravdess"]) == list(RAVDESS)
    assert not (root / "data" / "a.partial").exists()


def test_a_folder_of_the_user_is_never_replaced(tmp_path):
    folder = write_clips(tmp_path / "a", TESS)
    with pytest.raises(InputError, match="exists and was not unpacked from a zip"):
        unpack(write_zip(tmp_path / "a.zip", RAVDESS), folder)
    assert names_of(all_files(folder)) == list(TESS)


def info(name, **attributes):
    member = zipfile.ZipInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member


def rejects(path, destination, message):
    """Check that the error names the zip and the reason, and that no file is left behind."""
    before = all_files(path.parent.parent)
    with pytest.raises(InputError, match=f"(?s){path.name}.*{message}"):
        unpack(path, destination)
    assert all_files(path.parent.parent) == before
    assert not destination.exists()


@pytest.mark.parametrize(
    "member",
    [f"../{RAVDESS[0]}", f"a/../../{RAVDESS[0]}", f"/tmp/{RAVDESS[0]}", f"C:\\{RAVDESS[0]}", "..\\x.txt"],
)
def test_zips_with_unsafe_members_are_rejected(tmp_path, member):
    path = write_zip(tmp_path / "in" / "evil.zip", [RAVDESS[1], (member, b"x")])
    rejects(path, tmp_path / "out" / "evil", f"{re.escape(repr(member))} would be written elsewhere")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
@pytest.mark.parametrize("name", [RAVDESS[0], "notes.txt"])
def test_zips_with_links_and_devices_are_rejected(tmp_path, kind, name):
    special = info(name, external_attr=(kind | 0o777) << 16)
    path = write_zip(tmp_path / "in" / "evil.zip", [RAVDESS[1], (special, b"/etc/passwd")])
    rejects(path, tmp_path / "out" / "evil", f"{name}' is a link or a device")


@pytest.mark.parametrize(
    "other",
    [
        RAVDESS[0],
        "Actor_01\\" + RAVDESS[0],
        f"ACTOR_01/{RAVDESS[0]}",
        f"Actor_01/{RAVDESS[0][:-3]}WAV",
        f"./Actor_01//{RAVDESS[0]}",
        f"Actor_01/{RAVDESS[0]}/{RAVDESS[1]}",
    ],
)
def test_zips_with_clips_of_one_path_are_rejected(tmp_path, other):
    names = [f"Actor_01/{RAVDESS[0]}", other if "/" in other or "\\" in other else f"Actor_01/{other}"]
    with warnings.catch_warnings(action="ignore"):  # zipfile warns about the plain case when it writes
        path = write_zip(tmp_path / "in" / "double.zip", names)
    rejects(path, tmp_path / "out" / "double", "has the same path as|is inside another clip")


def test_unicode_forms_of_one_name_are_one_folder(tmp_path):
    names = [f"{unicodedata.normalize(form, 'Café')}/{RAVDESS[0]}" for form in ("NFC", "NFD")]
    path = write_zip(tmp_path / "in" / "double.zip", names)
    rejects(path, tmp_path / "out" / "double", "has the same path as")


def test_zips_with_zero_bytes_in_names_are_rejected(tmp_path):
    path = write_zip(tmp_path / "in" / "evil.zip", [f"{RAVDESS[0]}?.exe"])
    path.write_bytes(path.read_bytes().replace(b"?.exe", b"\0.exe"))
    rejects(path, tmp_path / "out" / "evil", "has a zero byte in its name")


def test_control_characters_in_names_are_escaped(tmp_path):
    path = write_zip(tmp_path / "in" / "evil.zip", [(f"../\x1b[2J\n{RAVDESS[0]}", b"x")])
    with pytest.raises(InputError) as stop:
        unpack(path, tmp_path / "out")
    assert str(stop.value).isprintable()


def test_encrypted_clips_are_rejected(tmp_path):
    path = write_zip(tmp_path / "in" / "secret.zip", [RAVDESS[0]])
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(header) + flags] |= 1
    path.write_bytes(content)
    rejects(path, tmp_path / "out" / "secret", f"{RAVDESS[0]}' is encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_bombs_of_other_compression_methods_are_rejected(tmp_path, method):
    path = write_zip(tmp_path / "in" / "bomb.zip", [(info(RAVDESS[0], compress_type=method), bytes(10**6))])
    rejects(path, tmp_path / "out" / "bomb", f"{RAVDESS[0]}' is neither stored nor deflated")


def test_a_zip_bomb_is_rejected_by_its_declared_sizes(tmp_path):
    zeros = info(RAVDESS[0], compress_type=zipfile.ZIP_DEFLATED)
    path = write_zip(tmp_path / "in" / "bomb.zip", [(zeros, bytes(10**6)), RAVDESS[1]])
    rejects(
        path, tmp_path / "out" / "bomb", rf"would grow to 1,001,644, of which 1,000,000 are '{RAVDESS[0]}'"
    )


def test_a_zip_bomb_of_small_overlapping_members_is_rejected(tmp_path):
    names = [f"{take:03}/{RAVDESS[0]}" for take in range(200)]
    path = write_zip(tmp_path / "in" / "bomb.zip", [(name, bytes(60_000)) for name in names])
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        directory = content[archive.start_dir :]
        first = archive.infolist()[0]
        end_of_first = archive.infolist()[1].header_offset
    # Every entry of the directory points to the first member, the only one whose bytes the zip contains.
    for member in archive.infolist():
        entry = directory.index(member.filename.encode()) - 46
        directory = directory[: entry + 42] + struct.pack("<L", first.header_offset) + directory[entry + 46 :]
    end = directory.rindex(b"PK\x05\x06")
    directory = directory[: end + 16] + struct.pack("<L", end_of_first) + directory[end + 20 :]
    path.write_bytes(content[:end_of_first] + directory)
    rejects(path, tmp_path / "out" / "bomb", "would grow to 12,000,000, of which 60,000 are")


def test_the_unpacked_size_is_limited_for_zips_of_any_size(tmp_path):
    path = tmp_path / "in" / "bomb.zip"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(200_000_000)  # a sparse region before the zip, which takes no disk space
    with zipfile.ZipFile(path, "a") as archive:
        for take in range(4):
            archive.writestr(f"{take}/{RAVDESS[0]}", b"x")
            archive.infolist()[-1].file_size = 3 * 10**9  # in the central directory only
    rejects(path, tmp_path / "out" / "bomb", "would grow to 12,000,000,000, of which 3,000,000,000 are")


@pytest.mark.parametrize("declared", [-50, 50])
def test_members_with_false_sizes_are_rejected(tmp_path, declared):
    name = RAVDESS[0]
    path = write_zip(
        tmp_path / "in" / "liar.zip", [(info(name, compress_type=zipfile.ZIP_DEFLATED), wav_bytes(name))]
    )
    size = len(wav_bytes(name))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<L", size), struct.pack("<L", size + declared)))
    rejects(
        path,
        tmp_path / "out" / "liar",
        f"{name}' cannot be unpacked .*(CRC|{size + declared:,} bytes declared)",
    )


def test_digital_silence_is_no_zip_bomb(tmp_path):
    silence = info(RAVDESS[0], compress_type=zipfile.ZIP_DEFLATED)
    path = write_zip(tmp_path / "a.zip", [(silence, bytes(100_000)), RAVDESS[1]])
    unpack(path, tmp_path / "out" / "a")
    assert (tmp_path / "out" / "a" / RAVDESS[0]).stat().st_size == 100_000


def test_damaged_zips_are_rejected_and_leave_no_files(tmp_path, places):
    whole = write_zip(tmp_path / "whole.zip", RAVDESS).read_bytes()
    truncated = tmp_path / "truncated.zip"
    truncated.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"truncated\.zip cannot be unpacked"):
        find_corpora(["ravdess"], data_dirs=[truncated], **places)
    flipped = tmp_path / "flipped.zip"
    flipped.write_bytes(whole.replace(wav_bytes(RAVDESS[1])[-50:], bytes(50)))
    with pytest.raises(InputError, match=rf"flipped\.zip: its member '{RAVDESS[1]}' .*CRC"):
        find_corpora(["ravdess"], data_dirs=[flipped], **places)
    assert all_files(places["project_root"]) == []


# Downloads


class Handler(BaseHTTPRequestHandler):
    """Serve `server.body`, with one fault of `server.faults` per request.

    A fault may be a function, which is called before the response."""

    def do_GET(self):
        body, faults = self.server.body, self.server.faults
        fault = faults.pop(0) if faults else ""
        requested = self.headers.get("Range")
        self.server.requests.append((self.path, requested))
        if callable(fault):
            fault()
        if fault in ("500", "404", "416", "429"):
            self.send_response(int(fault))
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = (
            int(requested.removeprefix("bytes=").removesuffix("-"))
            if requested and fault != "ignore range"
            else 0
        )
        self.send_response(206 if start else 200)
        if fault not in ("no length", "endless"):
            odd = "many" if fault == "odd length" else str(len(body) - start)
            self.send_header("Content-Length", odd)
        self.end_headers()
        if fault == "endless":
            with contextlib.suppress(ConnectionError):
                while not self.server.stopped:
                    self.wfile.write(bytes(100_000))
        end = start + (len(body) - start) // 2 if fault == "cut" else len(body)
        self.wfile.write(body[start:end])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    members = [(f"Actor_01/{name}", wav_bytes(name, num_samples=150_000)) for name in RAVDESS]
    server.body = write_zip(tmp_path / "served" / "speech.zip", members).read_bytes()
    server.faults, server.requests, server.stopped = [], [], False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.stopped = True
    server.shutdown()
    server.server_close()


@pytest.fixture
def online(server, places):
    """Arguments for `find_corpora` with RAVDESS on that server."""
    archive = Archive(
        url=f"http://127.0.0.1:{server.server_port}/speech.zip?download=1",
        filename="speech.zip",
        num_bytes=len(server.body),
        checksum=f"md5:{hashlib.md5(server.body).hexdigest()}",
    )
    return places | {"offline": False, "archives": {"ravdess": archive}, "retry_waits": NO_WAITS}


def test_download_is_unpacked_once_and_its_zip_removed(server, online):
    data = online["project_root"] / "data"
    for _ in range(2):
        found = find_corpora(["ravdess"], **online)["ravdess"]
        assert found == [data / "speech" / "Actor_01" / name for name in RAVDESS]
    assert server.requests == [("/speech.zip?download=1", None)]
    assert not list(data.glob("speech.zip*"))


def test_on_kaggle_files_are_written_where_they_are_not_published(online):
    """A published notebook includes everything below /kaggle/working."""
    kaggle = online["kaggle"]
    root = kaggle / "working" / "speech-emotion-kit"
    given = write_zip(root / "tess.zip", TESS)
    online["project_root"] = root
    for _ in range(2):
        found = find_corpora(["ravdess", "tess"], **online)
        assert names_of(found["tess"]) == list(TESS) and names_of(found["ravdess"]) == list(RAVDESS)
    elsewhere = kaggle / "temp" / root.name / "data"
    assert all(file.is_relative_to(elsewhere) for files in found.values() for file in files)
    assert all_files(kaggle / "working") == [given]


@pytest.mark.parametrize("faults", [["500"], ["429"], ["cut"], ["cut", "500", "cut", "cut", "cut"]])
def test_temporary_faults_are_retried(server, online, faults):
    server.faults = list(faults)
    assert len(find_corpora(["ravdess"], **online)["ravdess"]) == 2
    assert len(server.requests) == len(faults) + 1


@pytest.mark.parametrize("fault", ["", "ignore range", "416"])
def test_partial_download_is_resumed(server, online, fault):
    archive, data = online["archives"]["ravdess"], online["project_root"] / "data"
    data.mkdir()
    # If the server does not resume, the partial file must be discarded, so it has wrong bytes.
    (data / "speech.zip.partial").write_bytes(b"?" * 1000 if fault else server.body[:1000])
    server.faults = [fault]
    download_archive(archive, data / "speech.zip.partial", NO_WAITS)
    assert (data / "speech.zip.partial").read_bytes() == server.body
    assert [requested for _, requested in server.requests] == [
        "bytes=1000-",
        *([None] if fault == "416" else []),
    ]


def test_an_interrupted_download_is_resumed(server, online):
    server.faults = ["cut"]
    find_corpora(["ravdess"], **online)
    (_, first), (_, second) = server.requests
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= len(server.body) // 2


def test_wrong_bytes_are_deleted(server, online):
    checksum = online["archives"]["ravdess"].checksum
    server.body = bytes(len(server.body))
    with pytest.raises(InputError, match=f"expected {checksum.replace(':', ' ')}, got [0-9a-f]{{32}}"):
        find_corpora(["ravdess"], **online)
    server.body = b"<html>sign in first</html>"
    with pytest.raises(InputError, match=r"expected \d+ bytes, the server has 26"):
        find_corpora(["ravdess"], **online)
    assert all_files(online["project_root"]) == []


@pytest.mark.parametrize("fault", ["no length", "odd length"])
def test_a_body_without_declared_length_is_accepted_by_its_checksum(server, online, fault):
    server.faults = [fault]
    assert len(find_corpora(["ravdess"], **online)["ravdess"]) == 2


def test_an_endless_body_is_stopped_at_the_size_of_the_archive(server, online):
    server.faults = ["endless"]
    with pytest.raises(InputError, match=r"expected \d+ bytes, the server sends more"):
        find_corpora(["ravdess"], **online)
    assert all_files(online["project_root"]) == []


def test_a_server_that_refuses_or_is_unreachable_is_reported(server, online):
    server.faults = ["404"]
    with pytest.raises(InputError, match=r"(?s)speech\.zip.*404.*--demo"):
        find_corpora(["ravdess"], **online)
    assert len(server.requests) == 1, "a missing file is not requested again"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/speech.zip"
        online["archives"] = {"ravdess": Archive(url, "speech.zip", 10, "md5:0")}
        with pytest.raises(InputError, match=rf"(?s){url} \(no connection.*--demo"):
            find_corpora(["ravdess"], **online)


def test_missing_disk_space_is_reported_before_the_first_request(server, online):
    archive = online["archives"]["ravdess"]
    online["archives"] = {"ravdess": Archive(archive.url, archive.filename, 10**18, archive.checksum)}
    with pytest.raises(InputError, match=r"MB are needed there and \d+ MB are free"):
        find_corpora(["ravdess"], **online)
    assert server.requests == []


def test_concurrent_calls_download_and_unpack_once(server, online):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: find_corpora(["ravdess"], **online), range(4)))
    assert all(len(result["ravdess"]) == 2 for result in results)
    assert len(server.requests) == 1


def test_the_mirror_of_the_hub_is_used(server, online, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/mirror/")
    archive = online["archives"]["ravdess"]
    url = "https://huggingface.co/datasets/someone/corpus/resolve/main/speech.zip"
    online["archives"] = {"ravdess": Archive(url, "speech.zip", archive.num_bytes, archive.checksum)}
    assert len(find_corpora(["ravdess"], **online)["ravdess"]) == 2
    assert server.requests == [("/mirror/datasets/someone/corpus/resolve/main/speech.zip", None)]
