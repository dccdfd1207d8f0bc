"""Speed of encoding and fine-tuning in two processes on two cores, relative to one process; one thread each.

    python -m benchmarks.scaling --from_config tiny  # a quick look
    python -m benchmarks.scaling                     # base: about six minutes

Prints clips per second and the efficiency, speed of two / (2 * speed of one), medians of runs that take
turns. The clips are 3 seconds of noise and the weights are random: neither changes the duration. In
fine-tuning each process has batches of 8 clips, so two processes use 16 clips per step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from utils.data.audio import SAMPLING_RATE
from utils.runtime import PROJECT_ROOT, describe_device

ENCODED_CLIPS = {"tiny": 400, "base": 20}
"""So many that the duration of the start, such as loading weights, is negligible."""

TUNED_CLIPS = 16
WARM_UP, TIMED = 2, 6
"""Steps of the fine-tuning."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from_config", default="base", choices=list(ENCODED_CLIPS))
    parser.add_argument("--rounds", type=int, default=3, help="runs for each number of processes")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)  # where a process writes its speeds
    args = parser.parse_args()
    if args.worker:
        return measure(args.from_config, args.worker)

    print(f"{describe_device('cpu')}, {args.from_config}, {args.rounds} runs each")
    speeds = {1: [], 2: []}
    for _ in range(args.rounds):
        for num_processes, runs in speeds.items():
            runs.append(launch(args.from_config, num_processes))
            line = ", ".join(f"{stage} {speed:.2f}" for stage, speed in runs[-1].items())
            print(f"clips per second, {num_processes} process(es): {line}", flush=True)
    print(f"{'clips per second':20s}{'1 process':>12s}{'2 processes':>14s}{'efficiency':>14s}")
    for stage in speeds[1][0]:
        one, two = (statistics.median(run[stage] for run in runs) for runs in speeds.values())
        print(f"{stage:20s}{one:12.2f}{two:14.2f}{two / (2 * one):14.2f}")


def launch(size: str, num_processes: int) -> dict[str, float]:
    """Return the clips per second of each stage, measured in new processes with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "speeds.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
        command = [sys.executable, *launcher, "-m", "benchmarks.scaling", "--from_config", size]
        process = subprocess.run(
            [*command, "--worker", str(results)],
            cwd=PROJECT_ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise SystemExit(process.stderr[-3000:])
        return json.loads(results.read_text())


def measure(size: str, results: Path) -> None:
    """In one of several processes: encode and fine-tune as `train_wav2vec2.py` does, and write the speeds."""
    from train_wav2vec2 import ModelOptions, TrainingOptions
    from utils.encoders import build_classifier, training_arguments
    from utils.options import RunOptions

    # The same batch size per process, for one and for two processes.
    options = TrainingOptions(per_device_train_batch_size=8, lr_scheduler_type="linear")
    flags = ["--use_cpu=true", "--disable_tqdm=true", "--save_strategy=no", "--load_best_model_at_end=false"]
    flags += [f"--max_steps={WARM_UP + TIMED}", "--logging_strategy=steps", f"--logging_steps={WARM_UP}"]
    flags += ["--eval_strategy=steps", f"--eval_steps={WARM_UP + TIMED}"]
    with tempfile.TemporaryDirectory() as own_folder:
        args = training_arguments(options, RunOptions(output_dir=own_folder), flags)
        torch.manual_seed(0)
        model, extractor = build_classifier("", size, ("angry", "happy"))
        unfreeze_layers = ModelOptions.unfreeze_layers
        frames, speed = measure_encoding(model, extractor, size, results.parent, unfreeze_layers)
        speeds = {"encoding": speed}
        speeds["fine-tuning"] = measure_fine_tuning(model, frames, options, unfreeze_layers, args)
    if args.should_save:
        results.write_text(json.dumps(speeds))


def measure_encoding(model, extractor, size: str, folder: Path, unfreeze_layers: int):
    """Return the frames of noise, and the clips per second of its embedding."""
    from accelerate import PartialState

    from utils.encoders.embeddings import embed, fill_frames
    from utils.encoders.frames import Frames
    from utils.encoders.freezing import count_frames, count_frozen_layers

    generator = np.random.default_rng(0)
    noise = generator.standard_normal((ENCODED_CLIPS[size], 3 * SAMPLING_RATE), dtype=np.float32)
    waveforms = Dataset.from_dict({"waveform": list(noise)})
    num_samples, digests = [3 * SAMPLING_RATE] * len(noise), [str(row) for row in range(len(noise))]
    with PartialState().main_process_first():
        num_frames = count_frames(model, num_samples)
        layer = count_frozen_layers(model, unfreeze_layers)
        frames = Frames(folder / "frozen", layer, num_frames, model.config.hidden_size)
    start = time.perf_counter()
    embed(model, extractor, waveforms, num_samples, digests, folder / "cache")
    seconds = time.perf_counter() - start
    fill_frames(model, extractor, waveforms, num_samples, frames)
    return frames, len(noise) / seconds


def measure_fine_tuning(model, frames, options, unfreeze_layers: int, args) -> float:
    """Return the clips per second of fine-tuning on encoded clips."""
    from utils.encoders import FineTuning, FrozenClips, build_trainer, fine_tune

    train = FrozenClips(frames, np.arange(TUNED_CLIPS), np.arange(TUNED_CLIPS) % 2)
    validation = FrozenClips(frames, np.arange(2), np.arange(2))
    tuning = FineTuning(
        unfreeze_layers,
        None,
        options.head_learning_rate,
        options.class_weights,
        options.max_length_seconds,
        options.early_stopping_patience,
    )
    trainer, _ = build_trainer(model, train, validation, tuning, args)
    fine_tune(trainer, None)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry and entry["step"] > WARM_UP]
    clips_per_step = args.train_batch_size * args.world_size
    return TIMED * clips_per_step / sum(entry["seconds"] for entry in steps)


if __name__ == "__main__":
    main()
