"""Time from the start of `main` to the first training step of each script, without and with its cache.

    python -m benchmarks.startup --data_dir ~/clips
    python -m benchmarks.startup --data_dir ~/clips --imports  # only the duration of the imports

Each script has its own process, in which three measurements take turns: decoding and resampling of all clips
on all cores (soundfile and soxr, nothing is stored), a run with an empty cache (cold), and the same run again
(warm). The first round is a warm-up: it imports modules and reads the files into memory. Prints medians and
ratios; also, from new processes, the duration of the imports of each script (`python -X importtime`) and the
time until `--help` and the message about a wrong option.
"""

import argparse
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.runtime import PROJECT_ROOT, describe_device

SCRIPTS = {
    "train_wav2vec2.py": "train_wav2vec2",
    "train_wav2vec2.py --no_probe": "train_wav2vec2",
    "train_cnn.py": "train_cnn",
    "train_baselines.py": "train_baselines",
}
NUM_IMPORTS = 3
MODULES = (
    "train_wav2vec2",
    "train_cnn",
    "train_baselines",
    "utils.explore",
    "utils.compare",
    "utils.hub.publication",
)
LARGE_PACKAGES = (
    "torch",
    "transformers",
    "tensorflow",
    "sklearn",
    "matplotlib",
    "librosa",
    "numba",
    "datasets",
)
"""The table of imports shows which of these a module imports."""

MAKE_ENCODER = """
import sys
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(sys.argv[1])
Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(sys.argv[1])
"""


class FirstStepError(BaseException):
    """Ends a run at its first training step. Not an Exception: no handler must catch it."""


def stop(*_args, **_options):
    raise FirstStepError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS and TESS")
    parser.add_argument("--corpora", nargs="+", default=["ravdess", "tess"])
    parser.add_argument("--rounds", type=int, default=3, help="without the warm-up")
    parser.add_argument("--imports", action="store_true", help="leave out the runs")
    parser.add_argument("--scripts", nargs="+", default=list(SCRIPTS), choices=list(SCRIPTS))
    parser.add_argument("--model", help="folder of an encoder; by default one of base size, random weights")
    parser.add_argument("--measure", choices=list(SCRIPTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    print(f"{cpu_name()}, {describe_device('cpu')}, Python {sys.version.split()[0]}\n", flush=True)
    if not args.imports:
        with tempfile.TemporaryDirectory() as folder:
            if not args.model and any("wav2vec2" in name for name in args.scripts):
                args.model = str(Path(folder) / "encoder")
                command = [sys.executable, "-c", MAKE_ENCODER, args.model]
                subprocess.run(command, cwd=PROJECT_ROOT, check=True)
            print_runs(args)
    print_imports()
    print_responses()


# ---------------------------------------------------------------------------------------------------
# From `main` to the first step


def print_runs(args: argparse.Namespace) -> None:
    """Measure each script in a process of its own, and print a table."""
    print("| from `main` to the first step | decoding alone, s | cold, s | ratio | warm, s | warm / cold |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in args.scripts:
        command = [sys.executable, "-m", "benchmarks.startup", "--measure", name]
        command += ["--rounds", str(args.rounds)]
        command += ["--corpora", *args.corpora, "--data_dir", *args.data_dir]
        command += ["--model", args.model] if args.model else []
        process = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
        if process.returncode:
            sys.exit(f"{name}: {process.stderr[-3000:]}")
        rounds = json.loads(process.stdout.splitlines()[-1])
        decoding, cold, warm = map(statistics.median, zip(*rounds, strict=True))
        print(
            f"| `{name}` | {decoding:.2f} | {cold:.2f} | {cold / decoding:.2f} | {warm:.2f} | "
            f"{warm / cold:.3f} |",
            flush=True,
        )


def measure(args: argparse.Namespace) -> list[list[float]]:
    """Return for each round the seconds of decoding alone, of a cold run, and of a warm run."""
    script = importlib.import_module(SCRIPTS[args.measure])
    stop_at_first_step(args.measure)
    from utils.data.download import find_corpora

    folders = [Path(folder) for folder in args.data_dir]
    paths = [path for files in find_corpora(args.corpora, folders).values() for path in files]
    options = ["--corpora", *args.corpora, "--data_dir", *args.data_dir, "--allow_partial"]
    if "wav2vec2" in args.measure:
        options += ["--model_name_or_path", args.model]
        # Augmented clips differ between epochs, so the frozen layers do not run before the Trainer starts.
        options += ["--no_probe", "--augment"] if "--no_probe" in args.measure else []
    rounds = []
    for _ in range(1 + args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds = [time_decoding(paths)]
            for run in ("cold", "warm"):
                output = ["--cache_dir", f"{folder}/cache", "--output_dir", f"{folder}/{run}"]
                parsed = script.parse_arguments([*options, *output])
                start = time.perf_counter()
                try:
                    script.main(*parsed)
                except FirstStepError:
                    seconds.append(time.perf_counter() - start)
        rounds.append(seconds)
    return rounds[1:]


def stop_at_first_step(name: str) -> None:
    """Replace the function with which a script starts to process prepared clips by `stop`."""
    if name == "train_wav2vec2.py":
        from utils.encoders import embeddings

        embeddings.hidden_states = stop
    elif name.startswith("train_wav2vec2.py"):
        from transformers import Trainer

        Trainer.training_step = stop
    elif name == "train_cnn.py":
        import keras

        keras.Model.fit = lambda self, segments, **options: stop(segments[0])
    else:
        from utils.features import extraction

        class Parallel:
            """Takes the first task, like joblib, and stops."""

            def __init__(self, **_options):
                pass

            def __call__(self, tasks):
                stop(next(iter(tasks)))

        extraction.joblib.Parallel = Parallel


def time_decoding(paths: list[Path]) -> float:
    """Return the seconds for decoding, mixing to mono and resampling on all cores."""
    import soundfile
    import soxr

    def decode(path: Path) -> int:
        waveform, rate = soundfile.read(path, dtype="float32")
        if waveform.ndim > 1:
            waveform = waveform.mean(axis=1)
        return len(waveform if rate == 16_000 else soxr.resample(waveform, rate, 16_000, quality="HQ"))

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(decode, paths))
    return time.perf_counter() - start


# ---------------------------------------------------------------------------------------------------
# New processes


def print_imports() -> None:
    """Measure the imports of each module in new processes, and print a table."""
    print("\n| imports of | s | large packages |")
    print("|---|---|---|", flush=True)
    seconds = {name: [] for name in MODULES}
    packages = {}
    for _ in range(1 + NUM_IMPORTS):  # the first is a warm-up
        for name in MODULES:
            report = run_python(["-X", "importtime", "-c", f"import {name}"]).stderr
            lines = re.findall(r"^import time:\s+\d+ \|\s+(\d+) \|( +)(\S+)$", report, re.MULTILINE)
            own = [int(total) for total, indent, module in lines if (len(indent), module) == (1, name)]
            seconds[name].append(sum(own) / 1e6)
            modules = {module for _, _, module in lines}
            packages[name] = " ".join(package for package in LARGE_PACKAGES if package in modules)
    for name in MODULES:
        print(f"| `{name}` | {statistics.median(seconds[name][1:]):.2f} | {packages[name]} |")


def print_responses() -> None:
    """Measure the time until a script ends with its help or an error, and print a table."""
    print("\n| command | s |")
    print("|---|---|", flush=True)
    commands = {
        f"{name}.py {option}": [] for name in MODULES[:3] for option in ("--help", "--no_such_option")
    }
    for _ in range(NUM_IMPORTS):
        for command, seconds in commands.items():
            start = time.perf_counter()
            run_python(command.split())
            seconds.append(time.perf_counter() - start)
    for command, seconds in commands.items():
        print(f"| `python {command}` | {statistics.median(seconds):.2f} |")


def run_python(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else "unknown CPU"


if __name__ == "__main__":
    main()
