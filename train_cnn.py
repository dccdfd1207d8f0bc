"""Train a convolutional network from scratch on RAVDESS and TESS with Keras, and write a model card.

Try it offline, with synthetic voices (2 CPU cores: about two minutes):

    python train_cnn.py --demo

The full run, under the speaker-independent folds of published results (six folds and the model to publish,
each some ten minutes on one CPU core):

    python train_cnn.py --corpora ravdess --protocol folds --output_dir runs/cnn

One model, tested on unseen speakers, from clips that you have:

    python train_cnn.py --corpora ravdess tess --data_dir ~/clips --output_dir runs/cnn

Without options: RAVDESS speech and TESS, the emotions that both have, tested on fixed unseen speakers
(--protocol holdout); the epoch with the best validation UAR (unweighted average recall) is kept. The run
folder then holds model.keras, which maps a waveform to emotion probabilities and loads with
`keras.models.load_model`, its card (README.md), metrics.json, predictions.csv and figures.
"""

import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils.data.options import DataOptions
from utils.options import HubOptions, RunOptions, parse_options
from utils.runtime import InputError, run_script


@dataclass
class ModelOptions:
    """The size of the network."""

    _argument_group_name = "model"

    width: int = field(default=16, metadata={"help": "Channels of the first convolution."})
    dropout: float = field(default=0.4, metadata={"help": "Dropout before the classifier."})


@dataclass
class TrainingOptions:
    """How the network is trained."""

    _argument_group_name = "training"

    num_train_epochs: int = field(default=50, metadata={"help": "Maximum number of epochs."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Clips per step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Learning rate at the start."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    max_length_seconds: float = field(default=2.0, metadata={"help": "Training clips are cut to this."})
    mixup: float = field(default=0.2, metadata={"help": "Parameter of the Beta distribution; 0: no mixup."})
    label_smoothing_factor: float = field(default=0.1, metadata={"help": "Label smoothing."})
    ema_decay: float = field(default=0.998, metadata={"help": "Decay per step of the averaged weights."})
    early_stopping_patience: int = field(
        default=30, metadata={"help": "Stop after so many epochs without a better validation UAR."}
    )


DEMO = {
    "output_dir": "runs/demo_cnn",
    "num_train_epochs": 12,
    "per_device_train_batch_size": 8,
    "mixup": 0.0,
    "ema_decay": 0.98,
}
"""Defaults under --demo; options on the command line override them."""


def parse_arguments(argv: list[str]) -> tuple:
    """Parse the command line."""
    types = (DataOptions, ModelOptions, TrainingOptions, RunOptions, HubOptions)
    return parse_options(argv, types, __doc__, {"output_dir": "runs/cnn"}, DEMO)


if __name__ == "__main__":  # a wrong option ends here, before the slow imports
    OPTIONS = run_script(parse_arguments, sys.argv[1:])

os.environ["KERAS_BACKEND"] = "tensorflow"  # Grad-CAM and the batches need it, whatever a notebook has set
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notes are of no use to users

import keras
import numpy as np
from keras import layers, ops
from tqdm.auto import tqdm

from utils.cnn import (
    ResumableTraining,
    RunCallback,
    SpectrogramAugmentation,
    WholeClips,
    build_callbacks,
    build_segments,
    describe_layers,
    grad_cam,
    oldest_reader,
    save_classifier,
    select_device,
    to_history,
)
from utils.data import SAMPLING_RATE, Waveforms, build_dataset, load_clips, plan_models
from utils.evaluation import fit_temperature
from utils.hub import TrainingRun
from utils.report import TrainedModel
from utils.runtime import interruptible, logger

# ---------------------------------------------------------------------------------------------------
# Features: the spectrogram is the first part of the model

NUM_MELS = 64
HOP = 320  # samples: 20 ms
WINDOW = 1024  # samples: 64 ms, so that the harmonics of a voice stand apart
MIN_HERTZ, MAX_HERTZ = 60, 7_600
FLOOR_DB = 60  # further below the loudest point counts as silence
SPEECH_DB = 40  # a frame whose loudest band is at most this far below that point counts as speech


def build_spectrogram() -> keras.Model:
    """Return a model that maps a waveform (batch, num_samples) at 16 kHz to

    - `bands` (batch, num_frames, NUM_MELS, 1): log-mel power, 0 = silence, 1 = the clip's loudest point;
    - `speech` (batch, num_frames): near 1 in frames with speech, near 0 in silence.

    Neither depends on the gain; silence around the speech is 0, like the padding of a convolution.
    """
    waveform = keras.Input((None,), name="waveform")
    # With power_to_db=True the decibels would be relative to the loudest clip of the batch.
    mel = layers.MelSpectrogram(
        fft_length=WINDOW,
        sequence_stride=HOP,
        sampling_rate=SAMPLING_RATE,
        num_mel_bins=NUM_MELS,
        min_freq=MIN_HERTZ,
        max_freq=MAX_HERTZ,
        power_to_db=False,
        mag_exp=2.0,
        name="mel_spectrogram",
    )(waveform)
    power = ops.transpose(mel, (0, 2, 1))
    loudest = ops.max(power, axis=(1, 2), keepdims=True)
    decibels = 10 * ops.log10(ops.maximum(power / (loudest + 1e-12), 10 ** (-FLOOR_DB / 10)))
    speech = ops.sigmoid(ops.max(decibels, axis=2) + SPEECH_DB)
    bands = ops.expand_dims(decibels / FLOOR_DB + 1, -1)
    return keras.Model(waveform, {"bands": bands, "speech": speech}, name="log_mel_spectrogram")


# ---------------------------------------------------------------------------------------------------
# Model


def build_network(num_emotions: int, width: int, dropout: float) -> keras.Model:
    """Return a model that maps `bands` and `speech` to probabilities (batch, num_emotions)."""
    bands = keras.Input((None, NUM_MELS, 1), name="bands")
    speech = keras.Input((None,), name="speech")

    # Frequency is pooled more than time. Silent frames are masked after each layer, so that leading and
    # trailing silence acts like the zero padding of a convolution.
    hidden, mask = bands, ops.expand_dims(speech, -1)
    for channels, pool in ((width, (2, 2)), (2 * width, (1, 2)), (4 * width, (2, 2)), (4 * width, (1, 2))):
        hidden = layers.Conv2D(channels, 3, padding="same", use_bias=False)(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
        hidden = layers.MaxPooling2D(pool, padding="same")(hidden)
        mask = ops.max_pool(mask, pool[0], padding="same")
        hidden = layers.SpatialDropout2D(0.05)(hidden) * ops.expand_dims(mask, -1)

    # Context over time.
    hidden = layers.Reshape((-1, hidden.shape[2] * hidden.shape[3]))(hidden)
    for dilation in (1, 2, 3):
        hidden = layers.Conv1D(8 * width, 3, padding="same", dilation_rate=dilation, use_bias=False)(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
        hidden = layers.SpatialDropout1D(0.05)(hidden) * mask

    # Weighted mean and deviation over the frames with speech (attentive statistics pooling, Okabe et al.
    # 2018).
    attention = layers.Dense(1)(layers.Dense(64, activation="tanh")(hidden))
    weight = ops.softmax(attention + ops.log(mask + 1e-9), axis=1)
    mean = ops.sum(weight * hidden, axis=1, keepdims=True)
    deviation = ops.sqrt(ops.sum(weight * ops.square(hidden - mean), axis=1) + 1e-4)
    summary = layers.Concatenate()([ops.squeeze(mean, 1), deviation])
    summary = layers.BatchNormalization(momentum=0.9)(summary)
    summary = layers.Dropout(dropout)(summary)
    probabilities = layers.Dense(num_emotions, activation="softmax", name="emotions")(summary)
    return keras.Model({"bands": bands, "speech": speech}, probabilities, name="convolutional_network")


def build_model(num_emotions: int, width: int, dropout: float, seed: int) -> tuple[keras.Model, keras.Model]:
    """Return the model to train, with augmentation, and the classifier: waveform to probabilities.

    The classifier has stock layers only and loads without our code. Its network gets the averaged weights of
    the network that is trained.
    """
    spectrogram = build_spectrogram()
    waveform = keras.Input((None,), name="waveform")
    features = spectrogram(waveform)
    augmented = {"bands": SpectrogramAugmentation(seed)(features["bands"]), "speech": features["speech"]}
    models = []
    for name, inputs in (("training", augmented), ("speech_emotion", features)):
        network = build_network(num_emotions, width, dropout)
        models.append(keras.Model(waveform, network(inputs), name=name))
    return tuple(models)


# ---------------------------------------------------------------------------------------------------
# Run


def main(
    data: DataOptions, model: ModelOptions, training: TrainingOptions, options: RunOptions, hub: HubOptions
) -> None:
    run = TrainingRun(__file__, Path(options.output_dir), data, options, hub, model, training)
    device = select_device()
    logger.info("Run folder %s, %s", run.folder, device)
    if run.is_complete:
        run.close_complete()
        return
    clips = load_clips(data, options.evaluate_on)
    plan = plan_models(clips, data.protocol, options.seed)
    run.begin(clips, plan, asdict(model) | asdict(training))
    for name, split in run.unfinished():
        dataset = build_dataset(split, clips.waveforms, clips.emotions)
        classifier, progress = train(name, run, dataset, model, training)
        validation = tqdm(Waveforms(dataset["validation"]), "Predicting the validation clips")
        temperature = fit_temperature(split, predict_proba(classifier, validation))
        # What is scored is what was saved, loaded back, one whole clip at a time.
        file = (run.folder if split is plan.final else run.checkpoints_of(name)) / "model.keras"
        saved = save_classifier(classifier, temperature, file)
        run.score(
            name,
            lambda part, rows, saved=saved, dataset=dataset: predict_proba(
                saved, tqdm(Waveforms(dataset[part]), f"Predicting the {part} clips")
            ),
            {"temperature": temperature},
        )
        if split is not plan.final:
            shutil.rmtree(run.checkpoints_of(name))
    run.finish(describe(saved, file, progress, len(dataset["train"]), training, device))


def train(name: str, run: TrainingRun, dataset, model: ModelOptions, training: TrainingOptions):
    """Train one model; return the classifier of its best epoch, and the `ResumableTraining`."""
    num_emotions, seed = len(run.clips.emotions), run.options.seed
    # Random crops with other speed, gain and noise, mixup; soft targets; balanced class weights.
    segments = build_segments(dataset["train"], num_emotions, training, seed, run.folder / "checkpoints")
    validation = WholeClips(dataset["validation"], num_emotions)
    trainee, classifier = prepare_models(num_emotions, model, training, seed)
    callbacks = build_callbacks(trainee, classifier, segments, validation, training, run.checkpoints_of(name))
    progress = callbacks[-1]
    callbacks.append(RunCallback(progress, lambda *entry: run.report(name, *entry), run.uploader))
    num_done = progress.restore(trainee)
    if num_done < training.num_train_epochs and not trainee.stop_training:
        with interruptible():
            trainee.fit(
                segments,
                initial_epoch=num_done,
                epochs=training.num_train_epochs,
                shuffle=False,  # the segments are shuffled by seed and epoch, which can be resumed
                verbose=2,
                callbacks=callbacks,
            )
    progress.restore_best()
    if not all(np.isfinite(values).all() for values in classifier.get_weights()):
        raise InputError("the training diverged: its weights are not finite; lower --learning_rate")
    return classifier, progress


def prepare_models(num_emotions: int, model: ModelOptions, training: TrainingOptions, seed: int):
    """Return the compiled model to train and its classifier, as `build_model` does."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    trainee, classifier = build_model(num_emotions, model.width, model.dropout, seed)
    # Saved with the model: on a GPU, XLA would compile the classifier anew for each clip length. It is not
    # trained; without any optimizer it could not be loaded.
    classifier.compile("sgd", jit_compile=False)
    trainee.compile(
        keras.optimizers.AdamW(training.learning_rate, weight_decay=training.weight_decay),
        loss="categorical_crossentropy",
        jit_compile=False,
    )
    return trainee, classifier


def predict_proba(classifier: keras.Model, waveforms) -> np.ndarray:
    """Return probabilities, float64 (num_clips, num_emotions), of whole clips, one at a time."""
    return np.concatenate([classifier.predict_on_batch(one[None]) for one in waveforms]).astype(np.float64)


def describe(
    saved: keras.Model,
    file: Path,
    progress: ResumableTraining,
    num_clips: int,
    training: TrainingOptions,
    device: str,
) -> TrainedModel:
    """Return the saved model with what the report says of it and of its training."""
    history, best = to_history(progress.history), progress.early_stopping
    seconds = sum(epoch["seconds"] for epoch in progress.history)  # before an interruption as well
    return TrainedModel(
        predict_proba=lambda waveforms: predict_proba(saved, waveforms),
        classify=lambda waveform: saved.predict_on_batch(waveform[None]),
        about={
            "library": "keras",
            "description": f"a convolutional network on the log-mel spectrogram ({NUM_MELS} bands), trained "
            "from scratch; the spectrogram is computed inside the model",
            "parameters": saved.count_params(),
            "weights_mb": file.stat().st_size / 1e6,
            "layers": describe_layers(saved),
            "readable_from": oldest_reader(),
        },
        training={
            "description": f"Trained with AdamW, weight decay {training.weight_decay:g}, learning rate "
            f"{training.learning_rate:g}, halved when the validation UAR stagnated, in batches of "
            f"{training.per_device_train_batch_size} segments of {training.max_length_seconds:g} s; class "
            "weights balanced; augmentation by speed, position, noise, shifted and masked spectrum, mixup "
            f"{training.mixup:g}, label smoothing {training.label_smoothing_factor:g}. The saved weights are "
            f"an exponential moving average (decay {training.ema_decay:g} per step). Of {len(history)} "
            f"epochs the one with the best validation UAR was kept: epoch {best.best_epoch + 1}, "
            f"{100 * best.best:.1f} %.",
            "epochs": len(history),
            "seconds": seconds,
            "clips_per_second": num_clips * len(history) / seconds,
            "history": history,
        },
        packages=("tensorflow", "keras", "datasets", "evaluate", "huggingface_hub"),
        device=device,
        explain=lambda waveform, label: grad_cam(saved, waveform, label),
    )


if __name__ == "__main__":
    run_script(main, *OPTIONS)
