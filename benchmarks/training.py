"""How much faster stage 2 trains than the usual recipe: same encoder, batch size and clips, in one process.

    python -m benchmarks.training --data_dir ~/ravdess ~/tess
    python -m benchmarks.training --data_dir ~/ravdess ~/tess --from_config tiny --rounds 2  # a quick look
    python -m benchmarks.training --data_dir ~/ravdess ~/tess --memory base  # or large, with lora

The usual recipe is what most notebooks do, plainly written below: the files are decoded and resampled in a
transform in each epoch, random batches are padded to the longest clip, the convolutions alone are frozen,
and a stock Trainer computes in float32. Blocks of steps take turns, and the medians are compared. The
weights are random: they take as long as real ones, and their accuracy would say nothing.

The clips of a block are some batches of the kit's sampler from the whole training split, evenly from the
short to the long ones, so that padding and cuts are those of a real epoch.

On a GPU there is more to see: how much of the steps it was busy (the union of its kernels' times by
torch.profiler, against the clock), the share of its peak that the model's own FLOPs make (`clip_flops`;
padding is not counted), and the peak of its memory.
"""

import argparse
import logging
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import transformers
from transformers import (
    AutoModelForAudioClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from train_wav2vec2 import SIZES, DataArguments, ModelArguments, RunArguments, build_model, build_trainer
from utils.data.audio import SAMPLING_RATE
from utils.data.augment import augment
from utils.data.corpora import CORPORA
from utils.data.dataset import build_dataset
from utils.data.decoding import Waveforms
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.splits import select_emotions, split_models
from utils.data.table import check_table, read_table
from utils.encoders.batches import Clips, EqualLengthSampler
from utils.encoders.embeddings import embed
from utils.encoders.frames import Frames
from utils.encoders.freezing import count_frames, num_used_layers
from utils.encoders.partial_model import FrozenClips, alike
from utils.runtime import cache_folder, describe_device, logger, run_script

BATCH_SIZE = 8
CORPORA_USED = ["ravdess", "tess"]
EPOCHS = (1, 3, 20)
"""Over so many the one pass of the frozen layers is spread."""

PEAK_TFLOPS = {
    "T4": (65, 8.1),
    "L4": (121, 30.3),
    "V100": (125, 15.7),
    "A100": (312, 19.5),
    "H100": (989, 67),
}
"""Dense peak of 16-bit and of float32 arithmetic by NVIDIA's data sheets; of others by --peak_tflops."""


# ---------------------------------------------------------------------------------------------------
# The usual recipe


class DecodedEachTime(torch.utils.data.Dataset):
    """Decodes and resamples a file whenever it is asked for, like a transform."""

    def __init__(self, paths: list[str], labels: list[int], extractor):
        self.paths, self.labels, self.extractor = paths, labels, extractor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        waveform, rate = soundfile.read(self.paths[index], dtype="float32", always_2d=True)
        waveform = soxr.resample(waveform.mean(axis=1), rate, SAMPLING_RATE)
        values = self.extractor(waveform, sampling_rate=SAMPLING_RATE)["input_values"][0]
        return {"input_values": values, "labels": self.labels[index]}


def usual_trainer(size: str, table, labels: list[int], folder: str) -> Trainer:
    """Return the Trainer of the usual recipe."""
    model = AutoModelForAudioClassification.from_config(
        Wav2Vec2Config(**SIZES[size], num_labels=max(labels) + 1)
    )
    model.freeze_feature_encoder()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)

    def collate(clips: list[dict]) -> dict:
        padded = extractor.pad(clips, return_tensors="pt")
        return {"input_values": padded["input_values"], "labels": padded["labels"]}

    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=1e-5,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    clips = DecodedEachTime(table["path"].tolist(), labels, extractor)
    return Trainer(model=model, args=arguments, train_dataset=clips, data_collator=collate)


# ---------------------------------------------------------------------------------------------------
# Stage 2 of this kit


def our_trainer(
    size: str, train, emotions, folder: str, augmented: bool, lora: bool, batch_size: int = BATCH_SIZE
) -> Trainer:
    """Return the Trainer of train_wav2vec2.py on `Clips` or `FrozenClips`."""
    model_args = ModelArguments(
        from_config=size,
        parameter_efficient="lora" if lora else "none",
        class_weights="none",  # the clips of a block may lack an emotion
    )
    args = RunArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        eval_strategy="steps",
        eval_steps=10**6,
        save_strategy="no",
        load_best_model_at_end=False,
        logging_strategy="no",
        lr_scheduler_type="constant",
        disable_tqdm=True,
    )
    model, _ = build_model(model_args, emotions)
    data_args = DataArguments(augment=augmented)
    trainer, _ = build_trainer(model, train, train, data_args, model_args, args)
    return trainer


# ---------------------------------------------------------------------------------------------------
# Measuring


class Stopwatch(TrainerCallback):
    """Takes the time from the first batch that is asked for to the end of the last step."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.begun = None

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        if self.begun is None:
            self.begun = now()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == state.max_steps:
            self.seconds = now() - self.begun
            control.should_evaluate = False
        return control


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_steps(trainer: Trainer, num_steps: int) -> float:
    """Return the seconds that so many steps take."""
    stopwatch = Stopwatch()
    trainer.add_callback(stopwatch)
    trainer.args.max_steps = num_steps
    trainer.train()
    trainer.remove_callback(stopwatch)
    return stopwatch.seconds


def busy_share(trainer: Trainer, num_steps: int) -> float:
    """Return the share of the time of some steps in which at least one kernel or copy ran on the GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        seconds = time_steps(trainer, num_steps)
    on_gpu = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = end = 0.0  # microseconds
    for event in sorted(on_gpu, key=lambda event: event.time_range.start):
        busy += max(0.0, event.time_range.end - max(event.time_range.start, end))
        end = max(end, event.time_range.end)
    return busy / 1e6 / seconds


def clip_flops(config, num_samples: int, recipe: str) -> float:
    """Return the FLOPs of a training step's matrix products per clip.

    A product with `p` weights is 2p per frame. The attention of a layer adds 4 * num_frames * hidden_size
    per frame. Backward is the same again for the gradients of the activations and again for those of the
    weights, each where it is needed: from the lowest layer that learns, of the weights that learn.

    Args:
        config: of a wav2vec2 encoder.
        recipe: "usual" (all but the convolutions learns), "augment", "lora", or "frozen" (the tuned layers
            alone are run).
    """
    frames, channels, convolutions = num_samples, 1, 0
    for out, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        convolutions += 2 * channels * out * kernel * frames
        channels = out
    hidden = config.hidden_size
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    entrance = 2 * frames * (channels * hidden + hidden * hidden // groups * kernel)
    weights = 2 * frames * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    layer = weights + 4 * frames**2 * hidden
    num_layers, num_tuned = config.num_hidden_layers, ModelArguments.unfreeze_layers
    if recipe == "usual":
        return convolutions + 3 * (entrance + num_layers * layer)
    if recipe == "lora":  # the adapters are small; the gradient passes through all layers but one's attention
        return convolutions + entrance + num_layers * 2 * layer
    tuned = 3 * num_tuned * layer
    return tuned if recipe == "frozen" else convolutions + entrance + (num_layers - num_tuned) * layer + tuned


def peak_tflops(given: float | None, sixteen_bit: bool) -> float | None:
    """Return the peak of this GPU, or None where it is not known."""
    if given:
        return given
    for name, peaks in PEAK_TFLOPS.items():
        if name in torch.cuda.get_device_name():
            return peaks[0 if sixteen_bit else 1]
    return None


# ---------------------------------------------------------------------------------------------------
# Padding


def random_padding(lengths: np.ndarray) -> float:
    """Return padded samples / real samples - 1 of random batches."""
    generator = np.random.default_rng(0)
    order = np.concatenate([generator.permutation(len(lengths)) for _ in range(BATCH_SIZE)])
    batches = lengths[order].reshape(-1, BATCH_SIZE)
    return BATCH_SIZE * batches.max(axis=1).sum() / batches.sum() - 1


def frozen_padding(num_frames: np.ndarray) -> float:
    """Return the same of the frames that the tuned layers run on."""
    sampler = EqualLengthSampler(num_frames, BATCH_SIZE, num_frames.max(), seed=42)
    batches = num_frames[[index for index, _, _ in sampler]].reshape(-1, BATCH_SIZE)
    run = sum(len(group) * batch[group].max() for batch in batches for group in alike(batch))
    return run / batches.sum() - 1


def augmented_padding(dataset, sampler: EqualLengthSampler) -> tuple[float, float]:
    """Return silence that fills up quickened clips / real samples, and the share of samples that is cut."""
    rows = Waveforms(dataset["train"])
    filled = real = whole = 0
    for index, num_samples, epoch in sampler:
        generator = np.random.default_rng((0, epoch, index))
        length = len(augment(rows[index], generator, SAMPLING_RATE))
        real += min(length, num_samples)
        filled += max(0, num_samples - length)
        whole += length
    return filled / real, 1 - real / whole


# ---------------------------------------------------------------------------------------------------
# Memory


def tell_memory(size: str, dataset, folder: str) -> None:
    """Print the peak memory of fine-tuning on the longest clips, augmented and cut to 4 s.

    On a CPU that of the whole process in float32: its libraries count, and no number is halved.
    """
    lora = size == "large"  # as XLS-R-300M is
    batch_size = BATCH_SIZE if lora else 16
    longest = np.argsort(dataset["num_samples"])[-batch_size:]
    emotions = dataset.features["label"].names
    _, extractor = build_model(ModelArguments(from_config="tiny"), emotions)
    clips = Clips(dataset.select(longest), extractor, augmented=True)
    trainer = our_trainer(size, clips, emotions, folder, True, lora, batch_size)
    time_steps(trainer, 3)
    if torch.cuda.is_available():
        peak, words = torch.cuda.max_memory_reserved() / 1e9, "of the GPU"
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        words = "of the process, float32"
    precision = "bf16" if trainer.args.bf16 else "fp16" if trainer.args.fp16 else "fp32"
    told = "low-rank adapters in all layers" if lora else f"last {ModelArguments.unfreeze_layers} layers"
    print(f"{size}, {told}, batches of {batch_size}, {precision}: peak memory {words} {peak:.1f} GB")


# ---------------------------------------------------------------------------------------------------
# The table


def choose_batches(sampler: EqualLengthSampler, num_batches: int) -> np.ndarray:
    """Return the clips of some of the sampler's batches, evenly from the shortest to the longest."""
    keys = np.array(list(sampler)).reshape(-1, sampler.batch_size, 3)
    by_length = keys[np.argsort(keys[:, 0, 1])]
    places = (np.arange(num_batches) + 0.5) / num_batches * len(by_length)
    return np.sort(by_length[places.astype(int), :, 0].ravel())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS and TESS")
    parser.add_argument("--from_config", default="base", choices=list(SIZES))
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each recipe")
    parser.add_argument("--lora", action="store_true", help="measure adapters in all layers, too")
    parser.add_argument("--memory", choices=list(SIZES), help="that alone; large with lora")
    parser.add_argument("--peak_tflops", type=float, help="of this GPU, for the share that is used")
    args = parser.parse_args()

    files = find_corpora(CORPORA_USED, [Path(folder) for folder in args.data_dir])
    table, waveforms = read_table(files, cache_folder())
    logger.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    table, _ = check_table(table, allow_partial=True)
    emotions = choose_emotions({name: CORPORA[name].emotions for name in files}, None)
    table = select_emotions(table, emotions)
    _, models, _ = split_models(table, "holdout", emotions)
    split = next(iter(models.values()))
    dataset = build_dataset(split, waveforms, emotions)
    on_gpu = torch.cuda.is_available()
    if args.memory:
        with tempfile.TemporaryDirectory() as folder:
            tell_memory(args.memory, dataset["train"], folder)
        return
    print(
        f"{describe_device('cuda' if on_gpu else 'cpu')}, {torch.get_num_threads()} threads, "
        f"{args.from_config}, batches of {BATCH_SIZE}, {len(dataset['train'])} training clips"
    )

    lengths = np.asarray(dataset["train"]["num_samples"])
    sampler = EqualLengthSampler(lengths, BATCH_SIZE, 4 * SAMPLING_RATE, seed=42)
    model, extractor = build_model(ModelArguments(from_config=args.from_config), emotions)
    num_frames = np.array(count_frames(model, lengths))
    filled, cut = augmented_padding(dataset, sampler)
    print(f"padding, usual recipe   {random_padding(lengths):6.1%} of the real samples")
    print(f"padding, default        {frozen_padding(num_frames):6.1%}")
    print(f"padding, --augment      {filled:6.1%}, and {cut:.1%} of the samples are cut off")

    chosen = choose_batches(sampler, args.steps)
    rows = split.index[split["split"] == "train"][chosen]
    clips = dataset["train"].select(chosen)
    with tempfile.TemporaryDirectory() as folder:
        measure(args, model, extractor, split.loc[rows], clips, waveforms.select(rows), Path(folder))


def measure(args, model, extractor, table, clips, waveforms, folder: Path) -> None:
    """Print the speed of each recipe on the clips of a block."""
    emotions = clips.features["label"].names
    labels, lengths = clips["label"][:], table["num_samples"].tolist()
    on_gpu = torch.cuda.is_available()
    model.to("cuda" if on_gpu else "cpu")
    layer = num_used_layers(model.config) - ModelArguments.unfreeze_layers
    num_frames = count_frames(model, lengths)
    seconds = []
    for name in ("warm-up", "whole", "short"):
        if name != "short":
            shutil.rmtree(folder / "means", ignore_errors=True)
        frames = Frames(folder / name, layer, num_frames, model.config.hidden_size)
        begun = now()
        means = embed(
            model, extractor, waveforms, lengths, table["digest"].tolist(), folder / "means", frames
        )
        seconds.append(now() - begun)
    _, whole_pass, short_pass = seconds
    frozen = FrozenClips(frames, means, np.arange(len(table)), labels)

    size, run = args.from_config, str(folder / "run")
    augmented = Clips(clips, extractor, augmented=True)
    trainers = {
        "usual": usual_trainer(size, table, list(labels), run),
        "frozen": our_trainer(size, frozen, emotions, run, augmented=False, lora=False),
        "augment": our_trainer(size, augmented, emotions, run, augmented=True, lora=False),
    }
    if args.lora:
        trainers["lora"] = our_trainer(size, augmented, emotions, run, augmented=True, lora=True)
    num_steps = dict.fromkeys(trainers, args.steps) | {"frozen": 3 * args.steps}
    for trainer in trainers.values():
        trainer.remove_callback(PrinterCallback)
        time_steps(trainer, 1)  # the first allocates
    blocks = {name: [] for name in trainers}
    for _ in range(args.rounds):
        for name, trainer in trainers.items():
            blocks[name].append(num_steps[name] * BATCH_SIZE / time_steps(trainer, num_steps[name]))
    speeds = {name: statistics.median(values) for name, values in blocks.items()}

    print(f"\n{'':34s} clips per second  times the usual recipe (median, then the blocks)")
    for words, speed, values in told(speeds, blocks, len(table) / whole_pass):
        ratios = ", ".join(f"{value:.2f}" for value in values)
        print(f"{words:34s} {speed:16.2f}  {speed / speeds['usual']:6.2f}   {ratios}")
    print(
        f"the pass, for the probe too: {len(table) / whole_pass:.2f} clips per second; "
        f"{len(table) / short_pass:.2f} where an earlier run had kept what the probe needs"
    )
    if on_gpu:
        for name, trainer in trainers.items():
            flops = [clip_flops(model.config, length, name) for length in lengths]
            tell_gpu(name, trainer, num_steps[name], speeds[name] * statistics.mean(flops), args.peak_tflops)


def told(speeds: dict, blocks: dict, pass_speed: float) -> Iterator[tuple[str, float, list[float]]]:
    """Yield the lines of the table: words, clips per second, and those of each block."""
    words = {"usual": "usual recipe", "augment": "--augment", "lora": "--augment, lora"}
    for name, speed in speeds.items():
        if name != "frozen":
            yield words[name], speed, blocks[name]
            continue
        yield "default, after the pass", speed, blocks[name]
        for epochs in EPOCHS:
            values = [1 / (1 / each + 1 / pass_speed / epochs) for each in blocks[name]]
            plural = "s" if epochs > 1 else ""
            yield f"default, pass and {epochs} epoch{plural}", statistics.median(values), values


def tell_gpu(name: str, trainer: Trainer, num_steps: int, flops: float, given: float | None) -> None:
    """Print how well a recipe uses the GPU."""
    torch.cuda.reset_peak_memory_stats()
    busy = busy_share(trainer, num_steps)
    memory = torch.cuda.max_memory_reserved() / 1e9
    peak = peak_tflops(given, trainer.args.fp16 or trainer.args.bf16)
    used = f"{flops / peak / 1e12:.1%} of its peak" if peak else "peak not known: --peak_tflops"
    print(f"{name:8s} GPU busy {busy:.1%}, {used}, memory {memory:.1f} GB")


if __name__ == "__main__":
    run_script(main)
