"""Fine-tune the last layers of a classifier, or adapters in all of them, and its head."""

import copy
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import PartialState
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments

from utils.data.audio import SAMPLING_RATE
from utils.encoders.batches import Clips
from utils.encoders.distributed import broadcast_from_main, broadcast_weights, ensure_local
from utils.encoders.freezing import add_lora, freeze_all_but_last, unpadded_logits
from utils.encoders.partial_model import FrozenClips, TunedLayers
from utils.encoders.trainer import EmotionTrainer
from utils.evaluation.emotion_metric import EmotionMetric
from utils.evaluation.metrics import mean_uar
from utils.runtime import interruptible, logger


@dataclass(frozen=True)
class FineTuning:
    """How a classifier is fine-tuned.

    Attributes:
        unfreeze_layers: train this many of the last layers, or all if there are fewer; ignored with adapters.
        lora_rank: rank of adapters in all layers; None: no adapters.
        head_learning_rate: of the head; the learning rate of TrainingArguments is that of the encoder layers.
        class_weights: balanced (rare emotions count more in the loss) or none.
        max_length_seconds: training clips are cut to this.
        early_stopping_patience: epochs without a better validation UAR.
    """

    unfreeze_layers: int
    lora_rank: int | None
    head_learning_rate: float
    class_weights: str
    max_length_seconds: float
    early_stopping_patience: int


def build_trainer(
    classifier: torch.nn.Module,
    train: Clips | FrozenClips,
    validation: Clips | FrozenClips,
    how: FineTuning,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    corpora: Sequence[str] | None = None,
):
    """Return the Trainer of a classifier, and the model with adapters, still to be merged, if it has any.

    Args:
        classifier: a stock classifier; it is changed in place.
        train, validation: the clips, or what the frozen layers computed from them.
        corpora: of the validation clips; None: all are of one.
    """
    adapted, frozen = None, []
    if how.lora_rank:
        adapted = add_lora(classifier, how.lora_rank)
    else:
        frozen = freeze_all_but_last(classifier, how.unfreeze_layers)
    class_weights = torch.ones(classifier.config.num_labels)
    if how.class_weights == "balanced":
        counts = np.bincount(train.labels)
        class_weights = torch.tensor(counts.sum() / (len(counts) * counts))
    num_trained = sum(values.numel() for values in classifier.parameters() if values.requires_grad)
    logger.info("%s of %s parameters are trained", f"{num_trained:,}", f"{classifier.num_parameters():,}")
    model, logits = classifier, unpadded_logits
    max_samples = round(how.max_length_seconds * SAMPLING_RATE)
    if isinstance(train, FrozenClips):
        model, max_samples = TunedLayers(classifier, how.unfreeze_layers), max(train.lengths)
        logits = torch.nn.Module.__call__
    trainer = EmotionTrainer(
        model=model,
        args=args,
        logits=logits,
        frozen=frozen,
        head_learning_rate=how.head_learning_rate,
        class_weights=class_weights,
        max_samples=max_samples,
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=functools.partial(validation_scores, corpora=corpora),
        callbacks=[EarlyStoppingCallback(how.early_stopping_patience), *callbacks],
    )
    return trainer, adapted


def validation_scores(
    prediction: transformers.EvalPrediction, corpora: Sequence[str] | None = None
) -> dict[str, float]:
    """Return the scores that are shown, and selected on, after each epoch.

    Args:
        corpora: of the clips: `uar` is the mean of the corpora's UAR; None: all clips are of one corpus.
    """
    logits, labels = prediction
    scores = EmotionMetric(keep_in_memory=True).compute(
        predictions=logits.argmax(axis=-1), references=labels, num_labels=logits.shape[-1]
    )
    if corpora is not None:
        scores["uar"] = mean_uar(labels, logits.argmax(axis=-1), corpora)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    return {"loss": loss} | {name: scores[name] for name in ("uar", "accuracy", "macro_f1")}


def find_checkpoint(folder: Path, named: str | None, resumes: bool, shared: bool) -> str | None:
    """Return the checkpoint to resume from, on this machine's disk; None: train from the start.

    Args:
        folder: with the checkpoints of the model.
        named: the checkpoint that the user named.
        resumes: whether to look for the last one.
        shared: what `distributed.shares_disk_with_main` returned.
    """
    if resumes and not named and PartialState().is_main_process:
        named = last_checkpoint(folder)
    if not (named := broadcast_from_main(named)):
        return None
    return str(ensure_local(Path(named), folder / Path(named).name, shared))


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the newest complete checkpoint in a folder: its state file is written last."""
    folders = [folder for folder in checkpoints.glob("checkpoint-*") if folder.name[11:].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.info("%s is incomplete; looking for an earlier checkpoint", folder)
        else:
            logger.info("Resuming from %s", folder)
            return str(folder)
    logger.info("No checkpoint to resume from: training from the start")
    return None


def fine_tune(trainer: EmotionTrainer, checkpoint: str | None) -> None:
    """Train from the start or from a checkpoint; all processes have the same weights then."""
    if checkpoint:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        stopped = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        if stopped and state.global_step < state.max_steps:
            # By early stopping, which the Trainer forgets when it resumes: it would train one epoch more.
            trainer.args = copy.copy(trainer.args)
            trainer.args.num_train_epochs, trainer.args.max_steps = int(state.epoch), -1
    with interruptible():
        trainer.train(resume_from_checkpoint=checkpoint)
    broadcast_weights(trainer.model)
