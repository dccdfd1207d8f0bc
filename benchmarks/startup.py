"""How long each script takes from the begin of `main` to its first training step, cold and from its cache.

    python -m benchmarks.startup --data_dir ~/clips
    python -m benchmarks.startup --data_dir ~/clips --imports  # only what the imports take

Each script has a process of its own, in which the runs take turns: what decoding and resampling all clips on
all cores must take (soundfile and soxr, nothing kept), a run with an empty cache, the same run once more. The
first round does not count: it imports what is imported late, and then the files are in memory for all. Prints
medians and ratios; and, from fresh processes, what the imports of each script take (`python -X importtime`)
and how long a user waits for `--help` and for the word that an option is wrong.
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
IMPORTERS = (
    "train_wav2vec2",
    "train_cnn",
    "train_baselines",
    "utils.explore",
    "utils.compare",
    "utils.hub.publication",
)
HEAVY = ("torch", "transformers", "tensorflow", "sklearn", "matplotlib", "librosa", "numba", "datasets")
"""Packages; the table of imports says which of them a script brings in."""


class FirstStepError(BaseException):
    """Ends a run where its training would begin. No Exception: nothing on the way shall catch it."""


def stop(*_args, **_options):
    raise FirstStepError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS and TESS")
    parser.add_argument("--corpora", nargs="+", default=["ravdess", "tess"])
    parser.add_argument("--rounds", type=int, default=3, help="that count")
    parser.add_argument("--imports", action="store_true", help="leave out the runs")
    parser.add_argument("--scripts", nargs="+", default=list(SCRIPTS), choices=list(SCRIPTS))
    parser.add_argument("--model", help="folder of an encoder; by default one of random weights, base size")
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


MAKE_ENCODER = """
import sys
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(sys.argv[1])
Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(sys.argv[1])
"""


def print_runs(args: argparse.Namespace) -> None:
    print("| from `main` to the first step | decoding alone, s | cold, s | ratio | warm, s | warm / cold |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in args.scripts:
        command = [
            sys.executable,
            "-m",
            "benchmarks.startup",
            "--measure",
            name,
            "--rounds",
            str(args.rounds),
        ]
        command += ["--corpora", *args.corpora, "--data_dir", *args.data_dir]
        command += ["--model", args.model] if args.model else []
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-3000:]}")
        bound, cold, warm = map(
            statistics.median, zip(*json.loads(done.stdout.splitlines()[-1]), strict=True)
        )
        print(
            f"| `{name}` | {bound:.2f} | {cold:.2f} | {cold / bound:.2f} | {warm:.2f} | {warm / cold:.3f} |",
            flush=True,
        )


def measure(args: argparse.Namespace) -> list[tuple[float, float, float]]:
    """Return of each round the seconds of decoding alone, of a cold run, and of a warm one."""
    script = importlib.import_module(SCRIPTS[args.measure])
    stop_at_first_step(args.measure)
    from utils.data.download import find_corpora

    places = [Path(place) for place in args.data_dir]
    paths = [path for files in find_corpora(args.corpora, places).values() for path in files]
    options = ["--corpora", *args.corpora, "--data_dir", *args.data_dir, "--allow_partial"]
    if "wav2vec2" in args.measure:
        options += ["--model_name_or_path", args.model]
        # Augmented clips are new in each epoch, so that no frozen layer hears them before the Trainer does.
        options += ["--no_probe", "--augment"] if "--no_probe" in args.measure else []
    rounds = []
    for _ in range(1 + args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds = [decode_alone(paths)]
            for run in ("cold", "warm"):
                places = ["--cache_dir", f"{folder}/cache", "--output_dir", f"{folder}/{run}"]
                sys.argv = [f"{SCRIPTS[args.measure]}.py", *options, *places]
                begun = time.perf_counter()
                try:
                    script.main()
                except FirstStepError:
                    seconds.append(time.perf_counter() - begun)
        rounds.append(seconds)
    return rounds[1:]


def stop_at_first_step(name: str) -> None:
    """Put `stop` in the place of what a script does first with clips that are ready."""
    if name == "train_wav2vec2.py":
        from utils.encoders import embeddings

        embeddings.hidden_states = stop  # the first batch is made
    elif name.startswith("train_wav2vec2.py"):
        from transformers import Trainer

        Trainer.training_step = stop
    elif name == "train_cnn.py":
        import keras

        keras.Model.fit = lambda self, segments, **options: stop(segments[0])
    else:
        from utils.features import functionals as features

        class Parallel:
            """Takes the first task, as joblib would, and hands it to nobody."""

            def __init__(self, **_options):
                pass

            def __call__(self, tasks):
                stop(next(iter(tasks)))

        features.joblib.Parallel = Parallel


def decode_alone(paths: list[Path]) -> float:
    """Return the seconds that decoding, mixing and resampling takes on all cores."""
    import soundfile
    import soxr

    def decode(path: Path) -> int:
        waveform, rate = soundfile.read(path, dtype="float32")
        if waveform.ndim > 1:
            waveform = waveform.mean(axis=1)
        return len(waveform if rate == 16_000 else soxr.resample(waveform, rate, 16_000, quality="HQ"))

    begun = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(decode, paths))
    return time.perf_counter() - begun


def print_imports() -> None:
    print("\n| imports of | s | bring in |")
    print("|---|---|---|", flush=True)
    seconds = {name: [] for name in IMPORTERS}
    brought = {}
    for _ in range(1 + NUM_IMPORTS):
        for name in IMPORTERS:
            told = fresh(["-X", "importtime", "-c", f"import {name}"]).stderr
            lines = re.findall(r"^import time:\s+\d+ \|\s+(\d+) \|( +)(\S+)$", told, re.MULTILINE)
            own = [int(total) for total, indent, module in lines if (len(indent), module) == (1, name)]
            seconds[name].append(sum(own) / 1e6)
            modules = {module for _, _, module in lines}
            brought[name] = " ".join(package for package in HEAVY if package in modules)
    for name in IMPORTERS:
        print(f"| `{name}` | {statistics.median(seconds[name][1:]):.2f} | {brought[name]} |")

    print("\n| from command to answer | s |")
    print("|---|---|", flush=True)
    commands = {
        f"{name}.py {option}": [] for name in IMPORTERS[:3] for option in ("--help", "--no_such_option")
    }
    for _ in range(NUM_IMPORTS):
        for command, seconds in commands.items():
            begun = time.perf_counter()
            fresh(command.split())
            seconds.append(time.perf_counter() - begun)
    for command, seconds in commands.items():
        print(f"| `python {command}` | {statistics.median(seconds):.2f} |")


def fresh(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else "unknown CPU"


if __name__ == "__main__":
    main()
