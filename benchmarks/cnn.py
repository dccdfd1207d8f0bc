"""Where the time of an epoch of train_cnn.py goes, and how long the device waits for its input.

    python -m benchmarks.cnn --data_dir ~/ravdess

Trains the network of the first speaker fold of RAVDESS as the script does. Epochs in which one ready batch
comes again and again take turns with real ones: the steps are the same, but nothing has to be made. What the
real step loop takes longer on a GPU, the device waits. A CPU makes the batches itself, which is no waiting:
there it is what the real step loop leaves idle of the cores beyond what the other does. Prints medians.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

# The script chooses the backend before anything imports Keras.
import train_cnn as script  # isort: skip
import keras
import tensorflow as tf

from utils.cnn.batches import TrainingSegments, WholeClips
from utils.cnn.training import ResumableTraining, WeightAverage
from utils.data.corpora import CORPORA
from utils.data.dataset import build_dataset
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.splits import select_emotions, split_models
from utils.data.table import check_table, read_table
from utils.runtime import cache_folder, describe_device, logger, run_script


class OneBatch(keras.utils.PyDataset):
    """Has as many batches as the segments, all of them their first."""

    def __init__(self, segments: TrainingSegments):
        super().__init__(workers=segments.workers)
        self.batch = segments[0]
        self.length = len(segments)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, batch: int) -> tuple:
        return self.batch


class Stopwatch(keras.callbacks.Callback):
    """Takes the time of the step loop, where it stands first; of the whole epoch, where it stands last.

    `idle` is the share of the time of all cores that this process did not use.
    """

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.begun, self.used = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds = time.perf_counter() - self.begun
        used = time.process_time() - self.used
        self.idle = 1 - used / self.seconds / len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS speech")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each kind")
    args = parser.parse_args()

    files = find_corpora(["ravdess"], [Path(folder) for folder in args.data_dir])
    table, waveforms = read_table(files, cache_folder())
    logger.setLevel(logging.WARNING)
    table, _ = check_table(table, allow_partial=False)
    emotions = choose_emotions({"ravdess": CORPORA["ravdess"].emotions}, None)
    folds, _, _ = split_models(select_emotions(table, emotions), "folds", emotions)
    dataset = build_dataset(next(iter(folds.values())), waveforms, emotions)
    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else ""
    print(f"{device or describe_device('cpu')}, {len(dataset['train'])} training clips of a fold")
    with tempfile.TemporaryDirectory() as folder:
        measure(dataset, len(emotions), args.rounds, Path(folder))


def measure(dataset, num_emotions: int, rounds: int, folder: Path) -> None:
    """Print the times of an epoch's parts."""
    options = script.parse_arguments([])
    begun = time.perf_counter()
    segments = TrainingSegments(
        dataset["train"],
        batch_size=options.batch_size,
        num_samples=round(options.segment_seconds * script.SAMPLING_RATE),
        num_emotions=num_emotions,
        mixup=options.mixup,
        label_smoothing=options.label_smoothing,
        seed=options.seed,
    )
    reading = time.perf_counter() - begun
    validation = WholeClips(dataset["validation"], num_emotions)
    trainee, classifier = script.build_model(num_emotions, options.width, options.dropout, options.seed)
    trainee.compile(
        keras.optimizers.AdamW(options.learning_rate, weight_decay=options.weight_decay),
        loss="categorical_crossentropy",
        jit_compile=False,
    )
    networks = [model.get_layer("convolutional_network") for model in (trainee, classifier)]
    average = WeightAverage(*networks, classifier, validation, decay=options.average_decay)
    early_stopping = keras.callbacks.EarlyStopping("val_uar", mode="max", patience=options.patience)
    plateau = keras.callbacks.ReduceLROnPlateau("val_uar", mode="max", factor=0.5, patience=10)
    resumable = ResumableTraining(folder, segments, average, early_stopping, plateau)
    resumable.restore(trainee)

    callbacks = [average, early_stopping, plateau, resumable]
    kinds = {
        "real": (segments, callbacks),
        "ready": (OneBatch(segments), callbacks),
        "bare": (OneBatch(segments), []),
    }
    loops, idle = {name: [] for name in kinds}, {name: [] for name in kinds}
    epochs = []
    making = []
    for number in range(rounds + 1):  # the first is a warm-up
        for name, (batches, around) in kinds.items():
            loop, epoch = Stopwatch(), Stopwatch()
            trainee.fit(batches, shuffle=False, verbose=0, callbacks=[loop, *around, epoch])
            if number:
                loops[name].append(loop.seconds)
                idle[name].append(loop.idle)
                if name == "real":
                    epochs.append(epoch.seconds)
        begun = time.perf_counter()
        for batch in range(len(segments)):
            segments[batch]
        making.append(time.perf_counter() - begun)

    real, ready, bare = (statistics.median(loops[name]) for name in kinds)
    epoch, made = statistics.median(epochs), statistics.median(making[1:])
    speed = len(dataset["train"]) / epoch
    print(f"an epoch                         {epoch:9.2f} s, {speed:.0f} clips per second")
    for words, seconds in (
        (f"  its {len(segments)} steps", real),
        ("    on one ready batch", ready),
        ("    and without the mean weights", bare),
        ("  validation and saving", epoch - real),
        ("its batches alone, one thread", made),
        ("before the first epoch, once", reading),
    ):
        print(f"{words:32s} {seconds:9.2f} s, {seconds / epoch:6.1%} of an epoch")
    waits = 1 - ready / real
    if not tf.config.list_physical_devices("GPU"):
        shares = [statistics.median(idle[name]) for name in ("real", "ready")]
        print("of the cores' time {:.1%} is idle in the real step loop, {:.1%} in the other".format(*shares))
        waits = shares[0] - shares[1]
    print(f"the device waits for its input {max(0.0, waits):.1%} of the step loop")


if __name__ == "__main__":
    run_script(main)
