"""What the kit does on a GPU, in at most eight minutes: a line of JSON for each step as soon as it is done.

    python -m benchmarks.gpu --bundle gpu_bundle --data_dir ~/ravdess --encoder ~/small_encoder   # at home
    bash gpu_bundle/run                                           # there; writes gpu_bundle/results.jsonl
    python -m benchmarks.gpu --table gpu_bundle/results.jsonl     # the table for the README

The bundle holds the code, RAVDESS of a dozen actors as 16 kHz FLAC, a small pretrained encoder, and wheels of
what a machine with Python 3.12, PyTorch, transformers, accelerate, scikit-learn and pandas lacks; it needs no
network there. Each step is a process of its own with a limit of its own, the most important one first; a step
that fails stops no other. Without a GPU they run with tiny sizes in some minutes, to show that they run.
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

MAX_SECONDS = 480
"""For all steps together."""

T4_GB = 15
"""Memory of the GPU that Colab and Kaggle lend."""

ACTORS = (*range(1, 7), *range(19, 25))
"""A dozen: six who train in the default split, and all who validate and test."""

WHEELS = (
    *("datasets", "evaluate", "librosa", "soundfile", "soxr", "dill", "multiprocess"),
    *("audioread", "pooch", "decorator", "platformdirs", "cffi", "pycparser"),
)
"""What such a machine lacks."""

WHEEL_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")

RUN = """#!/usr/bin/env bash
# Measures the kit on this machine's GPU; results.jsonl has a line for each step that is done.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
site=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$here"/wheels/*.whl
cd "$here/code"
PYTHONPATH=$site HF_HUB_OFFLINE=1 python3 -m benchmarks.gpu --bundled "$here" "$@"
"""


# ---------------------------------------------------------------------------------------------------
# The bundle


def make_bundle(folder: Path, data_dirs: list[Path], encoder: Path | None) -> None:
    """Write code, clips, encoder and `run` into a new folder."""
    import soundfile

    from utils.data.audio import SAMPLING_RATE, read_waveform
    from utils.data.download import find_corpora

    if folder.exists():
        raise InputError(f"--bundle {folder}: exists; expected a new folder")
    files = find_corpora(["ravdess"], data_dirs)["ravdess"]
    chosen = [file for file in files if int(file.stem.split("-")[-1]) in ACTORS]
    for file in chosen:
        target = folder / "clips" / f"Actor_{file.stem[-2:]}" / f"{file.stem}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, read_waveform(file), SAMPLING_RATE)
    tracked = ["git", "ls-files", "*.py", "model_card.md", "requirements.txt"]
    listed = subprocess.check_output(tracked, cwd=PROJECT_ROOT, text=True)
    for name in listed.splitlines():
        (folder / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT_ROOT / name, folder / "code" / name)
    if encoder:
        shutil.copytree(encoder, folder / "encoder")
    (folder / "run").write_text(RUN)


def fetch_wheels(folder: Path) -> None:
    """Download `WHEELS` for Python 3.12 on Linux, in the versions of constraints.txt."""
    options = [f"--platform={platform}" for platform in WHEEL_PLATFORMS]
    options += ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
    options += [f"--dest={folder}", f"--constraint={PROJECT_ROOT / 'constraints.txt'}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, *WHEELS], check=True)


# ---------------------------------------------------------------------------------------------------
# The steps. Each yields what it measured, piece by piece.


class Place:
    """Where the steps run: clips, encoder, a folder for what they leave, and whether there is a GPU."""

    def __init__(self, folder: Path, scratch: Path):
        import torch

        self.clips, self.scratch = folder / "clips", scratch
        self.encoder = folder / "encoder" if (folder / "encoder").exists() else None
        self.on_gpu = torch.cuda.is_available()
        self.sizes = {name: name if self.on_gpu else "tiny" for name in ("base", "large")}
        self.num_steps = 20 if self.on_gpu else 2

    def train(self, *options: str) -> Path:
        """Run train_wav2vec2.py on the clips; return the run's folder."""
        run = Path(tempfile.mkdtemp(dir=self.scratch))
        corpora = ["--corpora", "ravdess", "--data_dir", str(self.clips), "--allow_partial"]
        if "--demo" in options:
            corpora = []
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
        """The clips with their split (`holdout`), their waveforms, and the emotions."""
        from utils.data import load_clips, plan_models
        from utils.data.options import DataOptions

        cache_dir = str(self.scratch / "cache")
        clips = load_clips(
            DataOptions(["ravdess"], [str(self.clips)], allow_partial=True, cache_dir=cache_dir)
        )
        return plan_models(clips, "holdout", seed=42).final, clips.waveforms, clips.emotions


def demo(place: Place):
    place.train("--demo", "--num_train_epochs=2", "--emotions", "sad", "angry")
    yield {}


def trained(place: Place, precision: str):
    """Train, and compare what the run says of its test clips with what the saved model says on the CPU."""
    import numpy as np
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from utils.data.audio import SAMPLING_RATE
    from utils.encoders.freezing import unpadded_logits
    from utils.report.run_folder import load_reference_predictions

    encoder = [f"--model_name_or_path={place.encoder}"] if place.encoder else ["--from_config=tiny"]
    if not place.on_gpu:
        if precision == "fp16":
            yield {"skipped": "fp16 needs a GPU"}
            return
        precision = "fp32"
    begun = time.perf_counter()
    run = place.train(*encoder, "--num_train_epochs=1", f"--precision={precision}")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    yield {
        "precision": precision,
        "seconds_of_run": time.perf_counter() - begun,
        "uar": metrics["test"]["uar"],
    }
    waveforms, probabilities = load_reference_predictions(run)
    model = AutoModelForAudioClassification.from_pretrained(run, dtype=torch.float32).eval()
    extractor = AutoFeatureExtractor.from_pretrained(run)
    values = [extractor(one, sampling_rate=SAMPLING_RATE)["input_values"][0] for one in waveforms]
    with torch.inference_mode():
        logits = unpadded_logits(model, [torch.as_tensor(each) for each in values])
    on_cpu = logits.double().softmax(dim=-1).numpy()
    yield {
        "precision": precision,
        "clips": len(waveforms),
        "largest_difference": float(np.abs(on_cpu - probabilities).max()),
        "same_answer": float((on_cpu.argmax(axis=1) == probabilities.argmax(axis=1)).mean()),
    }


def recipe(place: Place, augmented: bool):
    """The default recipe of a base encoder, at two batch sizes."""
    for batch_size in (8, 32):
        trainer, _ = _our_trainer(place, "base", augmented, batch_size)
        yield _training_speed(place, trainer, "base", "augment" if augmented else "frozen", batch_size)


def encoder_pass(place: Place):
    """The pass over the clips, for the probe."""
    import torch

    from benchmarks.utilization import now
    from utils.encoders.classifier import build_classifier
    from utils.encoders.embeddings import embed

    split, waveforms, emotions = place.data
    for size, num_clips in (("base", 480), ("large", 240)):
        rows = split.iloc[: num_clips if place.on_gpu else 8]
        model, extractor = build_classifier("", place.sizes[size], emotions)
        model.to("cuda" if place.on_gpu else "cpu")
        for part in ("warm-up", "timed"):
            rows_of_part = rows.iloc[:8] if part == "warm-up" else rows
            _reset_memory(torch)
            begun = now()
            embed(
                model,
                extractor,
                waveforms.select(rows_of_part.index),
                rows_of_part["num_samples"].tolist(),
                rows_of_part["digest"].tolist(),
                Path(tempfile.mkdtemp(dir=place.scratch)),
            )
            seconds = now() - begun
        yield {
            "encoder": place.sizes[size],
            "clips_per_second": len(rows) / seconds,
            "minutes_for_1440_clips": 1440 / len(rows) * seconds / 60,
            "peak_gb": _peak_gb(torch),
        }


def lora(place: Place):
    trainer, _ = _our_trainer(place, "large", True, 8, lora=True)
    yield _training_speed(place, trainer, "large", "lora", 8)


def finish(place: Place):
    """What comes after the training of a base encoder: the test, robustness, occlusion."""
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

    split, waveforms, emotions = place.data
    model, extractor = build_classifier("", place.sizes["base"], emotions)
    model.to("cuda" if place.on_gpu else "cpu").eval()
    test = split[split["split"] == "test"]
    if not place.on_gpu:
        test = test.iloc[::20]

    def classify(clips):
        values = [extractor(clip, sampling_rate=SAMPLING_RATE)["input_values"][0] for clip in clips]
        with torch.inference_mode():
            logits = [unpadded_logits(model, [torch.as_tensor(each).to(model.device)]) for each in values]
        return torch.cat(logits).double().softmax(dim=-1).cpu().numpy()

    clips = Clips(build_dataset(test, waveforms, emotions)["test"], extractor)
    predict(model, [clips[0]], "warm-up")
    begun = now()
    predict(model, clips, "test")
    yield {"what": "test", "clips": len(clips), "seconds": now() - begun}
    begun = now()
    for row in test.index[:: max(1, len(test) // len(emotions))]:
        occlude(classify, Waveforms(waveforms)[row], SAMPLING_RATE, 0)
    yield {"what": "occlusion", "seconds": now() - begun}
    if place.on_gpu:
        begun = now()
        measure_robustness(classify, test, waveforms, emotions, 0)
        yield {"what": "robustness", "clips": len(test), "seconds": now() - begun}


def usual(place: Place):
    """The recipe of most notebooks and the kit's, in turn, on the same clips."""
    from benchmarks.trainers import BATCH_SIZE, usual_trainer
    from benchmarks.utilization import time_steps

    trainers = {}
    trainers["augment"], rows = _our_trainer(place, "base", True, BATCH_SIZE)
    trainers["frozen"], _ = _our_trainer(place, "base", False, BATCH_SIZE)
    labels = [place.data[2].index(emotion) for emotion in rows["emotion"]]
    trainers["usual"] = usual_trainer(place.sizes["base"], rows, labels, str(place.scratch / "usual"))
    seconds = {name: [] for name in trainers}
    for number in range(3):
        for name, trainer in trainers.items():
            taken = time_steps(trainer, place.num_steps)
            if number:  # the first allocates
                seconds[name].append(taken)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    for name in ("augment", "frozen"):
        yield {"recipe": name, "times_the_usual": middle["usual"] / middle[name]}


def _our_trainer(place: Place, size: str, augmented: bool, batch_size: int, lora: bool = False):
    """Return a Trainer on as many training clips as its steps need, and the rows of these."""
    import numpy as np

    from benchmarks.trainers import choose_batches, our_trainer
    from train_wav2vec2 import ModelOptions
    from utils.data.audio import SAMPLING_RATE
    from utils.data.dataset import build_dataset
    from utils.encoders.batches import Clips, EqualLengthSampler
    from utils.encoders.classifier import build_classifier
    from utils.encoders.embeddings import embed
    from utils.encoders.frames import Frames
    from utils.encoders.freezing import count_frames, num_used_layers
    from utils.encoders.partial_model import FrozenClips

    split, waveforms, emotions = place.data
    train = split[split["split"] == "train"]
    lengths = train["num_samples"].to_numpy()
    sampler = EqualLengthSampler(lengths, batch_size, 4 * SAMPLING_RATE, seed=42)
    rows = train.iloc[choose_batches(sampler, place.num_steps)]
    rows = rows[~rows.index.duplicated()]
    model, extractor = build_classifier("", place.sizes[size], emotions)
    if augmented:
        clips = Clips(build_dataset(rows, waveforms, emotions)["train"], extractor, augmented=True)
    else:
        model.to("cuda" if place.on_gpu else "cpu")
        folder = Path(tempfile.mkdtemp(dir=place.scratch))
        lengths = rows["num_samples"].tolist()
        layer = num_used_layers(model.config) - ModelOptions.unfreeze_layers
        frames = Frames(folder, layer, count_frames(model, lengths), model.config.hidden_size)
        digests = rows["digest"].tolist()
        means = embed(model, extractor, waveforms.select(rows.index), lengths, digests, folder, frames)
        labels = [emotions.index(emotion) for emotion in rows["emotion"]]
        clips = FrozenClips(frames, means, np.arange(len(rows)), labels)
    folder = tempfile.mkdtemp(dir=place.scratch)
    return our_trainer(place.sizes[size], clips, emotions, folder, augmented, lora, batch_size), rows


def _training_speed(place: Place, trainer, size: str, kind: str, batch_size: int) -> dict:
    """Return the speed of a Trainer's steps, its memory, and how well it uses the GPU."""
    import numpy as np
    import torch

    from benchmarks.utilization import busy_share, clip_flops, peak_tflops, time_steps

    time_steps(trainer, 2)
    _reset_memory(torch)
    per_step = time_steps(trainer, place.num_steps) / place.num_steps
    found = {
        "encoder": place.sizes[size],
        "recipe": kind,
        "batch_size": batch_size,
        "seconds_per_step": per_step,
        "clips_per_second": batch_size / per_step,
        "seconds_per_epoch_of_960_clips": 960 / batch_size * per_step,
        "peak_gb": _peak_gb(torch),
    }
    if place.on_gpu:
        found["share_of_a_t4"] = found["peak_gb"] / T4_GB
        lengths = np.minimum(place.data[0].query("split == 'train'")["num_samples"], 64_000)
        model = trainer.model
        config = getattr(model, "config", None) or model._config
        flops = statistics.mean(clip_flops(config, int(length), kind) for length in lengths[::10])
        peak = peak_tflops(None, trainer.args.fp16 or trainer.args.bf16)
        found["busy_share"] = busy_share(trainer, place.num_steps)
        found["share_of_peak"] = flops * batch_size / per_step / peak / 1e12 if peak else None
    return found


def _reset_memory(torch) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gb(torch) -> float | None:
    return torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else None


STEPS: dict[str, tuple[int, Callable]] = {
    "demo": (60, demo),
    "trained, bf16": (90, functools.partial(trained, precision="bf16")),
    "trained, fp16": (90, functools.partial(trained, precision="fp16")),
    "recipe, --augment": (60, functools.partial(recipe, augmented=True)),
    "recipe": (60, functools.partial(recipe, augmented=False)),
    "pass": (60, encoder_pass),
    "LoRA, large": (60, lora),
    "finish": (90, finish),
    "against the usual recipe": (60, usual),
}
"""In order of importance: name -> seconds at most, and what yields its figures."""


# ---------------------------------------------------------------------------------------------------
# Running them


def run_steps(folder: Path, results: Path) -> None:
    """Run each step in a process of its own; its lines go to `results` as it measures."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        # Without a GPU nobody waits for a machine that is lent.
        patience = 1 if Place(folder, Path(scratch)).on_gpu else 4
        for name, (limit, _) in STEPS.items():
            left = patience * MAX_SECONDS - (time.monotonic() - start)
            begun = time.monotonic()
            error = "no time was left" if left < 10 else None
            if not error:
                command = [sys.executable, "-m", "benchmarks.gpu", "--bundled", str(folder), "--step", name]
                command += ["--results", str(results), "--scratch", scratch]
                error = run_limited(command, min(patience * limit, left))
            taken = time.monotonic() - begun
            _note(results, {"step": name, "seconds": taken, "error": error})
            logger.info("%-6s %5.0f s  %s", "FAILED" if error else "ok", taken, name)
            if error:
                logger.info("%s", error)


def run_limited(command: list[str], seconds: float) -> str | None:
    """Run a command and what it starts; return what went wrong."""
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


def _note(results: Path, line: dict) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def one_step(name: str, folder: Path, results: Path, scratch: Path) -> None:
    """Run a step in this process, and note each piece of it."""
    place = Place(folder, scratch)
    device = describe_device("cuda" if place.on_gpu else "cpu")
    for found in STEPS[name][1](place):
        _note(results, {"step": name, "device": device, "date": str(date.today())} | found)


# ---------------------------------------------------------------------------------------------------
# The table


def table(results: Path) -> str:
    """Return the results as Markdown: a line for each piece that was measured."""
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
            text.append(f"| {line['step']} | did not end: {line['error'].strip().splitlines()[-1]} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("--bundle", type=Path, help="make this folder")
    parser.add_argument("--data_dir", nargs="+", type=Path, default=[], help="folders or zips with RAVDESS")
    parser.add_argument("--encoder", type=Path, help="folder of a small pretrained encoder")
    parser.add_argument("--table", type=Path, help="print these results as a table")
    parser.add_argument("--bundled", type=Path, help="run the steps on what this folder holds")
    parser.add_argument("--results", type=Path, help="file for their lines; default: in that folder")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bundle:
        make_bundle(args.bundle, args.data_dir, args.encoder)
        fetch_wheels(args.bundle / "wheels")
        megabytes = sum(path.stat().st_size for path in args.bundle.rglob("*") if path.is_file()) / 1e6
        logger.info("%s: %.1f MB. There: bash %s/run", args.bundle, megabytes, args.bundle.name)
    elif args.table:
        print(table(args.table))
    elif not args.bundled:
        raise InputError("expected one of --bundle, --bundled and --table; --help says what they do")
    elif args.step:
        one_step(args.step, args.bundled.resolve(), args.results, args.scratch)
    else:
        results = (args.results or args.bundled / "results.jsonl").resolve()
        results.unlink(missing_ok=True)
        run_steps(args.bundled.resolve(), results)


if __name__ == "__main__":
    run_script(main)
