"""The transformers Trainer for partly frozen classifiers (PyTorch).

It adds to the stock Trainer: class weights, a separate learning rate for the head, frozen modules that stay
in eval mode, batches without padding, and a log of durations that survives a restart.
"""

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

from utils.encoders.batches import EqualLengthSampler, collate
from utils.encoders.freezing import is_head


class RunCallback(TrainerCallback):
    """Call functions in the main process.

    Args:
        report: called with each entry of the log, and the number of optimiser steps before it.
        upload: called after each checkpoint that the Trainer has saved; may be None.
    """

    def __init__(self, report: Callable[[dict[str, float], int], None], upload: Callable[[], None] | None):
        self.report, self.upload = report, upload

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if state.is_world_process_zero:
            self.report(logs, state.global_step)

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero and self.upload:
            self.upload()


class EmotionTrainer(Trainer):
    """Fine-tune a stock audio classifier.

    Args:
        model: a stock classifier over raw waveforms, or its `partial_model.TunedLayers`.
        args: TrainingArguments; they are copied.
        logits: function of the model, wrapped or not, and the `input_values` of a batch; returns the logits.
        frozen: modules that are not trained, from `freezing.freeze_all_but_last`.
        head_learning_rate: of the head; the layers of the encoder have `args.learning_rate`.
        class_weights: float (num_labels,), the weight of each label in the training loss.
        max_samples: training clips are cropped to at most this many samples.
        kwargs: of the stock Trainer; the datasets are `batches.Clips` or `partial_model.FrozenClips`.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        args: TrainingArguments,
        logits: Callable[[torch.nn.Module, Sequence], torch.Tensor],
        frozen: list[torch.nn.Module],
        head_learning_rate: float,
        class_weights: torch.Tensor,
        max_samples: int,
        **kwargs,
    ):
        # The model ignores `num_items_in_batch`, so the Trainer must average over accumulation steps.
        model.accepts_loss_kwargs = False
        args = copy.copy(args)
        # `compute_loss` smooths the labels. That of the Trainer would need the config of a whole classifier.
        self.label_smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
        super().__init__(model=model, args=args, data_collator=collate, **kwargs)
        self.logits = logits
        self.frozen = frozen
        self.head_learning_rate = head_learning_rate
        self.class_weights = class_weights.float().to(self.args.device)
        self.max_samples = max_samples
        self.last_log_time = time.perf_counter()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the `seconds` since the previous entry.

        The Trainer's own times start again when a run is resumed; the log is stored in the checkpoints.
        """
        now = time.perf_counter()
        super().log(logs | {"seconds": now - self.last_log_time}, start_time)
        self.last_log_time = now

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        clips_per_step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        return EqualLengthSampler(self.train_dataset.lengths, clips_per_step, self.max_samples, seed)

    def create_optimizer(self, model=None):
        """Create the optimizer, with parameter groups by learning rate and weight decay."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((is_head(name), name in decayed), []).append(parameter)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": self.head_learning_rate if head else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                    }
                    for (head, decay), parameters in sorted(groups.items(), key=lambda group: group[0])
                ],
                **options,
            )
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the class-weighted cross-entropy, and the logits if `return_outputs`."""
        for module in self.frozen:
            module.eval()
        logits = self.logits(model, inputs["input_values"])
        losses = cross_entropy(
            logits.float(),
            inputs["labels"],
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        # Not divided by the sum of the weights: the mean over two half batches is that of the whole batch.
        loss = (losses * self.class_weights[inputs["labels"]]).mean()
        return (loss, logits) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return no loss, the float32 logits and the labels of a batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = self.logits(model, inputs["input_values"]).float()
        # `compute_metrics` returns the loss: a mean over batches would give clips of a smaller last batch
        # more weight.
        return None, logits, inputs["labels"]
