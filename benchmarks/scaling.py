"""How much two processes on two cores gain over one, a thread each: the encoder's pass, and fine-tuning.

    python -m benchmarks.scaling --from_config tiny  # a quick look
    python -m benchmarks.scaling                     # base: some six minutes

Prints clips per second and the efficiency, speed of two / (2 * speed of one), from the medians of runs that
take turns. The clips are noise of 3 seconds and the weights random: neither changes the time. Each process
has batches of 8 clips in fine-tuning, so that two take 16 a step.
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

PASS_CLIPS = {"tiny": 400, "base": 20}
"""So many that what comes once, such as reading the weights, does not count."""

TUNED_CLIPS = 16
WARM_UP, TIMED = 2, 6
"""Steps of the fine-tuning."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from_config", default="base", choices=list(PASS_CLIPS))
    parser.add_argument("--rounds", type=int, default=3, help="runs of each number of processes")
    parser.add_argument("--one_of", type=Path, help="for its own processes: where to note speeds")
    args = parser.parse_args()
    if args.one_of:
        return measure(args.from_config, args.one_of)

    print(f"{describe_device('cpu')}, {args.from_config}, {args.rounds} runs each")
    speeds = {1: [], 2: []}
    for _ in range(args.rounds):
        for num_processes, noted in speeds.items():
            noted.append(launch(args.from_config, num_processes))
            told = ", ".join(f"{stage} {speed:.2f}" for stage, speed in noted[-1].items())
            print(f"clips per second, {num_processes} process(es): {told}", flush=True)
    print(f"{'clips per second':20s}{'1 process':>12s}{'2 processes':>14s}{'efficiency':>14s}")
    for stage in speeds[1][0]:
        one, two = (statistics.median(run[stage] for run in noted) for noted in speeds.values())
        print(f"{stage:20s}{one:12.2f}{two:14.2f}{two / (2 * one):14.2f}")


def launch(size: str, num_processes: int) -> dict[str, float]:
    """Return the clips per second of each stage, from fresh processes of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "speeds.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
        command = [sys.executable, *launcher, "-m", "benchmarks.scaling", "--from_config", size]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--one_of", str(note)],
            cwd=PROJECT_ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return json.loads(note.read_text())


def measure(size: str, note: Path) -> None:
    """Do, as one of several processes, what `train_wav2vec2.py` does of it."""
    from accelerate import PartialState

    from train_wav2vec2 import (
        DataArguments,
        ModelArguments,
        RunArguments,
        build_model,
        build_trainer,
        fine_tune,
    )
    from utils.encoders.embeddings import embed
    from utils.encoders.frames import Frames
    from utils.encoders.freezing import count_frames, num_used_layers
    from utils.encoders.partial_model import FrozenClips

    with tempfile.TemporaryDirectory() as own:
        args = RunArguments(
            output_dir=own,
            use_cpu=True,
            per_device_train_batch_size=8,  # as much for each of two processes as for one
            max_steps=WARM_UP + TIMED,
            logging_strategy="steps",
            logging_steps=WARM_UP,
            eval_strategy="steps",
            eval_steps=WARM_UP + TIMED,
            save_strategy="no",
            load_best_model_at_end=False,
            lr_scheduler_type="linear",
            disable_tqdm=True,
        )
        model_args = ModelArguments(from_config=size)
        torch.manual_seed(0)
        model, extractor = build_model(model_args, ("angry", "happy"))
        generator = np.random.default_rng(0)
        noise = generator.standard_normal((PASS_CLIPS[size], 3 * SAMPLING_RATE), dtype=np.float32)
        waveforms = Dataset.from_dict({"waveform": list(noise)})

        num_samples, digests = [3 * SAMPLING_RATE] * len(noise), [str(row) for row in range(len(noise))]
        layer = num_used_layers(model.config) - model_args.unfreeze_layers
        with PartialState().main_process_first():
            num_frames = count_frames(model, num_samples)
            frames = Frames(note.parent / "frozen", layer, num_frames, model.config.hidden_size)
        begun = time.perf_counter()
        means = embed(model, extractor, waveforms, num_samples, digests, note.parent / "cache", frames)
        speeds = {"the encoder's pass": len(noise) / (time.perf_counter() - begun)}

        train = FrozenClips(frames, means, np.arange(TUNED_CLIPS), np.arange(TUNED_CLIPS) % 2)
        validation = FrozenClips(frames, means, np.arange(2), np.arange(2))
        trainer, _ = build_trainer(model, train, validation, DataArguments(), model_args, args)
        fine_tune(trainer, None)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry and entry["step"] > WARM_UP]
    clips_per_step = args.train_batch_size * args.world_size
    speeds["fine-tuning"] = TIMED * clips_per_step / sum(entry["seconds"] for entry in steps)
    if args.should_save:
        note.write_text(json.dumps(speeds))


if __name__ == "__main__":
    main()
