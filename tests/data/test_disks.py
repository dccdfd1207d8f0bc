"""Full disks, read-only disks, parallel runs and unusual paths: one-line errors, and old files stay intact.

Run: python -m pytest tests/data/test_disks.py

The disks are small file systems in memory. Without the right to mount them, those tests are skipped.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PROJECT
from test_corpora import ravdess_names
from test_download import (  # noqa: F401  fixtures among them
    NO_WAITS,
    RAVDESS,
    TESS,
    all_files,
    names_of,
    online,
    places,
    server,
    wav_bytes,
    write_clips,
    write_zip,
)

from utils.data.decoding import decode_files, file_digest
from utils.data.download import find_corpora
from utils.data.unpack import unpack
from utils.runtime import InputError, write_json


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a file system of a given size in kilobytes and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
        if not shutil.which("mount") or subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def fill(folder: Path, spare: int) -> Path:
    """Fill a disk except for `spare` bytes, and return the path of the file."""
    (folder / "ballast").write_bytes(b"x" * (shutil.disk_usage(folder).free - spare))
    return folder / "ballast"


def write_noise(folder: Path, num_clips: int = 8) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.wav" for number in range(num_clips)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 16_000), 16_000)
    return paths


def decode(paths, cache_dir):
    return decode_files(paths, [file_digest(path) for path in paths], cache_dir, "clips")


def refuses(message: str):
    return pytest.raises(InputError, match=rf"\A.*{message}.*\Z")  # a dot matches no newline: one line


# ---------------------------------------------------------------------------------------------------
# Full disks


def test_a_zip_that_needs_more_space_than_is_free_is_refused_and_unpacked_clips_are_kept(disk, tmp_path):
    data = disk(200)
    unpack(write_zip(tmp_path / "a.zip", RAVDESS), data / "a")
    before = all_files(data)
    large = write_zip(tmp_path / "b.zip", [(TESS[0], wav_bytes(TESS[0], 200_000))])
    with refuses("disk: 0 MB are needed there and 0 MB are free: make room"):
        unpack(large, data / "b")
    assert all_files(data) == before and not (data / "b.partial").exists()


def test_a_disk_that_becomes_full_during_unpacking_leaves_no_incomplete_folder(disk, tmp_path):
    data = disk(400)
    unpack(write_zip(tmp_path / "a.zip", RAVDESS), data / "a")
    before = all_files(data)
    # There is enough space for the contents of the files, but not for their blocks.
    small_files = [(f"{take:03}/{RAVDESS[0]}", b"x" * 100) for take in range(150)]
    with refuses(r"b\.zip.*the disk is full: make room"):
        unpack(write_zip(tmp_path / "b.zip", small_files), data / "b")
    assert all_files(data) == before and not (data / "b.partial").exists()


def test_a_download_that_fills_the_disk_is_resumed_when_there_is_space(server, online, disk):  # noqa: F811
    data = disk(8000)
    (online["project_root"] / "data").symlink_to(data)
    server.faults = [lambda: fill(data, spare=200_000)]
    with refuses("RAVDESS speech cannot be kept there .No space left on device.; make room"):
        find_corpora(["ravdess"], **online)
    num_bytes = (data / "speech.zip.partial").stat().st_size
    assert 0 < num_bytes < len(server.body)
    (data / "ballast").unlink()
    assert names_of(find_corpora(["ravdess"], **online)["ravdess"]) == list(RAVDESS)
    assert server.requests[1][1] == f"bytes={num_bytes}-"


def test_a_disk_that_becomes_full_during_decoding_leaves_the_cache_unchanged(disk, tmp_path):
    cache = disk(1000)
    paths = write_noise(tmp_path / "clips", num_clips=20)
    first = decode(paths[:8], cache).to_dict()
    before = sorted(cache.rglob("*"))
    with refuses(
        "--cache_dir .*disk: decoded audio cannot be kept there .*No space left.*; make room, or name"
    ):
        decode(paths, cache)
    assert sorted(cache.rglob("*")) == before
    assert decode(paths[:8], cache).to_dict() == first
    subprocess.run(["mount", "-o", "remount,size=8m", str(cache)], check=True)
    assert decode(paths, cache)["problem"][:] == [""] * 20


def test_a_file_that_does_not_fit_on_the_disk_does_not_replace_the_earlier_one(disk):
    runs = disk(100)
    write_json(runs / "metrics.json", {"uar": 0.5})
    fill(runs, spare=0)
    with pytest.raises(OSError, match="No space left"):
        write_json(runs / "metrics.json", list(range(20_000)))
    assert json.loads((runs / "metrics.json").read_text()) == {"uar": 0.5}
    assert names_of(sorted(runs.iterdir())) == ["ballast", "metrics.json"]


# ---------------------------------------------------------------------------------------------------
# Read-only disks


def test_clips_on_a_read_only_disk_are_used_and_zips_are_unpacked_to_the_project(places, disk, tmp_path):  # noqa: F811
    data_dir = disk(400)
    write_clips(data_dir / "Actor_01", RAVDESS)
    write_zip(data_dir / "tess.zip", TESS)
    make_read_only(data_dir)
    files = find_corpora(["ravdess", "tess"], data_dirs=[data_dir], **places)
    assert files["ravdess"] == [data_dir / "Actor_01" / name for name in RAVDESS]
    assert files["tess"] == [places["project_root"] / "data" / "tess" / name for name in TESS]


def test_unpacking_or_downloading_to_a_read_only_project_is_a_one_line_error(
    server,  # noqa: F811
    online,  # noqa: F811
    disk,
    tmp_path,
):
    root = disk(4000)
    arguments = online | {"project_root": root}
    archive = write_zip(tmp_path / "given" / "speech.zip", RAVDESS)
    (root / "data").mkdir()
    make_read_only(root)
    with refuses(
        r"speech\.zip cannot be unpacked to .*Read-only file system.*name the folder with --data_dir"
    ):
        find_corpora(["ravdess"], data_dirs=[archive], **arguments)
    with refuses("data: RAVDESS speech cannot be kept there .Read-only file system.*--data_dir"):
        find_corpora(["ravdess"], **arguments)


def test_a_read_only_cache_is_used_and_new_clips_give_a_one_line_error(disk, tmp_path):
    paths = write_noise(tmp_path / "clips")
    cache = disk(4000)
    first = decode(paths, cache).to_dict()
    make_read_only(cache)
    assert decode(paths, cache).to_dict() == first
    with refuses("--cache_dir .*disk: decoded audio cannot be kept there .*Read-only"):
        decode(paths[::-1], cache)


# ---------------------------------------------------------------------------------------------------
# Parallel processes and unusual paths

DECODE = """
import sys
from pathlib import Path
from utils.data.decoding import decode_files, file_digest
paths = [Path(path) for path in sys.argv[2:]]
digests = [file_digest(path) for path in paths]
print("ready", flush=True)
sys.stdin.readline()
dataset = decode_files(paths, digests, Path(sys.argv[1]), "clips")
print(dataset["problem"][:] == [""] * len(paths), sum(map(len, dataset["waveform"][:])))
"""


@pytest.mark.slow
def test_two_processes_that_decode_to_the_same_cache_in_parallel_both_get_all_clips(tmp_path):
    paths = write_noise(tmp_path / "clips", num_clips=200)
    command = [sys.executable, "-c", DECODE, str(tmp_path / "cache"), *map(str, paths)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=PROJECT, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # start both
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=120)[0] == f"True {200 * 16_000}\n"
        assert process.returncode == 0
    assert len(list((tmp_path / "cache").rglob("*"))) == 1


@pytest.mark.slow
def test_a_run_with_unusual_paths_and_one_test_emotion_has_a_complete_card(tmp_path):
    corpus = tmp_path / "Größe 1" / "日本 語's"
    names = ravdess_names(actors=(1, 2, 3, 4, 19), repetitions=1)
    names += [name for name in ravdess_names(actors=[21], repetitions=2) if name.split("-")[2] == "04"]
    for name in names:
        folder = corpus / f"Actor {name[-2:]}"
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(list(name.encode()))
        soundfile.write(folder / f"{name}.wav", generator.uniform(-0.5, 0.5, 6_000), 16_000)
    command = [sys.executable, "train_baselines.py", "--corpora", "ravdess", "--allow_partial"]
    command += ["--models", "lda", "--features", "mfcc", f"--data_dir={corpus}"]
    command += [f"--output_dir={tmp_path / 'Läufe 1'}", f"--cache_dir={tmp_path / 'Zwischen lager'}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (
        "No test clip is neutral or calm or happy or angry or fearful or disgust or surprised" in done.stdout
    )
    metrics = json.loads((tmp_path / "Läufe 1" / "lda" / "metrics.json").read_text(encoding="utf-8"))
    test = metrics["test"]
    assert test["clips"] == 8 and test["uar"] == test["accuracy"] == test["per_emotion"]["sad"]["recall"]
    assert test["intervals"] == {"accuracy": None, "uar": None}
    assert test["per_emotion"]["happy"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    card = (tmp_path / "Läufe 1" / "lda" / "README.md").read_text(encoding="utf-8")
    assert "nan" not in card.lower().split()


@pytest.mark.slow
def test_a_script_on_a_full_disk_ends_with_a_one_line_error_and_keeps_the_old_figures(disk):
    folder = disk(200)
    figure = "figure = Figure(); figure.subplots().plot(range(9))"
    program = f"""
from matplotlib.figure import Figure
from utils.report.style import save_figure
from utils.runtime import run_script

def main():
    {figure}
    save_figure(figure, {str(folder / "figure.png")!r})

run_script(main)
"""
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=PROJECT, check=True)
    old_figure = (folder / "figure.png").read_bytes()
    fill(folder, spare=4_096)
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device; make room, or name another folder\n"
    assert (folder / "figure.png").read_bytes() == old_figure
    assert sorted(path.name for path in folder.iterdir()) == ["ballast", "figure.png"]
