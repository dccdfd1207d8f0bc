"""Keras callbacks: a running mean of the weights, and training that can be resumed after a kill."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from utils.cnn.batches import TrainingSegments, WholeClips
from utils.cnn.description import to_history
from utils.runtime import write_text


class WeightAverage(keras.callbacks.Callback):
    """Maintain the running mean of the weights of a trained network in a second network, and validate that.

    The validation scores of single epochs on a few hundred clips differ by several points of UAR (unweighted
    average recall, the mean of the per-emotion recalls); the mean of the weights is more stable and better
    (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, "Mean teachers are better role models"). The mean
    includes the statistics of batch normalisation, which the averages of Keras' optimizers leave out. This
    must be the first callback: the others read the `val_` metrics that it adds to the logs.

    Args:
        trained: the trained network.
        average: a network of the same architecture, for the mean.
        classifier: model from waveforms to probabilities that contains `average`.
        validation: the validation clips.
        decay: weight of the previous mean at each step; smaller in the first steps.
    """

    def __init__(
        self,
        trained: keras.Model,
        average: keras.Model,
        classifier: keras.Model,
        validation: WholeClips,
        decay: float,
    ):
        super().__init__()
        self.average = average
        # A separate model, so that the classifier is saved without loss and metrics. With the sample weights
        # of the clips the accuracy is the UAR.
        self.evaluator = keras.Model(classifier.inputs, classifier.outputs)
        self.evaluator.compile(
            loss="categorical_crossentropy",
            weighted_metrics=[keras.metrics.CategoricalAccuracy(name="uar")],
            jit_compile=False,
        )
        self.validation = validation
        self.decay = decay
        self.num_steps = 0
        self.values = trained.get_weights()
        self.variables = trained.weights  # stored: Keras collects them from all layers at each access

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.num_steps += 1
        decay = min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
        for value, variable in zip(self.values, self.variables, strict=True):
            value += (1 - decay) * (keras.ops.convert_to_numpy(variable) - value)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.average.set_weights(self.values)
        scores = self.evaluator.evaluate(self.validation, verbose=0, return_dict=True)
        logs |= {f"val_{name}": value for name, value in scores.items()}


class ResumableTraining(keras.callbacks.Callback):
    """Save the state after each epoch, and restore it after a kill. Call `restore` before `fit`.

    An epoch is complete when it is in `history.jsonl`, which is written last and atomically. Keras'
    `BackupAndRestore` is not used: it writes weights and epoch one after the other, so a kill between the two
    combines the weights of one epoch with the number of another; and it trains one more epoch after early
    stopping has ended the training.

    This callback restores weights, optimizer and running mean, sets the seeds of dropout and masks for each
    epoch, and replays the completed epochs to the callbacks that count epochs. It must come after them in the
    list of callbacks.

    Args:
        folder: for the history, the weights and the means; created if it does not exist.
        segments: the training batches; their epoch is set.
        average: the running mean of the weights.
        early_stopping, plateau: the callbacks that count epochs.

    Attributes:
        history: a dict of metrics per completed epoch, including its `seconds`.
    """

    def __init__(
        self,
        folder: Path,
        segments: TrainingSegments,
        average: WeightAverage,
        early_stopping: keras.callbacks.EarlyStopping,
        plateau: keras.callbacks.ReduceLROnPlateau,
    ):
        super().__init__()
        self.folder = folder
        self.segments = segments
        self.average = average
        self.early_stopping = early_stopping
        self.plateau = plateau
        self.history = []
        self.epoch_start = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def restore(self, model: keras.Model) -> int:
        """Restore the state of a compiled model; afterwards `model.stop_training` is set if it was.

        Returns:
            the number of completed epochs.
        """
        file = self.folder / "history.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.history = [json.loads(line) for line in lines]
        if self.history:
            last = len(self.history) - 1
            model.optimizer.build(model.trainable_variables)  # otherwise its state is not loaded
            model.load_weights(self.folder / f"state-{last}.weights.h5")
            self.average.values = self._load_mean(last)
            self.average.num_steps = len(self.history) * len(self.segments)
        for callback in (self.early_stopping, self.plateau, self):
            callback.set_model(model)
            callback.on_train_begin()
        return len(self.history)

    def on_train_begin(self, logs: dict | None = None) -> None:
        # The callbacks before this one have just reset their state.
        learning_rate = float(self.model.optimizer.learning_rate)
        for number, metrics in enumerate(self.history):
            self.early_stopping.on_epoch_end(number, dict(metrics))
            self.plateau.on_epoch_end(number, dict(metrics))
        self.model.optimizer.learning_rate = learning_rate

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.segments.epoch = epoch
        generators = [value for value in self.model.variables if value.name == "seed_generator_state"]
        for number, generator in enumerate(generators):
            seed = np.random.SeedSequence((self.segments.seed, epoch, number)).generate_state(1)
            generator.assign([int(seed[0]) % 2**31, 0])
        self.epoch_start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        metrics["seconds"] = time.perf_counter() - self.epoch_start
        self.history.append(metrics)
        self.model.save_weights(self.folder / f"state-{epoch}.weights.h5", overwrite=True)
        np.savez(self.folder / f"mean-{epoch}.npz", *self.average.values)
        lines = "".join(f"{json.dumps(metrics)}\n" for metrics in self.history)
        write_text(self.folder / "history.jsonl", lines)
        # Only now: until the history is written, a run is resumed from the previous epoch.
        needed = {f"state-{epoch}.weights.h5", f"mean-{epoch}.npz"}
        needed |= {f"mean-{self.early_stopping.best_epoch}.npz", "history.jsonl"}
        for file in self.folder.iterdir():
            if file.name not in needed:
                file.unlink()

    def restore_best(self) -> None:
        """Set the averaged network to the mean of the epoch with the best validation score."""
        self.average.average.set_weights(self._load_mean(self.early_stopping.best_epoch))

    def _load_mean(self, epoch: int) -> list[np.ndarray]:
        with np.load(self.folder / f"mean-{epoch}.npz", allow_pickle=False) as arrays:
            return [arrays[name] for name in arrays.files]


class RunCallback(keras.callbacks.Callback):
    """Call functions after each epoch. It must come after the `ResumableTraining`.

    Args:
        progress: has the epochs.
        report: called with the log entry of the epoch, as in `to_history`, and its number.
        upload: may be None.
    """

    def __init__(
        self,
        progress: ResumableTraining,
        report: Callable[[dict[str, float], int], None],
        upload: Callable[[], None] | None,
    ):
        super().__init__()
        self.progress, self.report, self.upload = progress, report, upload

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.report(to_history(self.progress.history)[-1], epoch + 1)
        if self.upload:
            self.upload()


def build_callbacks(
    trainee: keras.Model,
    classifier: keras.Model,
    segments: TrainingSegments,
    validation: WholeClips,
    options,
    folder: Path,
) -> list[keras.callbacks.Callback]:
    """Return the callbacks of a training with the `TrainingOptions` of train_cnn.py.

    The first one, `WeightAverage`, adds val_uar for the others; the last is the `ResumableTraining`, which
    keeps its checkpoints in `folder`.
    """
    networks = [each.get_layer("convolutional_network") for each in (trainee, classifier)]
    average = WeightAverage(*networks, classifier, validation, decay=options.ema_decay)
    patience = options.early_stopping_patience
    early_stopping = keras.callbacks.EarlyStopping("val_uar", mode="max", patience=patience)
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_uar", mode="max", factor=0.5, patience=max(1, patience // 3)
    )
    progress = ResumableTraining(folder, segments, average, early_stopping, plateau)
    return [average, early_stopping, plateau, progress]
