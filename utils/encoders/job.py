"""What the steps of a run of `train_wav2vec2.py` share: options, processes, the encoder and its outputs."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from accelerate import PartialState
from scipy.special import softmax
from transformers import AutoModelForAudioClassification, TrainingArguments

from utils.encoders.batches import Clips
from utils.encoders.classifier import build_classifier
from utils.encoders.distributed import ensure_local
from utils.encoders.embeddings import fill_frames
from utils.encoders.encoding import EncodedClips, encode_clips
from utils.encoders.families import MAX_WINDOW_SECONDS, check_exportable, family_of, keep_layers
from utils.encoders.fine_tuning import FineTuning
from utils.encoders.frames import Frames
from utils.encoders.freezing import count_frames, count_frozen_layers, predict
from utils.encoders.partial_model import FrozenClips
from utils.encoders.probe import Probe, fold_into, scale_logits
from utils.runtime import InputError


@dataclass
class EncoderJob:
    """A run of the script in one process.

    Attributes:
        run: the `TrainingRun`, with clips and plan once it has begun.
        model, training: the options of the script.
        args: of the Trainer.
        shared: this machine sees the run folder of the main process.
        checkpoint: the one that the user named.
        extractor: feature extractor of the encoder.
        encoded: what the frozen encoder computed from the clips.
        resumed: the published model was resumed from a checkpoint.
    """

    run: Any
    model: Any
    training: Any
    args: TrainingArguments
    shared: bool
    checkpoint: str | None = None
    extractor: Any = None
    encoded: EncodedClips = field(default_factory=EncodedClips)
    resumed: bool = False

    @property
    def tuning(self) -> FineTuning:
        """How the classifier is fine-tuned."""
        return FineTuning(
            unfreeze_layers=self.model.unfreeze_layers,
            lora_rank=self.model.lora_rank if self.model.parameter_efficient == "lora" else None,
            head_learning_rate=self.training.head_learning_rate,
            class_weights=self.training.class_weights,
            max_length_seconds=self.training.max_length_seconds,
            early_stopping_patience=self.training.early_stopping_patience,
        )

    @property
    def caches_frozen_layers(self) -> bool:
        """The frozen layers run once: without augmentation or adapters their output never changes."""
        return not self.training.augment and not self.tuning.lora_rank

    def new_classifier(
        self, probe: Probe | None = None, window: int | None = None, calibrated: bool = False
    ) -> torch.nn.Module:
        """Return the pretrained encoder, cut to the layers that are used, with a probe or a fresh head.

        Args:
            window: in seconds, without a probe; None: the longest of `windows`.
            calibrated: whether the logits of the probe are divided by its temperature. An overconfident probe
                has almost no loss on its training clips, and nothing for the layers to learn.
        """
        transformers.set_seed(self.run.options.seed)
        name, size = self.model.model_name_or_path, self.model.from_config
        window = probe.window_seconds if probe else window or self.windows()[-1]
        classifier, self.extractor = build_classifier(name, size, self.run.clips.emotions, window)
        num_layers = probe.num_layers if probe else self.model.keep_layers
        if num_layers is not None:
            keep_layers(classifier, num_layers)
        if probe:
            fold_into(classifier, probe)
            if calibrated:
                scale_logits(classifier, 1 / probe.temperature)
        return classifier

    def windows(self) -> list[int]:
        """Return the windows, in seconds, among which the probe chooses, if the encoder has a window.

        The longest training clip fits into the last of them. Shorter clips are padded with silence, which is
        part of the time mean, so the first one fits half of the clips.
        """
        given, final = self.model.window_seconds, self.run.plan.final
        if given is not None and not 1 <= given <= MAX_WINDOW_SECONDS:
            raise InputError(f"--window_seconds {given}: expected 1 to {MAX_WINDOW_SECONDS}")
        seconds = final["duration_seconds"][final["split"] == "train"]
        chosen = {min(math.ceil(each), MAX_WINDOW_SECONDS) for each in (seconds.median(), seconds.max())}
        return [given] if given else sorted(chosen)

    def encode(self) -> None:
        """Run the frozen encoder over all clips, and fit the probes."""
        run = self.run
        classifier = self.new_classifier()  # fails before the long work if the options do not fit the encoder
        num_layers, num_tuned = len(classifier.base_model.encoder.layers), self.model.unfreeze_layers
        is_cut = self.model.keep_layers is not None  # if it has fewer layers then, all are tuned
        if num_tuned < 0 or (num_tuned > num_layers and not is_cut):
            raise InputError(f"--unfreeze_layers {num_tuned}: expected 0 to {num_layers}, all its layers")
        has_window, seconds = family_of(classifier.config).has_window, self.model.window_seconds
        if seconds is not None and not has_window:
            raise InputError(f"--window_seconds {seconds}: this {classifier.config.model_type} has no window")
        if self.training.export == "onnx":
            check_exportable(classifier.config)
        if self.model.no_probe:
            return
        encoders = [(None, classifier.to(self.args.device), self.extractor)]
        if has_window:
            encoders = (
                (window, self.new_classifier(window=window).to(self.args.device), self.extractor)
                for window in self.windows()
            )
        cache_dir, keep = run.data.cache_folder(), self.model.keep_layers
        self.encoded = encode_clips(encoders, run.clips, run.plan, run.data.protocol, cache_dir, keep)

    def training_sets(self, split: pd.DataFrame, dataset, classifier: torch.nn.Module) -> tuple:
        """Return training and validation clips of a split, or what the frozen layers computed from them."""
        if not self.caches_frozen_layers:
            augment, seed = self.training.augment, self.run.options.seed
            train = Clips(dataset["train"], self.extractor, augmented=augment, seed=seed)
            return train, Clips(dataset["validation"], self.extractor)
        frames = self.frozen_frames(classifier)
        if self.training.dataloader_num_workers is None:  # frames are read faster than passed by a process
            self.args.dataloader_num_workers, self.args.dataloader_persistent_workers = 0, False
        return tuple(
            FrozenClips(frames, np.flatnonzero(split["split"] == part), dataset[part]["label"])
            for part in ("train", "validation")
        )

    def frozen_frames(self, classifier: torch.nn.Module) -> Frames:
        """Return the input of the first fine-tuned layer for all clips, computed once for all models."""
        run, table = self.run, self.run.clips.table
        first = count_frozen_layers(classifier, self.model.unfreeze_layers)
        lengths = table["num_samples"].tolist()
        with PartialState().main_process_first():
            num_frames = count_frames(classifier, lengths)
            folder = run.folder / "checkpoints" / "frozen" / f"layer-{first}-{num_frames[0]}"
            frames = Frames(folder, first, num_frames, classifier.config.hidden_size)
        waveforms = run.clips.waveforms.select(table.index)
        fill_frames(classifier.to(self.args.device), self.extractor, waveforms, lengths, frames)
        return frames

    def predict_probe(self, name: str, rows: pd.DataFrame, temperature: float = 1.0) -> np.ndarray:
        """Return the probabilities of the probe of a model for rows of the table."""
        positions = self.run.clips.table.index.get_indexer(rows.index)
        probe = self.encoded.probes[name]
        logits = probe.logits(self.encoded.means[probe.window_seconds], positions)
        return softmax(logits / temperature, axis=1)

    def save(self, name: str, classifier: torch.nn.Module | None, facts: dict) -> torch.nn.Module:
        """Save the classifier of the better stage, calibrated; return it, loaded back.

        Args:
            classifier: the fine-tuned one.
            facts: with `kept` (probe or fine-tuned) and `temperature`.
        """
        run = self.run
        if facts["kept"] == "probe":
            classifier = self.new_classifier(self.encoded.probes[name])
        scale_logits(classifier, 1 / facts["temperature"])
        folder = run.folder if run.plan.models[name] is run.plan.final else run.checkpoints_of(name)
        if self.args.should_save:
            classifier.save_pretrained(folder)
            self.extractor.save_pretrained(folder)
        folder = ensure_local(folder, run.checkpoints_of(name), self.shared)
        return AutoModelForAudioClassification.from_pretrained(folder).to(self.args.device)

    def predict_part(self, name: str, dataset, saved, facts: dict, part: str, rows: pd.DataFrame):
        """Return the probabilities (num_clips, num_emotions) of a part of a split.

        They are those of the saved classifier, in float32, one whole clip at a time. The probe of a fold is
        not saved: scikit-learn gives the same probabilities to 1e-5, and no clip is encoded again.
        """
        if saved is None:
            return self.predict_probe(name, rows, facts["temperature"])
        return predict(saved, Clips(dataset[part], self.extractor), f"Predicting the {part} clips")
