"""Batches for Keras: augmented and mixed segments for training, whole clips for validation."""

import itertools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

from utils.data.audio import SAMPLING_RATE
from utils.data.augment import augment
from utils.data.decoding import Waveforms
from utils.data.speech import speech_part

LEVEL = 0.05
"""RMS of the speech in every training clip, full scale = 1: those that are mixed are equally loud."""

NUM_WORKERS = max(2, os.cpu_count() or 1)
"""Threads that make batches. With one, Keras leaves the queue to tf.data, which idles for two seconds at the
start of each epoch."""

_LEVELLED_TOGETHER = 64
"""Clips that are read at a time: 15 MB."""


class TrainingSegments(keras.utils.PyDataset):
    """Draws every clip once an epoch; the last batch is filled up with clips that come twice.

    A batch is `waveforms` (batch_size, num_samples), soft `targets` (batch_size, num_emotions) and
    `weights` (batch_size,), all float32. Its randomness comes from `(seed, epoch, batch)` alone; the
    callback `ResumableTraining` tells the epoch.

    Args:
        dataset: a split of `dataset.build_dataset`.
        batch_size: clips per step.
        num_samples: length of a segment; shorter clips stand somewhere in silence.
        num_emotions: classes.
        mixup: parameter of the Beta distribution of the shares in which two clips are mixed, 0 for none
            (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").
        label_smoothing: share of the target that all emotions have alike.
        seed: of order, cuts, augmentation and mixing.
        folder: on whose disk the levelled speech is kept meanwhile, nameless and mapped into memory: 0.1 MB a
            clip, too much to hold of a large corpus. By default that of temporary files.
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
        lengths = []
        with tempfile.TemporaryFile(dir=folder) as file, ThreadPoolExecutor(os.cpu_count()) as threads:
            clips = iter(Waveforms(dataset))
            while batch := list(itertools.islice(clips, _LEVELLED_TOGETHER)):
                for speech, _ in threads.map(speech_part, batch):  # NumPy works outside Python's global lock
                    file.write(LEVEL * speech)
                    lengths.append(len(speech))
            file.flush()
            self.samples = np.memmap(file, np.float32, "r")
        self.ends = np.cumsum(lengths)
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
            other = generator.permutation(len(rows))
            waveforms, targets, weights = (
                (share * values.T + (1 - share) * values[other].T).T
                for values in (waveforms, targets, weights)
            )
        return waveforms, targets, weights

    def _speech(self, row: int) -> np.ndarray:
        return np.array(self.samples[self.ends[row - 1] if row else 0 : self.ends[row]])

    def _segment(self, waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        # Where it stands is drawn below; a shift would cut speech off.
        waveform = augment(waveform, generator, SAMPLING_RATE, max_shift_seconds=0)
        room = self.num_samples - len(waveform)
        if room <= 0:
            start = generator.integers(1 - room)
            return waveform[start : start + self.num_samples]
        before = generator.integers(room + 1)
        return np.pad(waveform, (before, room - before))


class WholeClips(keras.utils.PyDataset):
    """Clips as they are, those of like length together, filled up with silence to the longest of a batch.

    A batch is waveforms, one-hot targets and weights as in `TrainingSegments`; under these weights the
    accuracy is the UAR.
    """

    def __init__(self, dataset, num_emotions: int, batch_size: int = 32):
        super().__init__(workers=NUM_WORKERS)
        self.waveforms = Waveforms(dataset)
        self.labels = np.asarray(dataset["label"])
        self.weights = balanced_weights(self.labels, num_emotions)
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


def balanced_weights(labels: np.ndarray, num_emotions: int) -> np.ndarray:
    """Return a weight per clip, float32, so that every emotion weighs the same and the mean is 1."""
    counts = np.bincount(labels, minlength=num_emotions)
    return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(np.float32)
