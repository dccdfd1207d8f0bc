"""A classifier frozen in part and its clips come in; a transformers Trainer for them goes out.

What it adds to the stock one: class weights, a learning rate of its own for the head, frozen parts that
stay in eval mode, batches without padding, and a log that says how long things took, across kills.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback

from utils.encoders.batches import EqualLengthSampler, collate
from utils.encoders.freezing import is_head


class OnSaveCallback(TrainerCallback):
    """Calls `then` in the main process whenever a checkpoint is whole."""

    def __init__(self, then: Callable[[], None]):
        self.then = then

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.then()


class EmotionTrainer(Trainer):
    """Fine-tune a stock audio classifier.

    Args:
        model: a stock classifier over raw waveforms, or the `tuned.TunedLayers` of one.
        logits: takes the model, wrapped or not, and the `input_values` of a batch, and returns the logits.
        frozen: modules that do not learn, as from `encoder.freeze_all_but_last`.
        head_learning_rate: of the head; the encoder's layers have `args.learning_rate`.
        class_weights: float tensor (num_labels,), the weight of each label in the training loss.
        max_samples: training clips are cut to this many samples.
        kwargs: the stock Trainer's; the datasets are `batches.Clips`, or `tuned.FrozenClips`.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        logits: Callable[[torch.nn.Module, Sequence], torch.Tensor],
        frozen: list[torch.nn.Module],
        head_learning_rate: float,
        class_weights: torch.Tensor,
        max_samples: int,
        **kwargs,
    ):
        # These classes ignore the number of items in a batch, so the Trainer must average over steps.
        model.accepts_loss_kwargs = False
        super().__init__(model=model, data_collator=collate, **kwargs)
        self.logits = logits
        self.frozen = frozen
        self.head_learning_rate = head_learning_rate
        self.class_weights = class_weights.float().to(self.args.device)
        self.max_samples = max_samples
        self.logged = time.perf_counter()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the `seconds` since the entry before. The Trainer's own time forgets what a resumed run
        had done before; its checkpoints keep the log."""
        now = time.perf_counter()
        super().log(logs | {"seconds": now - self.logged}, start_time)
        self.logged = now

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        clips_per_step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        return EqualLengthSampler(self.train_dataset.lengths, clips_per_step, self.max_samples, seed)

    def create_optimizer(self, model=None):
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
        for module in self.frozen:
            module.eval()
        logits = self.logits(model, inputs["input_values"])
        losses = cross_entropy(
            logits.float(),
            inputs["labels"],
            reduction="none",
            label_smoothing=self.args.label_smoothing_factor,
        )
        # A plain mean of weighted losses: two halves of a batch average to the whole.
        loss = (losses * self.class_weights[inputs["labels"]]).mean()
        return (loss, logits) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = self.logits(model, inputs["input_values"]).float()
        # `compute_metrics` gives the loss; averaged over batches, the last one would weigh too much.
        return None, logits, inputs["labels"]
