"""The Trainers that `benchmarks.training` compares: that of this kit and that of most notebooks."""

import numpy as np
import soundfile
import soxr
import torch
from transformers import (
    AutoModelForAudioClassification,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from train_wav2vec2 import ModelOptions, TrainingOptions
from utils.data.audio import SAMPLING_RATE
from utils.encoders import FineTuning, FrozenClips, build_classifier, build_trainer, training_arguments
from utils.encoders.batches import EqualLengthSampler
from utils.encoders.classifier import SIZES
from utils.options import RunOptions

BATCH_SIZE = 8


class DecodedOnAccess(torch.utils.data.Dataset):
    """Decodes and resamples a file at each access, like a transform of a Dataset."""

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
    """Return the Trainer of the usual recipe.

    Args:
        size: of the encoder, one of `SIZES`.
        table: with the `path` of each clip.
        labels: of the clips.
        folder: of the Trainer.
    """
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
    clips = DecodedOnAccess(table["path"].tolist(), labels, extractor)
    return Trainer(model=model, args=arguments, train_dataset=clips, data_collator=collate)


def our_trainer(
    size: str, train, emotions, folder: str, augmented: bool, lora: bool, batch_size: int = BATCH_SIZE
) -> Trainer:
    """Return the Trainer of train_wav2vec2.py with its default options.

    Args:
        size: of the encoder, one of `SIZES`.
        train: `Clips` or `FrozenClips`.
        emotions: label i is `emotions[i]`.
        folder: of the Trainer.
        augmented: whether training clips are augmented.
        lora: whether adapters in all layers are trained, instead of the last layers.
        batch_size: clips per step.
    """
    options = TrainingOptions(
        per_device_train_batch_size=batch_size,
        class_weights="none",  # some emotions may be missing in the few clips of a benchmark
        lr_scheduler_type="constant",
        augment=augmented,
        dataloader_num_workers=0 if isinstance(train, FrozenClips) else None,  # as train_wav2vec2.py chooses
    )
    flags = ["--eval_strategy=steps", f"--eval_steps={10**6}", "--save_strategy=no", "--logging_strategy=no"]
    flags += ["--load_best_model_at_end=false", "--disable_tqdm=true"]
    tuning = FineTuning(
        ModelOptions.unfreeze_layers,
        ModelOptions.lora_rank if lora else None,
        options.head_learning_rate,
        options.class_weights,
        options.max_length_seconds,
        options.early_stopping_patience,
    )
    model, _ = build_classifier("", size, emotions)
    args = training_arguments(options, RunOptions(output_dir=folder), flags)
    trainer, _ = build_trainer(model, train, train, tuning, args)
    return trainer


def choose_batches(sampler: EqualLengthSampler, num_batches: int) -> np.ndarray:
    """Return the indices of the clips of some batches of a sampler, evenly spaced in the order of length."""
    keys = np.array(list(sampler)).reshape(-1, sampler.batch_size, 3)
    by_length = keys[np.argsort(keys[:, 0, 1])]
    positions = (np.arange(num_batches) + 0.5) / num_batches * len(by_length)
    return np.sort(by_length[positions.astype(int), :, 0].ravel())
