"""A split of the Dataset comes in; batches that need no padding go out, for PyTorch.

Padding moves the output of group-norm encoders (wav2vec2-base, -960h) by more than clips differ from
each other, and `pipeline` never pads. So training clips of like length meet in a batch and are cut to
one length, and evaluation sees each clip whole and by itself.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from utils.data.audio import SAMPLING_RATE
from utils.data.augment import augment
from utils.data.decoding import Waveforms

LENGTH_JITTER = 0.02
"""Standard deviation of the factor on a clip's length before sorting: batches differ between epochs."""


class EqualLengthSampler(torch.utils.data.Sampler):
    """Draws every clip once an epoch, in batches whose clips are cut to one length.

    Yields keys `(index, num_samples, epoch)` for `Clips`. All randomness comes from `(seed, epoch)`
    here and `(seed, epoch, index)` there, so a run is the same with any number of processes, loader
    workers or restarts.

    Args:
        lengths: samples per clip.
        batch_size: clips per optimiser step, over all processes and accumulation steps.
        max_samples: no clip is longer than this in training.
        seed: of the order of the clips.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, max_samples: int, seed: int):
        self.lengths = np.minimum(np.asarray(lengths), max_samples)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        # The last batch is filled up with clips that come twice.
        order = generator.permutation(len(self.lengths))
        order = np.resize(order, len(self))
        jittered = self.lengths[order] * (1 + LENGTH_JITTER * generator.standard_normal(len(order)))
        batches = order[np.argsort(jittered, kind="stable")].reshape(-1, self.batch_size)
        for batch in generator.permutation(batches):
            num_samples = int(self.lengths[batch].min())
            for index in batch:
                yield int(index), num_samples, self.epoch


class Clips(torch.utils.data.Dataset):
    """One split as the Trainer reads it.

    `clips[i]` is clip i, whole. `clips[i, num_samples, epoch]` is its training version of that epoch:
    cut to `num_samples` at a random place and, if so chosen, augmented.

    Args:
        dataset: a split of `dataset.build_dataset`.
        feature_extractor: the encoder's; it sees the clip as it will see a user's.
        augmented: whether training versions are augmented.
        seed: of cuts and augmentation.
    """

    def __init__(self, dataset, feature_extractor, augmented: bool = False, seed: int = 0):
        self.lengths = np.asarray(dataset["num_samples"])
        self.labels = np.asarray(dataset["label"])
        self.waveforms = Waveforms(dataset)
        self.feature_extractor = feature_extractor
        self.augmented = augmented
        self.seed = seed

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, key: int | tuple[int, int, int]) -> dict:
        index, num_samples, epoch = key if isinstance(key, tuple) else (key, None, None)
        waveform = self.waveforms[index]
        if num_samples is not None:
            generator = np.random.default_rng((self.seed, epoch, index))
            if self.augmented:
                waveform = augment(waveform, generator, SAMPLING_RATE)
            waveform = _fit(waveform, num_samples, generator)
        features = self.feature_extractor(waveform, sampling_rate=SAMPLING_RATE)
        values = torch.as_tensor(features["input_values"][0])
        return {"input_values": values, "label": int(self.labels[index])}


def _fit(waveform: np.ndarray, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """Cut at a random place; what augmentation made too short is filled with silence."""
    if len(waveform) < num_samples:
        return np.pad(waveform, (0, num_samples - len(waveform)))
    start = generator.integers(len(waveform) - num_samples + 1)
    return waveform[start : start + num_samples]


def collate(clips: list[dict]) -> dict:
    """Return `labels` (batch,) and `input_values`: a tensor (batch, num_samples) of equally long waveforms,
    else a list, which `encoder.unpadded_logits` takes of tensors and `tuned.TunedLayers` of pairs."""
    input_values = [clip["input_values"] for clip in clips]
    if torch.is_tensor(input_values[0]) and len({len(values) for values in input_values}) == 1:
        input_values = torch.stack(input_values)
    # Labels first: the Trainer takes the batch size from the first tensor that it meets.
    return {"labels": torch.tensor([clip["label"] for clip in clips]), "input_values": input_values}
