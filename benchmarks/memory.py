"""What a corpus ten times as large costs: memory and seconds of each script, side by side.

    python -m benchmarks.memory --data_dir ~/clips --clips 256  # a quick look
    python -m benchmarks.memory --data_dir ~/clips --script train_cnn.py
    python -m benchmarks.memory --data_dir ~/clips --script train_baselines.py --options --models lr rf

Each script runs in a fresh process, with a fresh cache: on RAVDESS and TESS as they are, and on both listed
ten times, under other names, by other speakers, each file with one more chunk at its end. Anonymous memory is
what the process itself holds; resident memory counts mapped files too, whose pages the kernel may take back.
The growth per 1,000 clips is that of anonymous memory.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import logging
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from joblib.externals import loky

from utils import runtime
from utils.data import download, table
from utils.data.corpora import CORPORA, Clip, parse_clip

RUNS = {
    "train_baselines.py": ["--models", "lr", "--features", "mfcc", "--robustness=false"],
    "train_cnn.py": ["--num_train_epochs", "1", "--robustness=false"],
    "train_wav2vec2.py": ["--from_config", "tiny", "--num_train_epochs", "1", "--robustness=false"],
}
"""One epoch, for the memory of one is that of all. The test of robustness hears no more of more clips."""

SECTIONS = {
    "reading": ["find_corpora", "read_table", "check_table"],
    "features": ["extract_table", "embed", "FrozenClips", "TrainingSegments"],
    "training": ["fit", "fit_probes", "fine_tune", "keras.Model.fit"],
    "testing": ["predict", "tell"],
}
"""What is timed of a script: functions and classes by the names that it calls them by."""

INTERVAL = 0.05
"""Seconds between two looks at the memory."""

COPY_NAME = re.compile(r"(.+)(-copy\d+)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", required=True, help="folders with RAVDESS speech and TESS")
    parser.add_argument("--script", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--times", type=int, default=10, help="so often the clips are listed")
    parser.add_argument("--clips", type=int, help="so many of the clips, drawn at random; by default all")
    parser.add_argument("--options", nargs=argparse.REMAINDER, help="of the script, in place of its own here")
    args = parser.parse_args()

    files = [path for folder in args.data_dir for path in sorted(Path(folder).rglob("*")) if parse_clip(path)]
    files = sorted(random.Random(0).sample(files, args.clips)) if args.clips else files
    print(f"{runtime.describe_device('cpu')}, {len(files)} clips listed once and {args.times} times")
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        copy_clips(files, 1, small)
        copy_clips(files, args.times, large)
        for script in args.script:
            options = RUNS[script] if args.options is None else args.options
            sizes = {small: len(files), large: args.times * len(files)}
            measured = [measure(script, options, clips, size // len(files)) for clips, size in sizes.items()]
            print(f"\n{script} {' '.join(options)}\n{'':28s}" + "".join(f"{n:>9d}" for n in sizes.values()))
            for what, once in measured[0].items():
                often = measured[1][what]
                ratio = f"{often / once:8.2f} times" if once >= 0.5 else ""
                print(f"{what:28s}{once:9.0f}{often:9.0f}{ratio}")
            grown = measured[1]["anonymous, MB"] - measured[0]["anonymous, MB"]
            print(f"{'MB more per 1,000 clips':28s}{1000 * grown / (len(files) * (args.times - 1)):18.1f}")


def copy_clips(files: list[Path], times: int, folder: Path) -> None:
    """List clips several times: first as they are, then with other names and another chunk at the end."""
    for copy in range(times):
        (folder / str(copy)).mkdir(parents=True)
        for path in files:
            if copy == 0:
                (folder / "0" / path.name).symlink_to(path.resolve())
                continue
            content = bytearray(path.read_bytes())
            order = {b"RIFF": "little", b"FORM": "big"}[bytes(content[:4])]
            content += bytes(len(content) % 2) + b"copy" + (4).to_bytes(4, order) + copy.to_bytes(4, order)
            content[4:8] = (len(content) - 8).to_bytes(4, order)
            (folder / str(copy) / f"{path.stem}-copy{copy}{path.suffix}").write_bytes(content)


def parse_copy(path: Path) -> Clip | None:
    """Stand in for `parse_clip`: a copy is another clip by another speaker."""
    match = COPY_NAME.fullmatch(Path(path).stem)
    if not match:
        return parse_clip(path)
    clip = parse_clip(Path(path).with_stem(match[1]))
    return clip and dataclasses.replace(clip, clip=Path(path).stem, speaker=clip.speaker + match[2])


def list_copies(times: int) -> None:
    """Let this process take copied clips for corpora of so many times the clips and speakers."""

    def copies(speakers: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name + (f"-copy{copy}" * bool(copy)) for copy in range(times) for name in speakers)

    for name, corpus in CORPORA.items():
        CORPORA[name] = dataclasses.replace(
            corpus,
            num_clips=times * corpus.num_clips,
            num_speakers=times * corpus.num_speakers,
            validation_speakers=copies(corpus.validation_speakers),
            test_speakers=copies(corpus.test_speakers),
            folds=tuple(map(copies, corpus.folds)),
        )
    table.parse_clip = download.parse_clip = parse_copy


def run(script: str, options: list[str], times: int, notes: Path) -> None:
    """Run a script in this process, and note in a file when each section begins and ends."""

    def noted(section: str, work: Callable) -> Callable:
        @functools.wraps(work)
        def wrapped(*args, **kwargs):
            start, busy = time.time(), time.process_time()
            result = work(*args, **kwargs)
            with notes.open("a") as file:
                file.write(json.dumps([section, start, time.time(), time.process_time() - busy]) + "\n")
            return result

        return wrapped

    os.dup2(os.open(notes.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    list_copies(times)
    module = importlib.import_module(Path(script).stem)
    for section, names in SECTIONS.items():
        for path in names:
            *owners, name = path.split(".")
            owner = functools.reduce(lambda owner, name: getattr(owner, name, None), owners, module)
            work = getattr(owner, name, None)
            if isinstance(work, type):
                owner, name, work = work, "__init__", work.__init__
            if work:
                setattr(owner, name, noted(section, work))
    sys.argv = [script, *options]
    runtime.run_script(module.main)
    # A process of multiprocessing waits for those that joblib keeps ready, and these for five minutes.
    loky.get_reusable_executor().shutdown()


def measure(script: str, options: list[str], clips: Path, times: int) -> dict[str, float]:
    """Run a script in a process of its own; return its memory in MB and its seconds."""
    with tempfile.TemporaryDirectory(dir=clips.parent) as folder:
        notes = Path(folder) / "notes"
        options = [*options, "--data_dir", str(clips), "--output_dir", f"{folder}/run"]
        options += ["--cache_dir", f"{folder}/cache", "--allow_partial"]
        process = multiprocessing.get_context("spawn").Process(
            target=run, args=(script, options, times, notes)
        )
        start = time.time()
        process.start()
        looks = watch(process)
        seconds = time.time() - start
        if process.exitcode:
            raise SystemExit(f"{script} failed:\n{notes.with_suffix('.txt').read_text()[-3000:]}")
        sections = [json.loads(line) for line in notes.read_text().splitlines()]

    told = {
        "anonymous, MB": max(anonymous for _, anonymous, _, _ in looks),
        "  with child processes": max(both for _, _, both, _ in looks),
        "resident with files, MB": max(resident for *_, resident in looks),
    }
    for name in SECTIONS:
        spans = [(start, end) for section, start, end, _ in sections if section == name]
        within = [look[1] for look in looks if any(start <= look[0] <= end for start, end in spans)]
        told[f"  anonymous in {name}"] = max(within, default=0)
    told["seconds"] = seconds
    for name in SECTIONS:
        told[f"  {name}"] = sum(end - start for section, start, end, _ in sections if section == name)
    told["seconds of a core"] = sum(busy for *_, busy in sections)
    for name in SECTIONS:
        told[f"  {name}, of a core"] = sum(busy for section, *_, busy in sections if section == name)
    return told


def watch(process: multiprocessing.Process) -> list[tuple[float, float, float, float]]:
    """Return (time, anonymous MB, the same with its child processes, resident MB) from now to its end."""
    looks = []
    while process.is_alive():
        try:
            anonymous, resident = memory(process.pid)
            children = psutil.Process(process.pid).children(recursive=True)
        except (OSError, psutil.NoSuchProcess):
            continue
        both = anonymous
        for child in children:
            try:
                both += memory(child.pid)[0]
            except OSError:  # it has just ended
                continue
        looks.append((time.time(), anonymous, both, resident))
        process.join(INTERVAL)
    process.join()
    return looks


def memory(pid: int) -> tuple[float, float]:
    """Return the anonymous and the resident memory of a process in MB (proc_pid_status(5))."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(status.get(key, "0 kB").split()[0]) * 1024 / 1e6 for key in ("RssAnon", "VmRSS"))


if __name__ == "__main__":
    logging.disable()
    main()
