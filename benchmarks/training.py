"""Speed of fine-tuning relative to the usual recipe, with the same encoder, batch size and clips.

    python -m benchmarks.training --data_dir ~/ravdess ~/tess
    python -m benchmarks.training --data_dir ~/ravdess ~/tess --from_config tiny --rounds 2  # a quick look
    python -m benchmarks.training --data_dir ~/ravdess ~/tess --memory base  # or large, with lora

The usual recipe is that of most notebooks (`benchmarks.trainers`): files are decoded and resampled in a
transform in each epoch, random batches are padded to the longest clip, only the convolutions are frozen, and
the stock Trainer computes in float32. Blocks of steps of all recipes take turns in one process, and their
medians are compared. The weights are random: the duration is the same as with pretrained weights, and the
accuracy is not measured.

The clips of a block are some batches of the sampler of this kit for the whole training split, evenly from
short to long clips, so that padding and crops are those of a real epoch.

On a GPU also: the share of the duration in which the GPU is busy (union of its kernels by torch.profiler),
the share of its peak in floating-point operations (of the model without padding), and the peak memory.
"""

import argparse
import logging
import resource
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PrinterCallback, Trainer

from benchmarks.trainers import BATCH_SIZE, choose_batches, our_trainer, usual_trainer
from benchmarks.utilization import busy_share, clip_flops, now, peak_tflops, time_steps
from train_wav2vec2 import ModelOptions
from utils.data.audio import SAMPLING_RATE
from utils.data.augment import augment
from utils.data.dataset import build_dataset
from utils.data.decoding import Waveforms
from utils.data.loading import load_clips, plan_models
from utils.data.options import DataOptions
from utils.encoders import build_classifier
from utils.encoders.batches import Clips, EqualLengthSampler
from utils.encoders.classifier import SIZES
from utils.encoders.embeddings import fill_frames
from utils.encoders.frames import Frames
from utils.encoders.freezing import count_frames, count_frozen_layers
from utils.encoders.partial_model import FrozenClips, similar_length_groups
from utils.options import RunOptions
from utils.runtime import describe_device, logger, run_script

EPOCHS = (1, 3, 20)
"""Numbers of epochs over which the one pass of the frozen layers is distributed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS and TESS")
    parser.add_argument("--from_config", default="base", choices=list(SIZES))
    parser.add_argument("--steps", type=int, default=4, help="per block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each recipe")
    parser.add_argument("--lora", action="store_true", help="also measure adapters in all layers")
    parser.add_argument("--memory", choices=list(SIZES), help="measure only the memory; large with lora")
    parser.add_argument("--peak_tflops", type=float, help="of this GPU, to compute the share that is used")
    args = parser.parse_args()

    options = DataOptions(corpora=["ravdess", "tess"], data_dir=args.data_dir, allow_partial=True)
    clips = load_clips(options)
    logger.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    split = plan_models(clips, "holdout", RunOptions.seed).final
    dataset = build_dataset(split, clips.waveforms, clips.emotions)
    on_gpu = torch.cuda.is_available()
    if args.memory:
        with tempfile.TemporaryDirectory() as folder:
            print_memory(args.memory, dataset["train"], folder)
        return
    print(
        f"{describe_device('cuda' if on_gpu else 'cpu')}, {torch.get_num_threads()} threads, "
        f"{args.from_config}, batches of {BATCH_SIZE}, {len(dataset['train'])} training clips"
    )

    lengths = np.asarray(dataset["train"]["num_samples"])
    sampler = EqualLengthSampler(lengths, BATCH_SIZE, 4 * SAMPLING_RATE, seed=42)
    model, extractor = build_classifier("", args.from_config, clips.emotions)
    print_padding(dataset["train"], lengths, np.array(count_frames(model, lengths)), sampler)
    chosen = choose_batches(sampler, args.steps)
    table = split.loc[split.index[split["split"] == "train"][chosen]]
    waveforms = clips.waveforms.select(table.index)
    with tempfile.TemporaryDirectory() as folder:
        compare(args, model, extractor, table, dataset["train"].select(chosen), waveforms, Path(folder))


# ---------------------------------------------------------------------------------------------------
# Padding


def print_padding(train, lengths: np.ndarray, num_frames: np.ndarray, sampler: EqualLengthSampler) -> None:
    padded, cropped = augmented_padding(train, sampler)
    print(f"padding, usual recipe   {random_padding(lengths):6.1%} of the real samples")
    print(f"padding, default        {frozen_padding(num_frames):6.1%}")
    print(f"padding, --augment      {padded:6.1%}, and {cropped:.1%} of the samples are cropped")


def random_padding(lengths: np.ndarray) -> float:
    """Return the ratio of padded to real samples in random batches."""
    generator = np.random.default_rng(0)
    order = np.concatenate([generator.permutation(len(lengths)) for _ in range(BATCH_SIZE)])
    batches = lengths[order].reshape(-1, BATCH_SIZE)
    return BATCH_SIZE * batches.max(axis=1).sum() / batches.sum() - 1


def frozen_padding(num_frames: np.ndarray) -> float:
    """Return the ratio of padded to real frames in the input of the tuned layers."""
    sampler = EqualLengthSampler(num_frames, BATCH_SIZE, num_frames.max(), seed=42)
    batches = num_frames[[index for index, _, _ in sampler]].reshape(-1, BATCH_SIZE)
    computed = sum(
        len(group) * batch[group].max() for batch in batches for group in similar_length_groups(batch)
    )
    return computed / batches.sum() - 1


def augmented_padding(train, sampler: EqualLengthSampler) -> tuple[float, float]:
    """Return the ratio of padded to real samples of augmented clips, and the share of cropped samples.

    Clips are padded where augmentation has made them shorter than their batch.
    """
    waveforms = Waveforms(train)
    padded = real = whole = 0
    for index, num_samples, epoch in sampler:
        generator = np.random.default_rng((0, epoch, index))
        length = len(augment(waveforms[index], generator, SAMPLING_RATE))
        real += min(length, num_samples)
        padded += max(0, num_samples - length)
        whole += length
    return padded / real, 1 - real / whole


# ---------------------------------------------------------------------------------------------------
# Memory


def print_memory(size: str, train, folder: str) -> None:
    """Print the peak memory of fine-tuning on the longest clips, augmented and cropped to 4 s.

    On a CPU it is that of the whole process, including its libraries, in float32.
    """
    lora = size == "large"  # the size of XLS-R-300M
    batch_size = BATCH_SIZE if lora else 16
    longest = np.argsort(train["num_samples"])[-batch_size:]
    emotions = train.features["label"].names
    _, extractor = build_classifier("", "tiny", emotions)
    clips = Clips(train.select(longest), extractor, augmented=True)
    trainer = our_trainer(size, clips, emotions, folder, True, lora, batch_size)
    time_steps(trainer, 3)
    if torch.cuda.is_available():
        peak, owner = torch.cuda.max_memory_reserved() / 1e9, "of the GPU"
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        owner = "of the process, float32"
    precision = "bf16" if trainer.args.bf16 else "fp16" if trainer.args.fp16 else "fp32"
    tuned = "low-rank adapters in all layers" if lora else f"last {ModelOptions.unfreeze_layers} layers"
    print(f"{size}, {tuned}, batches of {batch_size}, {precision}: peak memory {owner} {peak:.1f} GB")


# ---------------------------------------------------------------------------------------------------
# Speed


def compare(args, model, extractor, table, clips, waveforms, folder: Path) -> None:
    """Print the speed of each recipe on the clips of a block."""
    emotions = clips.features["label"].names
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    frozen, seconds = encode(model, extractor, table, clips["label"][:], waveforms, folder)
    size, output_dir = args.from_config, str(folder / "run")
    augmented = Clips(clips, extractor, augmented=True)
    trainers = {
        "usual": usual_trainer(size, table, list(clips["label"][:]), output_dir),
        "frozen": our_trainer(size, frozen, emotions, output_dir, augmented=False, lora=False),
        "augment": our_trainer(size, augmented, emotions, output_dir, augmented=True, lora=False),
    }
    if args.lora:
        trainers["lora"] = our_trainer(size, augmented, emotions, output_dir, augmented=True, lora=True)
    num_steps = dict.fromkeys(trainers, args.steps) | {"frozen": 3 * args.steps}
    blocks = time_in_turns(trainers, num_steps, args.rounds)
    speeds = {name: statistics.median(values) for name, values in blocks.items()}

    print(f"\n{'':34s} clips per second  times the usual recipe (median, then the blocks)")
    for description, speed, values in table_rows(speeds, blocks, len(table) / seconds):
        ratios = ", ".join(f"{value:.2f}" for value in values)
        print(f"{description:34s} {speed:16.2f}  {speed / speeds['usual']:6.2f}   {ratios}")
    print(f"the pass through the frozen layers: {len(table) / seconds:.2f} clips per second")
    if torch.cuda.is_available():
        for name, trainer in trainers.items():
            lengths = table["num_samples"].tolist()
            flops = statistics.mean(clip_flops(model.config, length, name) for length in lengths)
            print_utilization(name, trainer, num_steps[name], speeds[name] * flops, args.peak_tflops)


def encode(model, extractor, table, labels, waveforms, folder: Path) -> tuple[FrozenClips, float]:
    """Return the outputs of the frozen layers, and the seconds of their pass, after one for warm-up."""
    lengths = table["num_samples"].tolist()
    layer = count_frozen_layers(model, ModelOptions.unfreeze_layers)
    num_frames = count_frames(model, lengths)
    for name in ("warm-up", "timed"):
        frames = Frames(folder / name, layer, num_frames, model.config.hidden_size)
        start = now()
        fill_frames(model, extractor, waveforms, lengths, frames)
        seconds = now() - start
    return FrozenClips(frames, np.arange(len(table)), labels), seconds


def time_in_turns(
    trainers: dict[str, Trainer], num_steps: dict[str, int], num_rounds: int
) -> dict[str, list[float]]:
    """Return the clips per second of each Trainer in each block."""
    for trainer in trainers.values():
        trainer.remove_callback(PrinterCallback)
        time_steps(trainer, 1)  # warm-up
    blocks = {name: [] for name in trainers}
    for _ in range(num_rounds):
        for name, trainer in trainers.items():
            blocks[name].append(BATCH_SIZE / time_steps(trainer, num_steps[name]))
    return blocks


def table_rows(
    speeds: dict[str, float], blocks: dict[str, list[float]], pass_speed: float
) -> Iterator[tuple[str, float, list[float]]]:
    """Yield description, clips per second, and clips per second of each block for each row of the table."""
    descriptions = {"usual": "usual recipe", "augment": "--augment", "lora": "--augment, lora"}
    for name, speed in speeds.items():
        if name != "frozen":
            yield descriptions[name], speed, blocks[name]
            continue
        yield "default, after the pass", speed, blocks[name]
        for epochs in EPOCHS:
            values = [1 / (1 / each + 1 / pass_speed / epochs) for each in blocks[name]]
            plural = "s" if epochs > 1 else ""
            yield f"default, pass and {epochs} epoch{plural}", statistics.median(values), values


def print_utilization(name: str, trainer: Trainer, num_steps: int, flops: float, given: float | None) -> None:
    """Print how well a recipe uses the GPU.

    Args:
        name: of the recipe.
        trainer: of the recipe.
        num_steps: number of steps to profile.
        flops: FLOPs per second.
        given: peak of the GPU in TFLOPS, if the user has given it.
    """
    torch.cuda.reset_peak_memory_stats()
    busy = busy_share(trainer, num_steps)
    memory = torch.cuda.max_memory_reserved() / 1e9
    peak = peak_tflops(given, trainer.args.fp16 or trainer.args.bf16)
    share = f"{flops / peak / 1e12:.1%} of its peak" if peak else "peak unknown: --peak_tflops"
    print(f"{name:8s} GPU busy {busy:.1%}, {share}, memory {memory:.1f} GB")


if __name__ == "__main__":
    run_script(main)
