"""Duration of a probe, with a pass and all 24 folds of leave one speaker out, and of fine-tuning one fold.

    python -m benchmarks.probe --data_dir ~/ravdess
    python -m benchmarks.probe --data_dir ~/ravdess --from_config tiny  # a quick look

Prints seconds and ratios. The weights are random: the duration is the same as with pretrained weights, and
the accuracy is not measured. Some steps of the fine-tuning are timed, and the duration of all steps of 3
epochs is computed from them. LOSO: leave one speaker out.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from train_wav2vec2 import ModelOptions, TrainingOptions
from utils.data.dataset import build_dataset
from utils.data.loading import LoadedClips, load_clips, plan_models
from utils.data.options import DataOptions
from utils.data.splits import training_parts
from utils.encoders import FineTuning, build_classifier, build_trainer, training_arguments
from utils.encoders.batches import Clips
from utils.encoders.classifier import SIZES
from utils.encoders.embeddings import embed
from utils.encoders.probe import fit_probes
from utils.options import RunOptions
from utils.runtime import describe_device, logger, run_script

NUM_EPOCHS = 3
WARM_UP, TIMED = 5, 20
"""Steps of the fine-tuning."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS speech")
    parser.add_argument("--from_config", default="base", choices=list(SIZES))
    parser.add_argument("--no_fine_tuning", action="store_true", help="leave out the fine-tuning")
    args = parser.parse_args()

    clips = load_clips(DataOptions(corpora=["ravdess"], data_dir=args.data_dir, protocol="loso"))
    folds = plan_models(clips, "loso", RunOptions.seed).folds
    model, extractor = build_classifier("", args.from_config, clips.emotions)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    num_clips = len(clips.table)
    print(f"{describe_device(device)}, {args.from_config}, {num_clips} clips, {len(folds)} folds")

    start = time.perf_counter()
    means = encode(model.to(device), extractor, clips)
    encoding = time.perf_counter() - start
    print(f"one pass of the encoder      {encoding:8.0f} s, {num_clips / encoding:.1f} clips per second")
    start = time.perf_counter()
    parts = training_parts(folds.values(), "loso")
    fit_probes(means, clips.table["label"].to_numpy(), parts, len(clips.emotions))
    probing = time.perf_counter() - start
    print(f"nested LOSO of the probe     {probing:8.0f} s, {probing / encoding:.2f} of the pass")
    if args.no_fine_tuning:
        return

    logger.setLevel(logging.WARNING)
    dataset = build_dataset(next(iter(folds.values())), clips.waveforms, clips.emotions)
    for num_layers in sorted({ModelOptions.unfreeze_layers, model.config.num_hidden_layers}):
        seconds = time_fine_tuning(args.from_config, num_layers, dataset, clips.emotions)
        print(
            f"{NUM_EPOCHS} epochs, {num_layers:2d} layers tuned    {seconds:8.0f} s, "
            f"{seconds / (encoding + probing):.1f} times the pass and LOSO together"
        )


def encode(model: torch.nn.Module, extractor, clips: LoadedClips):
    """Return the layer means of all clips, without a cache."""
    table = clips.table
    with tempfile.TemporaryDirectory() as cache:
        return embed(
            model,
            extractor,
            clips.waveforms.select(table.index),
            table["num_samples"].tolist(),
            table["digest"].tolist(),
            Path(cache),
        )


def time_fine_tuning(size: str, num_layers: int, dataset, emotions: tuple[str, ...]) -> float:
    """Return the duration of the steps of `NUM_EPOCHS` epochs in seconds."""
    model, extractor = build_classifier("", size, emotions)
    train = Clips(dataset["train"], extractor, augmented=True)
    validation = Clips(dataset["validation"].select(range(8)), extractor)
    options = TrainingOptions(lr_scheduler_type="linear")
    tuning = FineTuning(
        num_layers,
        None,
        options.head_learning_rate,
        options.class_weights,
        options.max_length_seconds,
        options.early_stopping_patience,
    )
    flags = [f"--max_steps={WARM_UP + TIMED}", "--logging_strategy=steps", f"--logging_steps={WARM_UP}"]
    flags += ["--eval_strategy=steps", f"--eval_steps={WARM_UP + TIMED}"]
    flags += ["--save_strategy=no", "--load_best_model_at_end=false"]
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(options, RunOptions(output_dir=folder), flags)
        trainer, _ = build_trainer(model, train, validation, tuning, args)
        trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry and entry["step"] > WARM_UP]
    clips_per_second = TIMED * args.train_batch_size / sum(entry["seconds"] for entry in steps)
    return NUM_EPOCHS * len(train) / clips_per_second


if __name__ == "__main__":
    run_script(main)
