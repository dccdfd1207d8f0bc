"""Training batches without padding, and whole clips for evaluation, for PyTorch.

Padding changes the output of encoders with group normalisation (wav2vec2-base, wav2vec2-base-960h) by more
than clips differ from each other, and `pipeline` does not pad. Therefore training clips of similar length
share a batch and are cropped to one length, and in evaluation each clip is processed whole and alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from utils.data.audio import SAMPLING_RATE
from utils.data.augment import augment, mask_spectrogram
from utils.data.decoding import Waveforms
from utils.encoders.families import extract_input

LENGTH_JITTER = 0.02
"""Standard deviation of the relative noise on the lengths by which clips are sorted into batches."""


class EqualLengthSampler(torch.utils.data.Sampler):
    """Sample every clip once per epoch, in batches of clips that are cropped to one length.

    Yields keys `(index, num_samples, epoch)` for `Clips`. The randomness depends only on `(seed, epoch)` here
    and on `(seed, epoch, index)` in `Clips`, so a run does not depend on the number of processes, data loader
    workers or restarts. If the number of clips is no multiple of `batch_size`, some clips occur twice.

    Args:
        lengths: number of samples of each clip.
        batch_size: clips per optimiser step, over all processes and gradient accumulation steps.
        max_samples: training clips are cropped to at most this many samples.
        seed: of the order of the clips.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, max_samples: int, seed: int):
        self.lengths = np.minimum(np.asarray(lengths), max_samples)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.lengths))
        order = np.resize(order, len(self))  # repeats the first clips to fill the last batch
        jittered = self.lengths[order] * (1 + LENGTH_JITTER * generator.standard_normal(len(order)))
        batches = order[np.argsort(jittered, kind="stable")].reshape(-1, self.batch_size)
        for batch in generator.permutation(batches):
            num_samples = int(self.lengths[batch].min())
            for index in batch:
                yield int(index), num_samples, self.epoch


class Clips(torch.utils.data.Dataset):
    """One split in the format of the Trainer: `label` and `input_values`, float32, which is what the encoder
    is given: a waveform (num_samples,) or a log-mel spectrogram, see `families.Family`.

    `clips[i]` is the whole clip i. `clips[i, num_samples, epoch]` is its training version in that epoch:
    augmented if `augmented`, and cropped to `num_samples` at a random position.

    Args:
        dataset: a split of `build_dataset`.
        feature_extractor: the one of the encoder; it normalises the waveform as in inference.
        augmented: whether training versions are augmented.
        seed: of the crops and the augmentation.
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
            waveform = _crop_or_pad(waveform, num_samples, generator)
        input_values = extract_input(self.feature_extractor, waveform)
        if self.augmented and num_samples is not None and input_values.ndim == 2:
            input_values = mask_spectrogram(input_values, generator)
        input_values = torch.as_tensor(input_values)
        return {"input_values": input_values, "label": int(self.labels[index])}


def _crop_or_pad(waveform: np.ndarray, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """Crop at a random position; a clip that augmentation has shortened is padded with silence."""
    if len(waveform) < num_samples:
        return np.pad(waveform, (0, num_samples - len(waveform)))
    start = generator.integers(len(waveform) - num_samples + 1)
    return waveform[start : start + num_samples]


def collate(clips: list[dict]) -> dict:
    """Combine clips into a batch.

    Args:
        clips: items of `Clips` or `FrozenClips`.

    Returns:
        `labels`, int64 (batch_size,), and `input_values`: a tensor (batch_size, ...) if all clips have the
        same length, otherwise a list of tensors (for `freezing.unpadded_logits` and
        `partial_model.TunedLayers`).
    """
    input_values = [clip["input_values"] for clip in clips]
    if len({len(values) for values in input_values}) == 1:
        input_values = torch.stack(input_values)
    # Labels first: the Trainer takes the batch size from the first tensor in the dict.
    return {"labels": torch.tensor([clip["label"] for clip in clips]), "input_values": input_values}
