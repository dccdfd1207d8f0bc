"""Benchmark of the kit on a GPU in at most nine minutes; each result is a line of JSON, written at once.

    python -m benchmarks.gpu --bundle gpu_bundle --data_dir ~/ravdess --encoders ~/encoder ~/other_encoder
    bash gpu_bundle/run     # on the machine with the GPU; writes gpu_bundle/results.jsonl
    python -m benchmarks.gpu --table gpu_bundle/results.jsonl     # prints the table for the README

The bundle contains the code, the clips of twelve RAVDESS actors as 16 kHz FLAC, small pretrained encoders and
wheels of packages. The machine with the GPU needs Python 3.12, PyTorch, transformers, accelerate,
scikit-learn and pandas, but no network. The steps run in order of importance, each in its own process with
its own time limit. After a failed step the others still run. Without a GPU the steps run with tiny models and
two emotions, as a test: in three minutes on two CPU cores.
"""

import argparse
import functools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from utils.runtime import PROJECT_ROOT, InputError, describe_device, logger, refuse_arguments, run_script

MAX_SECONDS = 540
"""Time limit of all steps together."""

T4_GB = 15
"""Memory of the GPU that Colab and Kaggle offer without charge."""

ACTORS = (*range(1, 7), *range(19, 25))
"""Six of the training actors of the default split, and all of its validation and test actors."""

WHEELS = (
    *("datasets", "evaluate", "librosa", "soundfile", "soxr", "dill", "multiprocess"),
    *("audioread", "pooch", "decorator", "platformdirs", "cffi", "pycparser"),
)
"""Packages that the machine with the GPU may lack."""

WHEEL_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")

RUN = """#!/usr/bin/env bash
# Runs the benchmark of the kit on the GPU of this machine; results.jsonl has a line per result.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
site=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$here"/wheels/*.whl
cd "$here/code"
PYTHONPATH=$site HF_HUB_OFFLINE=1 python3 -m benchmarks.gpu --bundled "$here" "$@"
"""


# ---------------------------------------------------------------------------------------------------
# The bundle


def make_bundle(folder: Path, data_dirs: list[Path], encoders: list[Path]) -> None:
    """Write the code, clips, encoders and `run` to a new folder."""
    import soundfile

    from utils.data.audio import SAMPLING_RATE, read_waveform
    from utils.data.download import find_corpora

    if folder.exists():
        raise InputError(f"--bundle {folder}: exists; expected a new folder")
    files = find_corpora(["ravdess"], data_dirs)["ravdess"]
    selected = [file for file in files if int(file.stem.split("-")[-1]) in ACTORS]
    for file in selected:
        target = folder / "clips" / f"Actor_{file.stem[-2:]}" / f"{file.stem}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, read_waveform(file), SAMPLING_RATE)
    tracked = ["git", "ls-files", "*.py", "model_card.md", "requirements.txt"]
    listed = subprocess.check_output(tracked, cwd=PROJECT_ROOT, text=True)
    for name in listed.splitlines():
        (folder / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT_ROOT / name, folder / "code" / name)
    for encoder in encoders:
        shutil.copytree(encoder, folder / "encoders" / encoder.name)
    (folder / "run").write_text(RUN)


def fetch_wheels(folder: Path) -> None:
    """Download `WHEELS` for Python 3.12 on Linux, with the versions of constraints.txt."""
    options = [f"--platform={platform}" for platform in WHEEL_PLATFORMS]
    options += ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
    options += [f"--dest={folder}", f"--constraint={PROJECT_ROOT / 'constraints.txt'}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, *WHEELS], check=True)


# ---------------------------------------------------------------------------------------------------
# The steps. Each yields its results.


class Setup:
    """Clips, encoders, folder for temporary files and device of the steps."""

    def __init__(self, folder: Path, scratch: Path):
        import torch

        self.clips, self.scratch = folder / "clips", scratch
        self.encoders = sorted((folder / "encoders").glob("*"))
        self.on_gpu = torch.cuda.is_available()
        self.sizes = {name: name if self.on_gpu else "tiny" for name in ("base", "large")}
        self.num_steps = 20 if self.on_gpu else 2

    def train(self, *options: str) -> Path:
        """Run train_wav2vec2.py on the clips, and return the run folder."""
        run = Path(tempfile.mkdtemp(dir=self.scratch))
        corpora = ["--corpora", "ravdess", "--data_dir", str(self.clips), "--allow_partial"]
        if "--demo" in options:
            corpora = []
        if not self.on_gpu:
            options += ("--emotions", "sad", "angry")
        command = ["train_wav2vec2.py", *corpora, *options, f"--output_dir={run}"]
        done = subprocess.run(
            [sys.executable, *command, f"--cache_dir={self.scratch / 'cache'}", "--robustness=false"],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-3000:]}")
        return run

    @functools.cached_property
    def data(self) -> tuple:
        """Table of the clips with their split (`holdout`), waveforms and emotions."""
        from utils.data import load_clips, plan_models
        from utils.data.options import DataOptions

        cache_dir = str(self.scratch / "cache")
        clips = load_clips(
            DataOptions(["ravdess"], [str(self.clips)], allow_partial=True, cache_dir=cache_dir)
        )
        return plan_models(clips, "holdout", seed=42).final, clips.waveforms, clips.emotions


def run_demo(setup: Setup):
    setup.train("--demo", "--num_train_epochs=1")
    yield {}


def train_and_verify(setup: Setup, precision: str):
    """Train models, and compare the probabilities of each run with those of the saved model on the CPU."""
    import numpy as np
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from utils.encoders import DeployedClassifier
    from utils.report.run_folder import load_reference_predictions

    if not setup.on_gpu:
        if precision == "fp16":
            yield {"skipped": "fp16 needs a GPU"}
            return
        precision = "fp32"
    for encoder in setup.encoders or ["tiny"]:
        option = "model_name_or_path" if setup.encoders else "from_config"
        start = time.perf_counter()
        run = setup.train(f"--{option}={encoder}", "--num_train_epochs=1", f"--precision={precision}")
        seconds = time.perf_counter() - start
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        waveforms, probabilities = load_reference_predictions(run)
        model = AutoModelForAudioClassification.from_pretrained(run, dtype=torch.float32)
        on_cpu = DeployedClassifier(model, AutoFeatureExtractor.from_pretrained(run)).predict_proba(waveforms)
        yield {
            "encoder": Path(encoder).name,
            "precision": precision,
            "seconds_of_run": seconds,
            "uar": metrics["test"]["uar"],
            "clips": len(waveforms),
            "largest_difference": float(np.abs(on_cpu - probabilities).max()),
            "same_answer": float((on_cpu.argmax(axis=1) == probabilities.argmax(axis=1)).mean()),
        }


def measure_recipe(setup: Setup, augmented: bool):
    """Measure the speed of the default recipe with a base encoder and two batch sizes."""
    for batch_size in (8, 32):
        trainer, _ = _our_trainer(setup, "base", augmented, batch_size)
        yield _training_speed(setup, trainer, "base", "augment" if augmented else "frozen", batch_size)


def measure_encoder_pass(setup: Setup):
    """Measure the speed of encoding the clips for the probe."""
    import torch

    from benchmarks.utilization import now
    from utils.encoders.classifier import build_classifier
    from utils.encoders.embeddings import embed

    split, waveforms, emotions = setup.data
    for size, num_clips in (("base", 480), ("large", 240)):
        rows = split.iloc[: num_clips if setup.on_gpu else 8]
        model, extractor = build_classifier("", setup.sizes[size], emotions)
        model.to("cuda" if setup.on_gpu else "cpu")
        for part in ("warm-up", "timed"):
            rows_of_part = rows.iloc[:8] if part == "warm-up" else rows
            _reset_memory(torch)
            start = now()
            embed(
                model,
                extractor,
                waveforms.select(rows_of_part.index),
                rows_of_part["num_samples"].tolist(),
                rows_of_part["digest"].tolist(),
                Path(tempfile.mkdtemp(dir=setup.scratch)),
            )
            seconds = now() - start
        yield {
            "encoder": setup.sizes[size],
            "clips_per_second": len(rows) / seconds,
            "minutes_for_1440_clips": 1440 / len(rows) * seconds / 60,
            "peak_gb": _peak_gb(torch),
        }


def measure_lora(setup: Setup):
    trainer, _ = _our_trainer(setup, "large", True, 8, lora=True)
    yield _training_speed(setup, trainer, "large", "lora", 8)


def measure_evaluation(setup: Setup):
    """Measure the duration of the test, the occlusion and the robustness evaluation of a base encoder."""
    import torch

    from benchmarks.utilization import now
    from utils.data.audio import SAMPLING_RATE
    from utils.data.dataset import build_dataset
    from utils.data.decoding import Waveforms
    from utils.encoders.batches import Clips
    from utils.encoders.classifier import build_classifier
    from utils.encoders.freezing import predict, unpadded_logits
    from utils.evaluation.explanations import occlude
    from utils.evaluation.robustness import measure_robustness

    split, waveforms, emotions = setup.data
    model, extractor = build_classifier("", setup.sizes["base"], emotions)
    model.to("cuda" if setup.on_gpu else "cpu").eval()
    test = split[split["split"] == "test"]
    if not setup.on_gpu:
        test = test.iloc[::20]

    def classify(clips):
        inputs = [extractor(clip, sampling_rate=SAMPLING_RATE)["input_values"][0] for clip in clips]
        with torch.inference_mode():
            logits = [unpadded_logits(model, [torch.as_tensor(each).to(model.device)]) for each in inputs]
        return torch.cat(logits).double().softmax(dim=-1).cpu().numpy()

    clips = Clips(build_dataset(test, waveforms, emotions)["test"], extractor)
    predict(model, [clips[0]], "warm-up")
    start = now()
    predict(model, clips, "test")
    yield {"what": "test", "clips": len(clips), "seconds": now() - start}
    start = now()
    for row in test.index[:: max(1, len(test) // len(emotions))]:
        occlude(classify, Waveforms(waveforms)[row], SAMPLING_RATE, 0)
    yield {"what": "occlusion", "seconds": now() - start}
    if setup.on_gpu:
        start = now()
        measure_robustness(classify, test, waveforms, emotions, 0)
        yield {"what": "robustness", "clips": len(test), "seconds": now() - start}


def compare_with_usual_recipe(setup: Setup):
    """Measure the recipes of this kit and of most notebooks alternately, on the same clips."""
    from benchmarks.trainers import BATCH_SIZE, usual_trainer
    from benchmarks.utilization import time_steps

    trainers = {}
    trainers["augment"], rows = _our_trainer(setup, "base", True, BATCH_SIZE)
    trainers["frozen"], _ = _our_trainer(setup, "base", False, BATCH_SIZE)
    labels = [setup.data[2].index(emotion) for emotion in rows["emotion"]]
    trainers["usual"] = usual_trainer(setup.sizes["base"], rows, labels, str(setup.scratch / "usual"))
    seconds = {name: [] for name in trainers}
    for repetition in range(3):
        for name, trainer in trainers.items():
            duration = time_steps(trainer, setup.num_steps)
            if repetition > 0:  # the first one includes memory allocation
                seconds[name].append(duration)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name in ("augment", "frozen"):
        yield {"recipe": name, "times_the_usual": medians["usual"] / medians[name]}


def _our_trainer(setup: Setup, size: str, augmented: bool, batch_size: int, lora: bool = False):
    """Return a Trainer with as many training clips as its steps need, and the table of these clips."""
    import numpy as np

    from benchmarks.trainers import choose_batches, our_trainer
    from train_wav2vec2 import ModelOptions
    from utils.data.audio import SAMPLING_RATE
    from utils.data.dataset import build_dataset
    from utils.encoders.batches import Clips, EqualLengthSampler
    from utils.encoders.classifier import build_classifier
    from utils.encoders.embeddings import fill_frames
    from utils.encoders.frames import Frames
    from utils.encoders.freezing import count_frames, count_frozen_layers
    from utils.encoders.partial_model import FrozenClips

    split, waveforms, emotions = setup.data
    train = split[split["split"] == "train"]
    lengths = train["num_samples"].to_numpy()
    sampler = EqualLengthSampler(lengths, batch_size, 4 * SAMPLING_RATE, seed=42)
    rows = train.iloc[choose_batches(sampler, setup.num_steps)]
    rows = rows[~rows.index.duplicated()]
    model, extractor = build_classifier("", setup.sizes[size], emotions)
    if augmented:
        clips = Clips(build_dataset(rows, waveforms, emotions)["train"], extractor, augmented=True)
    else:
        model.to("cuda" if setup.on_gpu else "cpu")
        folder = Path(tempfile.mkdtemp(dir=setup.scratch))
        lengths = rows["num_samples"].tolist()
        layer = count_frozen_layers(model, ModelOptions.unfreeze_layers)
        frames = Frames(folder, layer, count_frames(model, lengths), model.config.hidden_size)
        fill_frames(model, extractor, waveforms.select(rows.index), lengths, frames)
        labels = [emotions.index(emotion) for emotion in rows["emotion"]]
        clips = FrozenClips(frames, np.arange(len(rows)), labels)
    folder = tempfile.mkdtemp(dir=setup.scratch)
    return our_trainer(setup.sizes[size], clips, emotions, folder, augmented, lora, batch_size), rows


def _training_speed(setup: Setup, trainer, size: str, kind: str, batch_size: int) -> dict:
    """Return the speed, peak memory and GPU utilization of the steps of a Trainer."""
    import numpy as np
    import torch

    from benchmarks.utilization import busy_share, clip_flops, peak_tflops, time_steps

    time_steps(trainer, 2)
    _reset_memory(torch)
    per_step = time_steps(trainer, setup.num_steps)
    result = {
        "encoder": setup.sizes[size],
        "recipe": kind,
        "batch_size": batch_size,
        "seconds_per_step": per_step,
        "clips_per_second": batch_size / per_step,
        "seconds_per_epoch_of_960_clips": 960 / batch_size * per_step,
        "peak_gb": _peak_gb(torch),
    }
    if setup.on_gpu:
        result["share_of_a_t4"] = result["peak_gb"] / T4_GB
        lengths = np.minimum(setup.data[0].query("split == 'train'")["num_samples"], 64_000)
        model = trainer.model
        config = getattr(model, "config", None) or model._config
        flops = statistics.mean(clip_flops(config, int(length), kind) for length in lengths[::10])
        peak = peak_tflops(None, trainer.args.fp16 or trainer.args.bf16)
        result["busy_share"] = busy_share(trainer, 5)
        result["share_of_peak"] = flops * batch_size / per_step / peak / 1e12 if peak else None
    return result


def _reset_memory(torch) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gb(torch) -> float | None:
    return torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else None


STEPS: dict[str, tuple[int, Callable]] = {
    "recipe, --augment": (60, functools.partial(measure_recipe, augmented=True)),
    "recipe": (60, functools.partial(measure_recipe, augmented=False)),
    "pass": (60, measure_encoder_pass),
    "against the usual recipe": (60, compare_with_usual_recipe),
    "LoRA, large": (90, measure_lora),
    "finish": (90, measure_evaluation),
    "trained, bf16": (200, functools.partial(train_and_verify, precision="bf16")),
    "trained, fp16": (200, functools.partial(train_and_verify, precision="fp16")),
    "demo": (120, run_demo),
}
"""Name -> time limit in seconds, and function that yields the results; in order of importance."""


# ---------------------------------------------------------------------------------------------------
# Running the steps


def run_steps(folder: Path, results: Path) -> None:
    """Run each step in its own process, which appends its results to the file `results`."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        # Without a GPU the duration matters less, and the steps are slower.
        limit_factor = 1 if Setup(folder, Path(scratch)).on_gpu else 4
        for name, (limit, _) in STEPS.items():
            seconds_left = limit_factor * MAX_SECONDS - (time.monotonic() - start)
            step_start = time.monotonic()
            error = "no time was left" if seconds_left < 10 else None
            if not error:
                command = [sys.executable, "-m", "benchmarks.gpu", "--bundled", str(folder), "--step", name]
                command += ["--results", str(results), "--scratch", scratch]
                error = run_limited(command, min(limit_factor * limit, seconds_left))
            duration = time.monotonic() - step_start
            _append(results, {"step": name, "seconds": duration, "error": error})
            logger.info("%-6s %5.0f s  %s", "FAILED" if error else "ok", duration, name)
            if error:
                logger.info("%s", error)


def run_limited(command: list[str], seconds: float) -> str | None:
    """Run a command, and kill it and its child processes at the time limit; return the error message."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            if not process.wait(seconds):
                return None
            reason = ""
        except subprocess.TimeoutExpired:
            reason = f"took longer than {seconds:.0f} s\n"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return reason + output.read()[-2000:]


def _append(results: Path, line: dict) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def run_step(name: str, folder: Path, results: Path, scratch: Path) -> None:
    """Run a step in this process, and append each of its results to the file `results`."""
    setup = Setup(folder, scratch)
    device = describe_device("cuda" if setup.on_gpu else "cpu")
    for result in STEPS[name][1](setup):
        _append(results, {"step": name, "device": device, "date": str(date.today())} | result)


# ---------------------------------------------------------------------------------------------------
# The table


def table(results: Path) -> str:
    """Return the results as a Markdown table with a row per result and failed step."""
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if "device" in line]
    if not measured:
        raise InputError(f"--table {results}: holds no figure")
    first = measured[0]
    text = [f"{first['device']}, {first['date']}, by `bash gpu_bundle/run`:", ""]
    text += ["| step | figures |", "|---|---|"]
    for line in measured:
        figures = [
            f"{name.replace('_', ' ')} {value if isinstance(value, (str, int)) else format(value, '.3g')}"
            for name, value in line.items()
            if name not in ("step", "device", "date") and value is not None
        ]
        text.append(f"| {line['step']} | {', '.join(figures) or 'ran'} |")
    for line in lines:
        if line.get("error"):
            output = line["error"].strip().splitlines()
            reason = output[0] if output[0].startswith("took longer") else output[-1]
            text.append(f"| {line['step']} | did not end: {reason} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("--bundle", type=Path, help="create this bundle")
    parser.add_argument("--data_dir", nargs="+", type=Path, default=[], help="folders or zips of RAVDESS")
    parser.add_argument(
        "--encoders", nargs="+", type=Path, default=[], help="folders of small pretrained encoders"
    )
    parser.add_argument("--table", type=Path, help="print these results as a table")
    parser.add_argument("--bundled", type=Path, help="run the steps with this bundle")
    parser.add_argument(
        "--results", type=Path, help="file for the results; default: results.jsonl in the bundle"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bundle:
        make_bundle(args.bundle, args.data_dir, args.encoders)
        fetch_wheels(args.bundle / "wheels")
        megabytes = sum(path.stat().st_size for path in args.bundle.rglob("*") if path.is_file()) / 1e6
        logger.info(
            "%s: %.1f MB. On the machine with the GPU: bash %s/run",
            args.bundle,
            megabytes,
            args.bundle.name,
        )
    elif args.table:
        print(table(args.table))
    elif not args.bundled:
        raise InputError("expected one of --bundle, --bundled and --table; --help explains them")
    elif args.step:
        run_step(args.step, args.bundled.resolve(), args.results, args.scratch)
    else:
        results = (args.results or args.bundled / "results.jsonl").resolve()
        results.unlink(missing_ok=True)
        run_steps(args.bundled.resolve(), results)


if __name__ == "__main__":
    run_script(main)
