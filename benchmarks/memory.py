"""Memory and duration of each script for a corpus, and for one that is ten times as large.

    python -m benchmarks.memory --data_dir ~/clips --clips 256  # a quick look
    python -m benchmarks.memory --data_dir ~/clips --script train_cnn.py
    python -m benchmarks.memory --data_dir ~/clips --script train_baselines.py --options --models lr rf

Each script runs in a new process with an empty cache: on RAVDESS and TESS, and on ten copies of them with
other names, other speakers, and one more chunk at the end of each file. Anonymous memory is allocated by the
process itself; resident memory includes mapped files, whose pages the kernel can free. The growth per 1,000
clips is that of anonymous memory.
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
"""Options of each script. One epoch: all epochs need the same memory. No test of robustness: it uses a fixed
number of clips."""

SECTIONS = {
    "reading": ["load_clips"],
    "features": [
        "extract_table",
        "utils.encoders.encoding:embed",
        "FrozenClips",
        "TrainingSegments",
    ],
    "training": ["fit", "utils.encoders.encoding:fit_probes", "fine_tune", "keras.Model.fit"],
    "testing": ["predict_part", "predict_proba"],
}
"""Section -> functions and classes that are timed: names in the script, or `module:name`."""

INTERVAL = 0.05
"""Seconds between two measurements of the memory."""

COPY_NAME = re.compile(r"(.+)(-copy\d+)")


@dataclasses.dataclass(frozen=True)
class Sample:
    """Memory of a process at a time, in MB; `with_children`: anonymous memory including child processes."""

    time: float
    anonymous: float
    with_children: float
    resident: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", required=True, help="folders with RAVDESS speech and TESS")
    parser.add_argument("--script", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--times", type=int, default=10, help="number of copies in the large corpus")
    parser.add_argument("--clips", type=int, help="number of clips, drawn at random; by default all")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, help="of the script, instead of the default ones"
    )
    args = parser.parse_args()

    files = [path for folder in args.data_dir for path in sorted(Path(folder).rglob("*")) if parse_clip(path)]
    files = sorted(random.Random(0).sample(files, args.clips)) if args.clips else files
    print(f"{runtime.describe_device('cpu')}, {len(files)} clips listed once and {args.times} times")
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        copy_clips(files, 1, small)
        copy_clips(files, args.times, large)
        for script in args.script:
            options = RUNS[script] if args.options is None else args.options
            results = [
                measure(script, options, clips, times) for clips, times in ((small, 1), (large, args.times))
            ]
            print_comparison(script, options, results, len(files), args.times)


def print_comparison(
    script: str, options: list[str], results: list[dict[str, float]], num_clips: int, times: int
) -> None:
    """Print the results for the small and the large corpus side by side."""
    print(f"\n{script} {' '.join(options)}\n{'':28s}{num_clips:>9d}{times * num_clips:>9d}")
    small, large = results
    for name, value in small.items():
        ratio = f"{large[name] / value:8.2f} times" if value >= 0.5 else ""
        print(f"{name:28s}{value:9.0f}{large[name]:9.0f}{ratio}")
    growth = large["anonymous, MB"] - small["anonymous, MB"]
    print(f"{'MB more per 1,000 clips':28s}{1000 * growth / (num_clips * (times - 1)):18.1f}")


# ---------------------------------------------------------------------------------------------------
# Copies of the clips


def copy_clips(files: list[Path], times: int, folder: Path) -> None:
    """Link the clips, and write further copies with other names and one more chunk at the end."""
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
    """Replace `parse_clip`: a copy is another clip by another speaker."""
    match = COPY_NAME.fullmatch(Path(path).stem)
    if not match:
        return parse_clip(path)
    clip = parse_clip(Path(path).with_stem(match[1]))
    return clip and dataclasses.replace(clip, clip=Path(path).stem, speaker=clip.speaker + match[2])


def register_copies(times: int) -> None:
    """Change the corpora of this process: each has `times` as many clips and speakers."""

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


# ---------------------------------------------------------------------------------------------------
# Runs


def run(script: str, options: list[str], times: int, log: Path) -> None:
    """Run a script in this process, and write the start and end of each section to a file."""

    os.dup2(os.open(log.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    register_copies(times)
    module = importlib.import_module(Path(script).stem)
    for section, names in SECTIONS.items():
        for name in names:
            record_calls(module, name, section, log)
    sys.argv = [script, *options]
    runtime.run_script(lambda: module.main(*module.parse_arguments(options)))
    # Otherwise the end of this process waits five minutes for the idle processes of joblib.
    loky.get_reusable_executor().shutdown()


def record_calls(script, path: str, section: str, log: Path) -> None:
    """Wrap a function or a constructor so that each call writes [section, start, end, core seconds]."""
    module, _, path = path.rpartition(":")
    *owners, name = path.split(".")
    owner = sys.modules.get(module) if module else script
    owner = functools.reduce(lambda owner, name: getattr(owner, name, None), owners, owner)
    function = getattr(owner, name, None)
    if isinstance(function, type):
        owner, name, function = function, "__init__", function.__init__
    if not function:
        return

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        start, start_of_process = time.time(), time.process_time()
        result = function(*args, **kwargs)
        entry = [section, start, time.time(), time.process_time() - start_of_process]
        with log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        return result

    setattr(owner, name, wrapped)


def measure(script: str, options: list[str], clips: Path, times: int) -> dict[str, float]:
    """Run a script in a process of its own; return its memory in MB and durations in seconds."""
    with tempfile.TemporaryDirectory(dir=clips.parent) as folder:
        log = Path(folder) / "sections"
        options = [*options, "--data_dir", str(clips), "--output_dir", f"{folder}/run"]
        options += ["--cache_dir", f"{folder}/cache", "--allow_partial"]
        process = multiprocessing.get_context("spawn").Process(target=run, args=(script, options, times, log))
        start = time.time()
        process.start()
        samples = sample_memory(process)
        seconds = time.time() - start
        if process.exitcode:
            raise SystemExit(f"{script} failed:\n{log.with_suffix('.txt').read_text()[-3000:]}")
        sections = [json.loads(line) for line in log.read_text().splitlines()]

    results = {
        "anonymous, MB": max(sample.anonymous for sample in samples),
        "  with child processes": max(sample.with_children for sample in samples),
        "resident with files, MB": max(sample.resident for sample in samples),
    }
    for name in SECTIONS:
        spans = [(start, end) for section, start, end, _ in sections if section == name]
        within = [each.anonymous for each in samples if any(a <= each.time <= b for a, b in spans)]
        results[f"  anonymous in {name}"] = max(within, default=0)
    results["seconds"] = seconds
    for name in SECTIONS:
        results[f"  {name}"] = sum(end - start for section, start, end, _ in sections if section == name)
    results["core seconds"] = sum(busy for *_, busy in sections)
    for name in SECTIONS:
        results[f"  {name}, core"] = sum(busy for section, *_, busy in sections if section == name)
    return results


def sample_memory(process: multiprocessing.Process) -> list[Sample]:
    """Measure the memory of a process until it ends."""
    samples = []
    while process.is_alive():
        try:
            anonymous, resident = memory(process.pid)
            children = psutil.Process(process.pid).children(recursive=True)
        except (OSError, psutil.NoSuchProcess):
            continue
        with_children = anonymous
        for child in children:
            try:
                with_children += memory(child.pid)[0]
            except OSError:  # it has ended
                continue
        samples.append(Sample(time.time(), anonymous, with_children, resident))
        process.join(INTERVAL)
    process.join()
    return samples


def memory(pid: int) -> tuple[float, float]:
    """Return the anonymous and the resident memory of a process in MB (proc_pid_status(5))."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(status.get(key, "0 kB").split()[0]) * 1024 / 1e6 for key in ("RssAnon", "VmRSS"))


if __name__ == "__main__":
    logging.disable()
    main()
