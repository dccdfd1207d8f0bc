"""What the steps of a run of `train_wav2vec2.py` share: options, processes, the encoder and its outputs."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from scipy.special import softmax
from transformers import AutoModelForAudioClassification, TrainingArguments

from utils.encoders.batches import Clips
from utils.encoders.classifier import build_classifier
from utils.encoders.distributed import ensure_local
from utils.encoders.encoding import EncodedClips, encode_clips
from utils.encoders.families import MAX_WINDOW_SECONDS, check_exportable
from utils.encoders.fine_tuning import FineTuning
from utils.encoders.freezing import freeze_all_but_last, predict
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
        caches_frozen_layers: the frozen layers run once, not in each epoch.
        resumed: the published model was resumed from a checkpoint.
    """

    run: Any
    model: Any
    training: Any
    args: TrainingArguments
    shared: bool
    checkpoint: str | None = None
    extractor: Any = None
    encoded: EncodedClips | None = None
    caches_frozen_layers: bool = False
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

    def new_classifier(self, probe: Probe | None = None) -> torch.nn.Module:
        """Return the pretrained encoder with the head of a probe, or with a fresh one."""
        transformers.set_seed(self.run.options.seed)
        name, size = self.model.model_name_or_path, self.model.from_config
        emotions, window = self.run.clips.emotions, self.window_seconds()
        classifier, self.extractor = build_classifier(name, size, emotions, window)
        if probe:
            fold_into(classifier, probe)
        return classifier

    def window_seconds(self) -> int:
        """Return the window of encoders that have one: by default as long as the longest training clip."""
        final = self.run.plan.final
        longest = math.ceil(final["duration_seconds"][final["split"] == "train"].max())
        seconds = self.model.window_seconds or min(longest, MAX_WINDOW_SECONDS)
        if not 1 <= seconds <= MAX_WINDOW_SECONDS:
            raise InputError(f"--window_seconds {seconds}: expected 1 to {MAX_WINDOW_SECONDS}")
        return seconds

    def encode(self) -> None:
        """Run the frozen encoder over all clips, and fit the probes."""
        tunes, run = self.training.num_train_epochs > 0, self.run
        # Without augmentation or adapters the frozen layers compute the same in each epoch.
        self.caches_frozen_layers = tunes and not self.training.augment and not self.tuning.lora_rank
        classifier = self.new_classifier()
        if self.training.export == "onnx":
            check_exportable(classifier.config)
        if tunes:  # fails before the long work if the encoder has fewer layers
            freeze_all_but_last(classifier, self.model.unfreeze_layers)
        self.encoded = encode_clips(
            classifier.to(self.args.device),
            self.extractor,
            run.clips,
            run.plan,
            run.data.protocol,
            run.data.cache_folder(),
            with_probes=not self.model.no_probe,
            frames_folder=run.folder / "checkpoints" / "frozen" if self.caches_frozen_layers else None,
            unfreeze_layers=self.model.unfreeze_layers if tunes else 0,
        )

    def training_sets(self, split: pd.DataFrame, dataset) -> tuple:
        """Return training and validation clips of a split, or what the frozen layers computed from them."""
        if not self.caches_frozen_layers:
            augment, seed = self.training.augment, self.run.options.seed
            train = Clips(dataset["train"], self.extractor, augmented=augment, seed=seed)
            return train, Clips(dataset["validation"], self.extractor)
        return tuple(
            FrozenClips(
                self.encoded.frames,
                self.encoded.means,
                np.flatnonzero(split["split"] == part),
                dataset[part]["label"],
            )
            for part in ("train", "validation")
        )

    def predict_probe(self, name: str, rows: pd.DataFrame, temperature: float = 1.0) -> np.ndarray:
        """Return the probabilities of the probe of a model for rows of the table."""
        positions = self.run.clips.table.index.get_indexer(rows.index)
        logits = self.encoded.probes[name].logits(self.encoded.means, positions)
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
