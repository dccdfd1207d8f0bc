"""Duration of the parts of a training epoch of train_cnn.py, and how long the device waits for its input.

    python -m benchmarks.cnn --data_dir ~/ravdess

Trains the network of the first speaker fold of RAVDESS like the script. Real epochs take turns with epochs in
which one prepared batch is repeated: these have the same training steps and no preparation of batches. On a
GPU, the difference between the two step loops is the time in which the device waits. On a CPU, the same cores
prepare the batches; there the waiting time is the share of idle core time in the real step loop, minus that
in the other one. Prints medians.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The script must be imported first: it sets the backend of Keras.
import train_cnn as script  # isort: skip
import keras
import tensorflow as tf

from utils.cnn.batches import TrainingSegments, WholeClips, build_segments
from utils.cnn.training import build_callbacks
from utils.data.dataset import build_dataset
from utils.data.loading import load_clips, plan_models
from utils.data.options import DataOptions
from utils.options import RunOptions
from utils.runtime import describe_device, logger, run_script


class RepeatedBatch(keras.utils.PyDataset):
    """The first batch of the segments, repeated as often as they have batches."""

    def __init__(self, segments: TrainingSegments):
        super().__init__(workers=segments.workers)
        self.batch = segments[0]
        self.length = len(segments)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, batch: int) -> tuple:
        return self.batch


class EpochTimer(keras.callbacks.Callback):
    """Measure an epoch: only the step loop if it is the first callback, the whole epoch if it is the last.

    Attributes:
        seconds: duration.
        idle: share of the time of all cores in which this process did not use them.
    """

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.start, self.start_of_process = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds = time.perf_counter() - self.start
        busy = time.process_time() - self.start_of_process
        self.idle = 1 - busy / self.seconds / len(os.sched_getaffinity(0))


@dataclass
class Training:
    """The objects that `train_cnn.train` passes to `fit`, and the seconds to create the segments."""

    network: keras.Model
    segments: TrainingSegments
    callbacks: list[keras.callbacks.Callback]
    preparation_seconds: float


@dataclass
class EpochTimes:
    """Medians in seconds.

    Attributes:
        epoch: a whole real epoch.
        loops: the step loop, by kind of epoch: "real", "repeated" (one batch), "without mean" (of weights).
        idle: share of idle core time in these loops.
        batches: preparation of the batches of an epoch in one thread.
    """

    epoch: float
    loops: dict[str, float]
    idle: dict[str, float]
    batches: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS speech")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each kind")
    args = parser.parse_args()

    clips = load_clips(DataOptions(corpora=["ravdess"], data_dir=args.data_dir, protocol="folds"))
    logger.setLevel(logging.WARNING)
    split = next(iter(plan_models(clips, "folds", RunOptions.seed).folds.values()))
    dataset = build_dataset(split, clips.waveforms, clips.emotions)
    gpus = tf.config.list_physical_devices("GPU")
    gpu = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else ""
    num_clips = len(dataset["train"])
    print(f"{gpu or describe_device('cpu')}, {num_clips} training clips of a fold")
    with tempfile.TemporaryDirectory() as folder:
        training = prepare_training(dataset, len(clips.emotions), Path(folder))
        print_times(measure(training, args.rounds), training, num_clips, on_gpu=bool(gpus))


def prepare_training(dataset, num_emotions: int, folder: Path) -> Training:
    """Create network, batches and callbacks with the default options of the script."""
    model, options, seed = script.ModelOptions(), script.TrainingOptions(), RunOptions.seed
    start = time.perf_counter()
    segments = build_segments(dataset["train"], num_emotions, options, seed)
    seconds = time.perf_counter() - start
    validation = WholeClips(dataset["validation"], num_emotions)
    network, classifier = script.prepare_models(num_emotions, model, options, seed)
    callbacks = build_callbacks(network, classifier, segments, validation, options, folder)
    callbacks[-1].restore(network)
    return Training(network, segments, callbacks, seconds)


def measure(training: Training, num_rounds: int) -> EpochTimes:
    """Train epochs of each kind in turns, after a warm-up round."""
    segments = training.segments
    kinds = {
        "real": (segments, training.callbacks),
        "repeated": (RepeatedBatch(segments), training.callbacks),
        "without mean": (RepeatedBatch(segments), []),
    }
    loops, idle = {name: [] for name in kinds}, {name: [] for name in kinds}
    epochs, batches = [], []
    for number in range(num_rounds + 1):
        is_warm_up = number == 0
        for name, (inputs, callbacks) in kinds.items():
            loop, epoch = EpochTimer(), EpochTimer()
            training.network.fit(inputs, shuffle=False, verbose=0, callbacks=[loop, *callbacks, epoch])
            if not is_warm_up:
                loops[name].append(loop.seconds)
                idle[name].append(loop.idle)
                epochs += [epoch.seconds] if name == "real" else []
        seconds = time_call(lambda: [segments[batch] for batch in range(len(segments))])
        batches += [] if is_warm_up else [seconds]
    medians = [{name: statistics.median(values) for name, values in each.items()} for each in (loops, idle)]
    return EpochTimes(statistics.median(epochs), *medians, statistics.median(batches))


def time_call(function: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def print_times(times: EpochTimes, training: Training, num_clips: int, on_gpu: bool) -> None:
    real = times.loops["real"]
    print(f"{'one epoch':32s} {times.epoch:9.2f} s, {num_clips / times.epoch:.0f} clips per second")
    for description, seconds in (
        (f"  its {len(training.segments)} steps", real),
        ("    with one repeated batch", times.loops["repeated"]),
        ("    and without the mean weights", times.loops["without mean"]),
        ("  validation and saving", times.epoch - real),
        ("its batches, one thread", times.batches),
        ("before the first epoch, once", training.preparation_seconds),
    ):
        print(f"{description:32s} {seconds:9.2f} s, {seconds / times.epoch:6.1%} of an epoch")
    waiting = 1 - times.loops["repeated"] / real
    if not on_gpu:
        print(
            f"idle core time: {times.idle['real']:.1%} in the real step loop, {times.idle['repeated']:.1%} "
            "with the repeated batch"
        )
        waiting = times.idle["real"] - times.idle["repeated"]
    print(f"the device waits for its input in {max(0.0, waiting):.1%} of the step loop")


if __name__ == "__main__":
    run_script(main)
