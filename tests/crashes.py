"""Kill a training script at random times, resume it, and report the differences from an uninterrupted run.

Input: a script and a number of kills. Output: a table with the phases in which the script was killed and the
number of faulty runs. A kill is a SIGKILL to the script and all its child processes, like that of the
out-of-memory killer or at the end of a session. Its time is drawn uniformly from the CPU time of an
uninterrupted run, so that the load of the machine does not matter. Each run has its own copy of the project,
run folder and cache. Every second run first has to create the demo corpus, so that kills occur there, too.
Twenty kills of each script, on one core (20 to 30 minutes each):

    python tests/crashes.py train_baselines.py --kills 20 --options --features mfcc --models knn lr \
        --protocol folds --emotions sad angry
    python tests/crashes.py train_cnn.py --kills 20 --options --num_train_epochs 4 \
        --early_stopping_patience 1 --width 4 --emotions sad angry
    python tests/crashes.py train_wav2vec2.py --kills 20 --options --num_train_epochs 3 \
        --early_stopping_patience 1 --emotions sad angry

After a kill, no incomplete folder may look finished. Then the same command with --resume_from_checkpoint true
must succeed, with exactly the files, predictions and scores of the uninterrupted run. Faulty runs are kept in
--folder, with their logs. The number of threads is always one, because results may depend on it.
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
PHASE_MESSAGES = {
    "Run folder": "reading",
    "Extracting": "embedding",
    "Encoding": "embedding",
    "Running the frozen layers": "embedding",
    "Model of": "training",
    "Validation UAR": "reporting",
    "Predicting the": "reporting",
}
"""What the scripts print at the start of a phase -> phase."""

RESULTS = ("split_digest", "validation", "test", "folds", "importance", "stages", "calibration")
"""Keys of metrics.json that must be equal if they exist. Others differ between runs: durations, options."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", help="train_cnn.py, train_baselines.py or train_wav2vec2.py")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("--folder", type=Path, help="of the runs; default: a new temporary folder")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="options of the script; must come last"
    )
    return parser.parse_args(argv)


class Run:
    """A run of a script with its own folders.

    Args:
        folder: new folder for all files of the run.
        source: folder to copy the project from: the project itself, or `project` of another run, which
            contains the demo corpus.
        script, options: the command.
    """

    def __init__(self, folder: Path, source: Path, script: str, options: list[str]):
        self.folder = folder
        self.project = folder / "project"
        self.output = folder / "runs" / "run"
        self.cache = folder / "cache"
        self.seconds = 0.0
        folders = [f"--output_dir={self.output}", f"--cache_dir={self.cache}"]
        self.command = [sys.executable, script, "--demo", *folders, *options]
        # "data" is the folder of the demo corpus and a package of the kit: each is copied alone.
        ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "data")
        shutil.copytree(source, self.project, ignore=ignored)
        shutil.copytree(source / "utils" / "data", self.project / "utils" / "data")
        if source != PROJECT and (source / "data").exists():
            shutil.copytree(source / "data", self.project / "data")
        (folder / "tmp").mkdir()

    def execute(self, *more: str, kill_after: float = math.inf) -> tuple[int, str]:
        """Run the command, and set `seconds` to its CPU time.

        Args:
            more: additional options.
            kill_after: CPU time in seconds after which the command is killed.

        Returns:
            exit code and output.
        """
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = os.environ | dict.fromkeys([*threads, "TF_NUM_INTRAOP_THREADS"], "1")
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(self.folder / "tmp")}
        with (self.folder / "log.txt").open("a+", encoding="utf-8") as log:
            start = log.tell()
            process = subprocess.Popen(
                [*self.command, *more],
                cwd=self.project,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a new process group, which can be killed with all child processes
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
            log.seek(start)
            return process.returncode, log.read()

    def run_folders(self) -> list[Path]:
        """Return the folders with a card, relative to `output`."""
        return sorted(path.parent.relative_to(self.output) for path in self.output.rglob("README.md"))


def phase_of(run: Run, reference: Run, printed: str) -> str:
    """Return the phase in which a run was killed, according to its output and files."""
    if run.run_folders() == reference.run_folders():
        return "finished"
    if any(not (path.parent / "README.md").exists() for path in run.output.rglob("figures")):
        return "reporting"
    positions = {
        printed.rfind(message): phase for message, phase in PHASE_MESSAGES.items() if message in printed
    }
    phase = positions[max(positions)] if positions else "importing"
    has_started = any(run.output.rglob("run.json"))
    # The baselines print nothing at the start of the training.
    return "training" if has_started and "baselines" in run.command[1] else phase


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def load(path: Path) -> None:
    """Read a file in its format.

    Raises:
        Exception: of any type, if the file is damaged or incomplete.
    """
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


def find_incomplete_folders(run: Run, reference: Run) -> list[str]:
    """Return a message for each missing or unreadable file of the folders that have a card."""
    problems = []
    for folder in run.run_folders():
        missing = files_of(reference.output / folder) - files_of(run.output / folder)
        problems += [f"{folder}: has a card but no {name}" for name in sorted(missing)]
        for path in (run.output / folder).rglob("*"):
            try:
                if path.is_file() and "checkpoints" not in path.parts:
                    load(path)
            except Exception as error:  # any exception means that a user could not read the file
                problems.append(f"{folder}: has a card, but {path.name} cannot be read ({error!r:.200})")
    return problems


def find_differences(run: Run, reference: Run) -> list[str]:
    """Return a message for each difference of a resumed run from the uninterrupted run."""
    differences = []
    files, expected_files = files_of(run.output), files_of(reference.output)
    differences += [f"{name} is left over" for name in sorted(files - expected_files)]
    differences += [f"{name} is missing" for name in sorted(expected_files - files)]
    for name in reference.run_folders():
        folder, expected_folder = run.output / name, reference.output / name
        if not {"predictions.csv", "metrics.json"} <= files_of(folder):
            continue
        if (folder / "predictions.csv").read_bytes() != (expected_folder / "predictions.csv").read_bytes():
            differences.append(f"{name}: predictions.csv differs")
        metrics, expected = (
            json.loads((each / "metrics.json").read_text()) for each in (folder, expected_folder)
        )
        differences += [f"{name}: {key} differs" for key in RESULTS if metrics.get(key) != expected.get(key)]
    return differences


def find_leftover_files(run: Run, reference: Run) -> list[str]:
    """Return additional files in the cache and the corpus. They need disk space and do no other harm."""
    names = files_of(run.cache) - files_of(reference.cache)
    names |= files_of(run.project / "data") - files_of(reference.project / "data")
    return sorted(names)


def kill_and_resume(run: Run, reference: Run, seconds: float) -> tuple[str, list[str]]:
    """Kill a run after some seconds of CPU time and resume it; return the phase and the problems."""
    code, printed = run.execute(kill_after=seconds)
    phase = phase_of(run, reference, printed)
    problems = [] if code in (0, -signal.SIGKILL) else [f"ended with {code} before it was killed"]
    problems += find_incomplete_folders(run, reference)
    code, printed = run.execute("--resume_from_checkpoint", "true")
    if code:
        last_line = printed.strip().splitlines()[-1]
        return phase, [*problems, f"ended with {code} after it was resumed: {last_line:.200}"]
    if phase == "finished" and "the run is complete" not in printed:
        problems.append("was finished, but the resumed run did not report it")
    return phase, problems + find_differences(run, reference)


def main() -> int:
    args = parse_arguments(sys.argv[1:])
    folder = args.folder or Path(tempfile.mkdtemp(prefix="crashes-"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # A copy, because the files of the project may change in the meantime.
    snapshot = Run(folder / "snapshot", PROJECT, args.script, args.options).project
    sources = (snapshot, folder / "reference" / "project")  # without and with the demo corpus
    uninterrupted = []
    for name, source in zip(("reference", "again"), sources, strict=True):
        run = Run(folder / name, source, args.script, args.options)
        code, printed = run.execute()
        if code:
            print(printed)
            return 2
        uninterrupted.append(run)
    reference, again = uninterrupted
    if differences := find_differences(again, reference):
        print("Two uninterrupted runs differ:", "; ".join(differences))
        return 2
    durations = " and ".join(f"{run.seconds:.0f}" for run in uninterrupted)
    print(f"{args.script} {' '.join(args.options)}: {durations} s. Folder: {folder}", flush=True)

    generator = np.random.default_rng(args.seed)
    phases, num_faulty, leftovers = Counter(), 0, Counter()
    for number, share in enumerate(generator.uniform(0, 1, args.kills)):
        seconds = share * uninterrupted[number % 2].seconds
        run = Run(folder / f"kill-{number:02d}", sources[number % 2], args.script, args.options)
        phase, problems = kill_and_resume(run, reference, seconds)
        phases[phase] += 1
        num_faulty += bool(problems)
        leftovers.update(
            "a .partial" if ".partial" in name else "another file"
            for name in find_leftover_files(run, reference)
        )
        print(f"{number:3d}  {seconds:6.1f} s  {phase:9}  {'; '.join(problems) or 'ok'}", flush=True)
        if not problems:
            shutil.rmtree(run.folder)
    columns = {"script": args.script, "kills": args.kills} | {phase: phases[phase] for phase in PHASES}
    print(pd.DataFrame([columns | {"faulty": num_faulty}]).to_string(index=False))
    print(
        "Left in the cache or the corpus:",
        ", ".join(f"{count} × {kind}" for kind, count in leftovers.items()) or "nothing",
    )
    return min(num_faulty, 1)


if __name__ == "__main__":
    sys.exit(main())
