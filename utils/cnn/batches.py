"""Batches for Keras: augmented and mixed segments for training, whole clips for validation."""

import itertools
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

from utils.data.audio import SAMPLING_RATE
from utils.data.augment import augment
from utils.data.decoding import Waveforms
from utils.data.speech import speech_part

LEVEL = 0.05
"""RMS of the speech in every training clip, full scale = 1: mixup combines clips of equal loudness."""

NUM_WORKERS = max(2, os.cpu_count() or 1)
"""Threads that prepare batches. With one worker, Keras uses tf.data, which is idle for two seconds at the
start of each epoch."""

_CLIPS_PER_READ = 64
"""Number of clips that are in memory at a time before training: 15 MB."""


class TrainingSegments(keras.utils.PyDataset):
    """Segments of the training clips, every clip once per epoch; repeated clips fill the last batch.

    A batch is `waveforms` (batch_size, num_samples), soft `targets` (batch_size, num_emotions) and sample
    `weights` (batch_size,), all float32. Its randomness depends only on `(seed, epoch, batch)`;
    `ResumableTraining` sets the epoch.

    Args:
        dataset: a split of `build_dataset`.
        batch_size: clips per step.
        num_samples: length of a segment. Longer clips are cropped at a random position, shorter clips are
            padded with silence on both sides.
        num_emotions: number of classes.
        mixup: parameter of the Beta distribution of the mixing weight of two clips; 0 turns mixup off (Zhang
            et al. 2018, "mixup: Beyond Empirical Risk Minimization").
        label_smoothing: share of the target that is distributed evenly over all emotions.
        seed: of the order, crops, augmentation and mixing.
        folder: where the normalised speech is stored in a nameless, memory-mapped temporary file of 0.1 MB
            per clip; by default the system's folder for temporary files.
    """

    def __init__(
        self,
        dataset,
        batch_size: int,
        num_samples: int,
        num_emotions: int,
        mixup: float,
        label_smoothing: float,
        seed: int,
        folder: Path | None = None,
    ):
        super().__init__(workers=NUM_WORKERS)
        self.samples, self.ends = _map_normalized_speech(Waveforms(dataset), folder)
        labels = np.asarray(dataset["label"])
        self.targets = np.eye(num_emotions, dtype=np.float32)[labels] * (1 - label_smoothing)
        self.targets += label_smoothing / num_emotions
        self.weights = balanced_weights(labels, num_emotions)
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.mixup = mixup
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.ends) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.ends))
        order = np.resize(order, len(self) * self.batch_size)
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        generator = np.random.default_rng((self.seed, self.epoch, batch))
        waveforms = np.stack([self._segment(self._speech(row), generator) for row in rows])
        targets, weights = self.targets[rows], self.weights[rows]
        if self.mixup:
            share = generator.beta(self.mixup, self.mixup, size=len(rows)).astype(np.float32)
            share = np.maximum(share, 1 - share)
            partner = generator.permutation(len(rows))
            waveforms, targets, weights = (
                (share * values.T + (1 - share) * values[partner].T).T
                for values in (waveforms, targets, weights)
            )
        return waveforms, targets, weights

    def _speech(self, row: int) -> np.ndarray:
        return np.array(self.samples[self.ends[row - 1] if row else 0 : self.ends[row]])

    def _segment(self, waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        # No shift: it would cut off speech, and the position in the segment is random anyway.
        waveform = augment(waveform, generator, SAMPLING_RATE, max_shift_seconds=0)
        num_missing = self.num_samples - len(waveform)
        if num_missing <= 0:
            start = generator.integers(1 - num_missing)
            return waveform[start : start + self.num_samples]
        num_before = generator.integers(num_missing + 1)
        return np.pad(waveform, (num_before, num_missing - num_before))


class WholeClips(keras.utils.PyDataset):
    """Whole clips in batches of similar length, padded with silence to the longest clip of the batch.

    A batch is waveforms, one-hot targets and sample weights as in `TrainingSegments`. With these weights the
    accuracy is the mean of the corpora's UAR (unweighted average recall, the mean of the per-emotion
    recalls).

    Args:
        dataset: a split of `build_dataset`.
        num_emotions: number of classes.
        batch_size: maximum number of clips per batch.
    """

    def __init__(self, dataset, num_emotions: int, batch_size: int = 32):
        super().__init__(workers=NUM_WORKERS)
        self.waveforms = Waveforms(dataset)
        self.labels = np.asarray(dataset["label"])
        corpora = np.asarray(dataset["corpus"])
        self.weights = np.empty(len(self.labels), np.float32)
        for name in np.unique(corpora):
            rows = corpora == name
            weights = balanced_weights(self.labels[rows], num_emotions)
            self.weights[rows] = weights * len(corpora) / (rows.sum() * len(np.unique(corpora)))
        self.num_emotions = num_emotions
        self.batches = np.array_split(
            np.argsort(dataset["num_samples"], kind="stable"), -(-len(dataset) // batch_size)
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = self.batches[batch]
        waveforms = [self.waveforms[row] for row in rows]
        longest = max(map(len, waveforms))
        padded = np.stack([np.pad(waveform, (0, longest - len(waveform))) for waveform in waveforms])
        targets = np.eye(self.num_emotions, dtype=np.float32)[self.labels[rows]]
        return padded, targets, self.weights[rows]


def build_segments(clips, num_emotions: int, options, seed: int, folder: Path | None = None):
    """Return the `TrainingSegments` of the clips with the `TrainingOptions` of train_cnn.py."""
    return TrainingSegments(
        clips,
        batch_size=options.per_device_train_batch_size,
        num_samples=round(options.max_length_seconds * SAMPLING_RATE),
        num_emotions=num_emotions,
        mixup=options.mixup,
        label_smoothing=options.label_smoothing_factor,
        seed=seed,
        folder=folder,
    )


def balanced_weights(labels: np.ndarray, num_emotions: int) -> np.ndarray:
    """Return sample weights, float32 (num_clips,), with equal totals for all emotions and mean 1."""
    counts = np.bincount(labels, minlength=num_emotions)
    return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(np.float32)


def _map_normalized_speech(waveforms: Iterable, folder: Path | None) -> tuple[np.memmap, np.ndarray]:
    """Store the speech of all clips, at the RMS `LEVEL`, in a temporary file.

    Returns:
        samples: float32, the clips one after the other, memory-mapped.
        ends: the end of each clip in `samples`.
    """
    lengths = []
    with tempfile.TemporaryFile(dir=folder) as file, ThreadPoolExecutor(os.cpu_count()) as threads:
        clips = iter(waveforms)
        while batch := list(itertools.islice(clips, _CLIPS_PER_READ)):
            for speech, _ in threads.map(speech_part, batch):  # NumPy releases the global interpreter lock
                file.write(LEVEL * speech)
                lengths.append(len(speech))
        file.flush()
        samples = np.memmap(file, np.float32, "r")
    return samples, np.cumsum(lengths)
