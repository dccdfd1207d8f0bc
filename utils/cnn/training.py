"""A split of the Dataset comes in; batches for Keras go out, and a callback that lets a killed run go on.

Training hears segments of one length, augmented and mixed; validation hears clips whole.
"""

import json
import time
from pathlib import Path

import keras
import numpy as np

from utils.cnn.batches import TrainingSegments, WholeClips
from utils.runtime import write_text


class WeightAverage(keras.callbacks.Callback):
    """Gives a network the running mean of the weights of one that is trained, and validates it.

    Single epochs on a few hundred clips differ by several points of UAR; their mean is steadier and better
    (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, "Mean teachers are better role models"). It takes
    in the statistics of batch normalisation, which the averages of Keras' optimizers leave out. Comes first
    in the list of callbacks: the others see the `val_` figures of the mean.

    Args:
        trained, average: networks of one architecture.
        classifier: from waveforms to probabilities, with `average` inside.
        validation: its clips.
        decay: weight of what was before, per step; less in the first steps.
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
        # A model of its own, so that the classifier is saved without what is needed to judge it. The clips'
        # weights make all emotions count alike, so this accuracy is the UAR.
        self.judge = keras.Model(classifier.inputs, classifier.outputs)
        self.judge.compile(
            loss="categorical_crossentropy",
            weighted_metrics=[keras.metrics.CategoricalAccuracy(name="uar")],
            jit_compile=False,
        )
        self.validation = validation
        self.decay = decay
        self.num_steps = 0
        self.values = trained.get_weights()
        self.variables = trained.weights  # gathered once: Keras walks through all layers for them

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.num_steps += 1
        decay = min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
        for value, variable in zip(self.values, self.variables, strict=True):
            value += (1 - decay) * (keras.ops.convert_to_numpy(variable) - value)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.average.set_weights(self.values)
        figures = self.judge.evaluate(self.validation, verbose=0, return_dict=True)
        logs |= {f"val_{name}": value for name, value in figures.items()}


class ResumableTraining(keras.callbacks.Callback):
    """Lets a killed run go on as if nothing had happened; its first call is `restore`, before `fit`.

    An epoch counts once it is in `history.jsonl`, which is written last and whole. Keras' `BackupAndRestore`
    writes weights and epoch one after the other: killed in between, it would take the weights of one epoch
    for those of another; and it trains an epoch more where early stopping had ended the training.

    This brings back weights, optimizer and running mean, seeds dropout and masks anew for each epoch, and
    shows the callbacks that count epochs those that went before. It comes after them in the list.

    Args:
        folder: for the history, the weights and the means; made where it is missing.
        segments: are told the epoch.
        average: of the weights.
        early_stopping, plateau: the callbacks that count epochs.

    `history` has a dict of figures per epoch, with the `seconds` that it took.
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
        self.begun = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def restore(self, model: keras.Model) -> int:
        """Bring a compiled model to where it was; return how many epochs are done.

        `model.stop_training` then says whether early stopping had ended the training.
        """
        file = self.folder / "history.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.history = [json.loads(line) for line in lines]
        if self.history:
            last = len(self.history) - 1
            model.optimizer.build(model.trainable_variables)  # else its state would not be loaded
            model.load_weights(self.folder / f"state-{last}.weights.h5")
            self.average.values = self._mean_of(last)
            self.average.num_steps = len(self.history) * len(self.segments)
        for callback in (self.early_stopping, self.plateau, self):
            callback.set_model(model)
            callback.on_train_begin()
        return len(self.history)

    def on_train_begin(self, logs: dict | None = None) -> None:
        # The callbacks before this one have just forgotten all epochs.
        learning_rate = float(self.model.optimizer.learning_rate)
        for number, figures in enumerate(self.history):
            self.early_stopping.on_epoch_end(number, dict(figures))
            self.plateau.on_epoch_end(number, dict(figures))
        self.model.optimizer.learning_rate = learning_rate

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.segments.epoch = epoch
        generators = [value for value in self.model.variables if value.name == "seed_generator_state"]
        for number, generator in enumerate(generators):
            seed = np.random.SeedSequence((self.segments.seed, epoch, number)).generate_state(1)
            generator.assign([int(seed[0]) % 2**31, 0])
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        figures = {name: float(value) for name, value in (logs or {}).items()}
        figures["seconds"] = time.perf_counter() - self.begun
        self.history.append(figures)
        self.model.save_weights(self.folder / f"state-{epoch}.weights.h5", overwrite=True)
        np.savez(self.folder / f"mean-{epoch}.npz", *self.average.values)
        lines = "".join(f"{json.dumps(figures)}\n" for figures in self.history)
        write_text(self.folder / "history.jsonl", lines)
        # Not before: until then the epoch before is what a run goes on from.
        kept = {f"state-{epoch}.weights.h5", f"mean-{epoch}.npz"}
        kept |= {f"mean-{self.early_stopping.best_epoch}.npz", "history.jsonl"}
        for file in self.folder.iterdir():
            if file.name not in kept:
                file.unlink()

    def restore_best(self) -> None:
        """Give the averaged network the mean of the epoch that validated best."""
        self.average.average.set_weights(self._mean_of(self.early_stopping.best_epoch))

    def _mean_of(self, epoch: int) -> list[np.ndarray]:
        with np.load(self.folder / f"mean-{epoch}.npz", allow_pickle=False) as arrays:
            return [arrays[name] for name in arrays.files]
