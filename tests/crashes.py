"""Kill a training script at random moments, resume it, and say what a user would find.

A script and a number of kills come in; a table goes out: where the kills hit, and what was then wrong. Each
kill is a SIGKILL to the script and all that it started, as an out-of-memory killer or the end of a session
sends it, at a moment drawn evenly from the processor time that an uninterrupted run takes: on a busy machine,
too, kills come where they should. Each run has a copy of the project, a run folder and a cache of its own;
every second one has to make its demo corpus first, so that this is cut off, too. Twenty kills of each script,
on one core (20 to 30 minutes each):

    python tests/crashes.py train_baselines.py --kills 20 --options --features mfcc --models knn lr \
        --protocol folds --emotions sad angry
    python tests/crashes.py train_cnn.py --kills 20 --options --num_train_epochs 4 \
        --early_stopping_patience 1 --width 4 --emotions sad angry
    python tests/crashes.py train_wav2vec2.py --kills 20 --options --num_train_epochs 3 \
        --early_stopping_patience 1 --emotions sad angry

After a kill no folder may look finished that is not whole. The same command with --resume_from_checkpoint
true must then end well, with the predictions and scores of the uninterrupted run to the last digit and with
its files, no more and no less. Whatever of a run was not as it should be stays in --folder, with the logs.
Results do not depend on the core, but they may on the number of threads: it is one, always.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import psutil
import safetensors

PROJECT = Path(__file__).resolve().parent.parent
PHASES = ("importing", "reading", "embedding", "training", "reporting", "finished")
THRESHOLDS = {
    "Run folder": "reading",
    "Extracting": "embedding",
    "Encoding": "embedding",
    "Running the frozen layers": "embedding",
    "Model of": "training",
    "Validation UAR": "reporting",
    "Predicting the": "reporting",
}
"""What the scripts print as a phase begins."""

RESULTS = ("split_digest", "validation", "test", "folds", "importance", "stages", "calibration")
"""What metrics.json must say alike, where the script says it; the rest is of the one run: times, options."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", help="train_cnn.py, train_baselines.py or train_wav2vec2.py")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for the runs; by default a new one for temporary files")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="the script's; the last option here"
    )
    return parser.parse_args(argv)


class Run:
    """One run of a script, and the folders that it has for itself.

    Args:
        folder: for all of it; made here.
        source: whose files are copied: the project, or the `project` of another run with its demo corpus.
        script, options: the command.
    """

    def __init__(self, folder: Path, source: Path, script: str, options: list[str]):
        self.folder = folder
        self.project = folder / "project"
        self.output = folder / "runs" / "run"
        self.cache = folder / "cache"
        self.seconds = 0.0
        places = [f"--output_dir={self.output}", f"--cache_dir={self.cache}"]
        self.command = [sys.executable, script, "--demo", *places, *options]
        shutil.copytree(
            source,
            self.project,
            ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", *["data"] * (source == PROJECT)),
        )
        (folder / "tmp").mkdir()

    def go(self, *more: str, kill_after: float = math.inf) -> tuple[int, str]:
        """Run the command, to its end or for so many seconds of processor time; return its exit code and what
        it printed. Then `seconds` says how long it took."""
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = os.environ | dict.fromkeys([*threads, "TF_NUM_INTRAOP_THREADS"], "1")
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(self.folder / "tmp")}
        with (self.folder / "log.txt").open("a+", encoding="utf-8") as log:
            begin = log.tell()
            process = subprocess.Popen(
                [*self.command, *more],
                cwd=self.project,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group, which can be killed as one
            )
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = watched.cpu_times()
                    self.seconds = times.user + times.system
                if self.seconds >= kill_after:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                time.sleep(0.005)
            log.seek(begin)
            return process.returncode, log.read()

    def run_folders(self) -> list[Path]:
        """The folders with a card, relative to `output`."""
        return sorted(path.parent.relative_to(self.output) for path in self.output.rglob("README.md"))


def phase_of(run: Run, reference: Run, printed: str) -> str:
    """Say what a run was doing when it was killed, by what it had printed and written."""
    if run.run_folders() == reference.run_folders():
        return "finished"
    if any(not (path.parent / "README.md").exists() for path in run.output.rglob("figures")):
        return "reporting"
    seen = {printed.rfind(mark): phase for mark, phase in THRESHOLDS.items() if mark in printed}
    phase = seen[max(seen)] if seen else "importing"
    begun = any(run.output.rglob("run.json"))
    # The baselines print nothing as they begin to train.
    return "training" if begun and "baselines" in run.command[1] else phase


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def load(path: Path) -> None:
    """Read a file as what it is; half a file raises."""
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        pd.read_csv(path)
    elif path.suffix == ".png":
        matplotlib.image.imread(path)
    elif path.suffix in (".keras", ".skops"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None, "damaged"
    elif path.suffix == ".safetensors":
        with safetensors.safe_open(path, "np") as tensors:
            assert all(np.isfinite(tensors.get_tensor(name)).all() for name in tensors.keys())  # noqa: SIM118


def false_cards(run: Run, reference: Run) -> list[str]:
    """Say of each folder with a card what it lacks of the reference's."""
    found = []
    for folder in run.run_folders():
        missing = files_of(reference.output / folder) - files_of(run.output / folder)
        found += [f"{folder}: has a card but no {name}" for name in sorted(missing)]
        for path in (run.output / folder).rglob("*"):
            try:
                if path.is_file() and "checkpoints" not in path.parts:
                    load(path)
            except Exception as error:  # whatever it is: a user could not read it
                found.append(f"{folder}: has a card, but {path.name} cannot be read ({error!r:.200})")
    return found


def differences(run: Run, reference: Run) -> list[str]:
    """Say in what a run that was resumed differs from the one that was not interrupted."""
    found = []
    ours, theirs = files_of(run.output), files_of(reference.output)
    found += [f"{name} is left over" for name in sorted(ours - theirs)]
    found += [f"{name} is missing" for name in sorted(theirs - ours)]
    for folder in reference.run_folders():
        here, there = run.output / folder, reference.output / folder
        if not {"predictions.csv", "metrics.json"} <= files_of(here):
            continue
        if (here / "predictions.csv").read_bytes() != (there / "predictions.csv").read_bytes():
            found.append(f"{folder}: predictions.csv differs")
        metrics, expected = (json.loads((each / "metrics.json").read_text()) for each in (here, there))
        found += [f"{folder}: {key} differs" for key in RESULTS if metrics.get(key) != expected.get(key)]
    return found


def litter(run: Run, reference: Run) -> list[str]:
    """Return what lies about outside the run folder, in the cache and the corpus: it costs disk space, no more."""
    found = files_of(run.cache) - files_of(reference.cache)
    found |= files_of(run.project / "data") - files_of(reference.project / "data")
    return sorted(found)


def kill_and_resume(run: Run, reference: Run, moment: float) -> tuple[str, list[str]]:
    """Kill a run after `moment` seconds and resume it; return the phase it was in, and what was wrong."""
    code, printed = run.go(kill_after=moment)
    phase = phase_of(run, reference, printed)
    found = [] if code in (0, -signal.SIGKILL) else [f"ended with {code} before it was killed"]
    found += false_cards(run, reference)
    code, printed = run.go("--resume_from_checkpoint", "true")
    if code:
        return phase, [*found, f"resumed, it ended with {code}: {printed.strip().splitlines()[-1]:.200}"]
    if phase == "finished" and "Nothing to train" not in printed:
        found.append("was finished, and yet did not say so")
    return phase, found + differences(run, reference)


def main() -> int:
    args = parse_arguments(sys.argv[1:])
    folder = args.folder or Path(tempfile.mkdtemp(prefix="crashes-"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # A snapshot: the project may be worked on meanwhile.
    snapshot = Run(folder / "snapshot", PROJECT, args.script, args.options).project
    sources = (snapshot, folder / "reference" / "project")  # the second has its corpus made
    whole = []
    for name, source in zip(("reference", "again"), sources, strict=True):
        run = Run(folder / name, source, args.script, args.options)
        code, printed = run.go()
        if code:
            print(printed)
            return 2
        whole.append(run)
    reference, again = whole
    if found := differences(again, reference):
        print("Two runs that nobody killed are not alike:", "; ".join(found))
        return 2
    seconds = " and ".join(f"{run.seconds:.0f}" for run in whole)
    print(f"{args.script} {' '.join(args.options)}: {seconds} s. In {folder}", flush=True)

    generator = np.random.default_rng(args.seed)
    phases, wrong, left = Counter(), 0, Counter()
    for number, share in enumerate(generator.uniform(0, 1, args.kills)):
        moment = share * whole[number % 2].seconds
        run = Run(folder / f"kill-{number:02d}", sources[number % 2], args.script, args.options)
        phase, found = kill_and_resume(run, reference, moment)
        phases[phase] += 1
        wrong += bool(found)
        left.update("a .partial" if ".partial" in name else "another file" for name in litter(run, reference))
        print(f"{number:3d}  {moment:6.1f} s  {phase:9}  {'; '.join(found) or 'as it should be'}", flush=True)
        if not found:
            shutil.rmtree(run.folder)
    columns = {"script": args.script, "kills": args.kills} | {phase: phases[phase] for phase in PHASES}
    print(pd.DataFrame([columns | {"wrong": wrong}]).to_string(index=False))
    print(
        "Left in the cache or the corpus:",
        ", ".join(f"{n} × {what}" for what, n in left.items()) or "nothing",
    )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
