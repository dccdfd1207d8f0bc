"""How long each script takes from its start to its first training step, against what decoding alone takes.

    python -m benchmarks.startup --data_dir ~/clips

Prints seconds and ratios, medians of interleaved rounds: cold, with an empty cache folder, and warm, with
the one that the cold start has left. Imports are counted apart. The first training step is where the clips go
into the encoder for the first time (train_wav2vec2.py, with a tiny one: reading the weights of another is not
counted), where `fit` is called (train_cnn.py) and where the functionals of the first clip are computed
(train_baselines.py). The bound is what soundfile and soxr take for all clips in threads on all cores.
"""

import argparse
import collections
import importlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
import soxr

from utils.audio import SAMPLING_RATE
from utils.download import find_corpora
from utils.runtime import describe_device, logger, run_script

SCRIPTS = {
    "train_wav2vec2": (["--from_config=tiny", "--use_cpu=true"], "train_wav2vec2.embed"),
    "train_cnn": ([], "keras.Model.fit"),
    "train_baselines": ([], "train_baselines.extract_table"),
}
"""Script -> its options, and the function at which its training begins."""


class FirstStep(Exception):
    """The training begins."""


def main() -> None:
    if sys.argv[1:2] == ["--start"]:
        return start(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", required=True, help="folders or zips with the clips")
    parser.add_argument("--corpora", nargs="+", default=["ravdess", "tess"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logger.setLevel(logging.WARNING)
    found = find_corpora(args.corpora, [Path(folder) for folder in args.data_dir])
    files = [path for paths in found.values() for path in paths]
    data = ["--corpora", *args.corpora, "--allow_partial", "--data_dir", *args.data_dir]
    seconds = collections.defaultdict(list)
    decode_all(files)  # the files are in memory from now on, for all alike
    for _ in range(args.rounds):
        begun = time.perf_counter()
        decode_all(files)
        seconds["bound"].append(time.perf_counter() - begun)
        for script in SCRIPTS:
            with tempfile.TemporaryDirectory() as folder:
                for kind in ("cold", "warm"):
                    places = [f"--cache_dir={folder}/cache", f"--output_dir={folder}/{kind}"]
                    imports, until = timed_start(script, [*data, *places])
                    seconds[f"{script} {kind}"].append(until)
                seconds[f"{script} imports"].append(imports)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{describe_device('cpu')}, {len(files)} clips, medians of {args.rounds} interleaved rounds\n")
    print(
        "| | imports s | cold s | times the bound | warm s | of the cold start |\n|---|---|---|---|---|---|"
    )
    print(f"| decoding and resampling alone (the bound) | | {middle['bound']:.1f} | 1.00 | | |")
    for script in SCRIPTS:
        imports, cold, warm = (middle[f"{script} {kind}"] for kind in ("imports", "cold", "warm"))
        print(
            f"| {script}.py | {imports:.1f} | {cold:.1f} | {cold / middle['bound']:.2f} | {warm:.2f} | "
            f"{warm / cold:.2f} |"
        )


def decode_all(files: list[Path]) -> None:
    def decode(path: Path) -> None:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        soxr.resample(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1), rate, SAMPLING_RATE)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(decode, files):
            pass


def timed_start(script: str, options: list[str]) -> tuple[float, float]:
    """Return the seconds of its imports, and from `main` to the first training step, in a new process."""
    command = [sys.executable, "-m", "benchmarks.startup", "--start", script, *SCRIPTS[script][0], *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return tuple(float(number) for number in done.stdout.splitlines()[-1].split())


def start(script: str, options: list[str]) -> None:
    begun = time.perf_counter()
    module = importlib.import_module(script)
    imports = time.perf_counter() - begun

    def stop(*_args, **_options):
        raise FirstStep

    place, name = SCRIPTS[script][1].rsplit(".", 1)
    owner = module if place == script else importlib.import_module("keras").Model
    setattr(owner, name, stop)
    sys.argv = [f"{script}.py", *options]
    begun = time.perf_counter()
    try:
        module.main()
    except FirstStep:
        print(imports, time.perf_counter() - begun)


if __name__ == "__main__":
    run_script(main)
