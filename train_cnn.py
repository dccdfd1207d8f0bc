"""Train a convolutional network from scratch on RAVDESS and TESS with Keras, and write a model card.

Try it offline, with synthetic voices (2 CPU cores: about two minutes):

    python train_cnn.py --demo

The real thing, under speaker-independent folds that others publish on (7 models, each some ten minutes on
one CPU core):

    python train_cnn.py --corpora ravdess --protocol folds --output_dir runs/cnn

One model, its test speakers unheard, from clips that you have:

    python train_cnn.py --corpora ravdess tess --data_dir ~/clips --output_dir runs/cnn

The run folder then holds model.keras, which maps a waveform to emotion probabilities and loads with
`keras.models.load_model`, its card (README.md), metrics.json, predictions.csv and figures.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notes say nothing to a user

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers, ops
from tqdm.auto import tqdm

from utils.cnn.batches import TrainingSegments, WholeClips
from utils.cnn.grad_cam import grad_cam
from utils.cnn.training import ResumableTraining, WeightAverage
from utils.data.audio import SAMPLING_RATE
from utils.data.corpora import CORPORA, REAL_CORPORA
from utils.data.custom_corpus import find_training_corpora
from utils.data.dataset import build_dataset
from utils.data.decoding import Waveforms
from utils.data.demo import make_demo_corpus
from utils.data.download import find_corpora
from utils.data.labels import choose_emotions
from utils.data.splits import (
    PROTOCOL_WORDS,
    PROTOCOLS,
    SINGLE_MODEL,
    describe_split,
    folds_digest,
    select_emotions,
    split_models,
)
from utils.data.table import check_table, read_table
from utils.evaluation.calibration import describe_scaling
from utils.evaluation.latency import measure_latency
from utils.evaluation.robustness import measure_robustness, wants_robustness_test
from utils.hub.checkpoints import CheckpointUploader, fetch_checkpoints
from utils.hub.publication import check_hub_options, publish
from utils.hub.repository import Repository
from utils.report import report
from utils.report.audit import audit, explain
from utils.report.card import write_card
from utils.report.run_folder import begin_run, check_run_folder, save_reference_predictions
from utils.runtime import (
    PROJECT_ROOT,
    cache_folder,
    describe_device,
    logger,
    refuse_arguments,
    run_script,
    write_text,
)
from utils.score import evaluate_on

# ---------------------------------------------------------------------------------------------------
# Arguments

DEMO = {"output_dir": "runs/demo_cnn", "epochs": 12, "batch_size": 8, "mixup": 0.0, "average_decay": 0.98}
"""What --demo stands for; each can still be given by itself."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    # Data
    parser.add_argument("--corpora", nargs="+", default=["ravdess", "tess"], choices=REAL_CORPORA)
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with the clips")
    parser.add_argument(
        "--train_on",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of own labelled clips, to train on too",
    )
    parser.add_argument("--emotions", nargs="+", help="labels; by default those that all corpora have")
    parser.add_argument("--protocol", default="holdout", choices=PROTOCOLS)
    parser.add_argument("--allow_partial", action="store_true", help="run although clips are missing")
    parser.add_argument("--cache_dir", help="folder for decoded audio")
    parser.add_argument("--demo", action="store_true", help="synthetic voices, offline; no real results")
    # Model
    parser.add_argument("--width", type=int, default=16, help="channels of the first convolution")
    parser.add_argument("--dropout", type=float, default=0.4, help="before the classifier")
    # Training
    parser.add_argument("--epochs", type=int, default=50, help="at most so many")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="at the start")
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--segment_seconds", type=float, default=2.0, help="training clips are cut to this")
    parser.add_argument("--mixup", type=float, default=0.2, help="Beta parameter; 0: clips are not mixed")
    parser.add_argument("--label_smoothing", type=float, default=0.1)
    parser.add_argument("--average_decay", type=float, default=0.998, help="per step, of the mean weights")
    parser.add_argument("--patience", type=int, default=30, help="epochs without a better validation UAR")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--resume_from_checkpoint", nargs="?", const="true", choices=["true", "hub"])
    # Report
    parser.add_argument("--output_dir", default="runs/cnn", help="the run folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    parser.add_argument(
        "--evaluate_on",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of own labelled clips, to score too",
    )
    parser.add_argument("--no_stress_test", action="store_true", help="leave out the test of robustness")
    parser.add_argument("--stress_test", action="store_true", help="make it in the demo, too")
    # Publication
    parser.add_argument("--push_to_hub", action="store_true", help="publish the run (HF_TOKEN)")
    parser.add_argument("--hub_model_id", help="user/name; by default the run folder's name, under your own")
    parser.add_argument("--hub_private_repo", action="store_true", help="make the repository private")
    parser.add_argument(
        "--hub_strategy",
        default="end",
        choices=["end", "checkpoint"],
        help="checkpoint: keep the unfinished run there too; --resume_from_checkpoint hub goes on anywhere",
    )
    if parser.parse_args(argv).demo:
        parser.set_defaults(**DEMO)
    arguments = parser.parse_args(argv)
    check_hub_options(vars(arguments))
    return arguments


# ---------------------------------------------------------------------------------------------------
# Features: the spectrogram is the first part of the model

NUM_MELS = 64
HOP = 320  # samples: 20 ms
WINDOW = 1024  # samples: 64 ms, so that the harmonics of a voice stand apart
MIN_HERTZ, MAX_HERTZ = 60, 7_600
FLOOR_DB = 60  # what is further below the loudest point is taken to be silence
SPEECH_DB = 40  # a frame whose loudest band is above this, below that point, counts as speech


def build_spectrogram() -> keras.Model:
    """Return a model that maps a waveform (batch, num_samples) at 16 kHz to

    - `bands` (batch, num_frames, NUM_MELS, 1): log-mel power, 0 = silence, 1 = the clip's loudest point;
    - `speech` (batch, num_frames): near 1 where the frame sounds, near 0 where it does not.

    Neither depends on the gain, and silence around the speech is 0 like the padding of a convolution.
    """
    waveform = keras.Input((None,), name="waveform")
    # Its own decibels would be relative to the loudest clip of the batch.
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


class SpectrogramAugmentation(layers.Layer):
    """Shifts the bands of each training clip up or down, and blanks two stripes of time and two of frequency.

    A shift on the mel scale is another pitch and another vocal tract. The stripes are SpecAugment's (Park et
    al. 2019). In inference nothing happens, and the layer is no part of the model that is saved.
    """

    MAX_SHIFT = 2  # bands
    MAX_FRAMES, MAX_BANDS = 10, 8

    def __init__(self, seed: int):
        super().__init__(name="spectrogram_augmentation")
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, bands, training=False):
        if not training:
            return bands
        num_clips, num_frames, num_bands = ops.shape(bands)[0], ops.shape(bands)[1], bands.shape[2]
        shift = keras.random.randint((num_clips, 1), -self.MAX_SHIFT, self.MAX_SHIFT + 1, seed=self.generator)
        source = ops.clip(ops.arange(num_bands)[None] + shift, 0, num_bands - 1)
        bands = ops.take_along_axis(bands, source[:, None, :, None], axis=2)
        for _ in range(2):
            bands *= self._stripe(num_clips, num_frames, self.MAX_FRAMES)[:, :, None, None]
            bands *= self._stripe(num_clips, num_bands, self.MAX_BANDS)[:, None, :, None]
        return bands

    def _stripe(self, num_clips, length, max_width: int):
        """Return (num_clips, length): 1, but for a stripe of 0s."""
        width = keras.random.uniform((num_clips, 1), 0, max_width, seed=self.generator)
        start = keras.random.uniform((num_clips, 1), seed=self.generator)
        start *= ops.cast(length, "float32") - width
        position = ops.cast(ops.arange(length), "float32")[None]
        return ops.cast((position < start) | (position >= start + width), "float32")


# ---------------------------------------------------------------------------------------------------
# Model


def build_network(num_emotions: int, width: int, dropout: float) -> keras.Model:
    """Return a model that maps `bands` and `speech` to probabilities (batch, num_emotions)."""
    bands = keras.Input((None, NUM_MELS, 1), name="bands")
    speech = keras.Input((None,), name="speech")

    # What a patch of time and frequency looks like. Frequency is pooled more than time. What does not sound
    # is 0 after each layer, like the padding of a convolution: silence around the words changes nothing.
    hidden, sounds = bands, ops.expand_dims(speech, -1)
    for channels, pool in ((width, (2, 2)), (2 * width, (1, 2)), (4 * width, (2, 2)), (4 * width, (1, 2))):
        hidden = layers.Conv2D(channels, 3, padding="same", use_bias=False)(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
        hidden = layers.MaxPooling2D(pool, padding="same")(hidden)
        sounds = ops.max_pool(sounds, pool[0], padding="same")
        hidden = layers.SpatialDropout2D(0.05)(hidden) * ops.expand_dims(sounds, -1)

    # How it goes on over time.
    hidden = layers.Reshape((-1, hidden.shape[2] * hidden.shape[3]))(hidden)
    for dilation in (1, 2, 3):
        hidden = layers.Conv1D(8 * width, 3, padding="same", dilation_rate=dilation, use_bias=False)(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
        hidden = layers.SpatialDropout1D(0.05)(hidden) * sounds

    # Mean and deviation over time, of the frames that sound and that matter (attentive statistics pooling,
    # Okabe et al. 2018).
    matters = layers.Dense(1)(layers.Dense(64, activation="tanh")(hidden))
    weight = ops.softmax(matters + ops.log(sounds + 1e-9), axis=1)
    mean = ops.sum(weight * hidden, axis=1, keepdims=True)
    deviation = ops.sqrt(ops.sum(weight * ops.square(hidden - mean), axis=1) + 1e-4)
    summary = layers.Concatenate()([ops.squeeze(mean, 1), deviation])
    summary = layers.BatchNormalization(momentum=0.9)(summary)
    summary = layers.Dropout(dropout)(summary)
    probabilities = layers.Dense(num_emotions, activation="softmax", name="emotions")(summary)
    return keras.Model({"bands": bands, "speech": speech}, probabilities, name="convolutional_network")


def build_model(num_emotions: int, width: int, dropout: float, seed: int) -> tuple[keras.Model, keras.Model]:
    """Return the model that is trained, with augmentation, and the classifier: waveform to probabilities.

    The classifier has stock layers alone and loads without our code. Its network gets the running mean of the
    weights of the network that is trained.
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


def describe_layers(classifier: keras.Model) -> list[tuple[str, str, str]]:
    """Return the boxes of `plot_layers`: one per layer with weights, with what follows it."""
    boxes = []
    for model in classifier.layers[1:]:
        for layer in model.layers:
            kind = type(layer).__name__.replace("Normalization", "Norm").replace("Pooling2D", "Pool")
            if isinstance(layer, layers.InputLayer):
                continue
            if kind in ("MelSpectrogram", "Conv2D", "Conv1D", "Dense", "Concatenate"):
                size = getattr(layer, "filters", getattr(layer, "units", None))
                kernel = "×".join(map(str, getattr(layer, "kernel_size", ())))
                kind = "mean and deviation over time" if kind == "Concatenate" else kind
                boxes.append([[" ".join(str(word) for word in (kind, size, kernel) if word)], None, 0])
            else:
                pool = "×".join(map(str, getattr(layer, "pool_size", ())))
                boxes[-1][0].append(f"{kind.removesuffix('1D').removesuffix('2D')} {pool}".strip())
            shape = keras.tree.flatten(layer.output)[0].shape
            boxes[-1][1] = " × ".join("?" if size is None else str(size) for size in shape[1:])
            boxes[-1][2] += layer.count_params()
    return [(" → ".join(words), shape, f"{parameters:,}") for words, shape, parameters in boxes]


def predict(classifier: keras.Model, dataset, description: str) -> np.ndarray:
    """Return probabilities (num_clips, num_emotions) of whole clips, one at a time, as a user has them."""
    return np.concatenate(
        [classifier.predict_on_batch(waveform[None]) for waveform in tqdm(Waveforms(dataset), description)]
    ).astype(np.float64)


def main() -> None:
    start = time.perf_counter()
    args = parse_arguments(sys.argv[1:])
    run_folder = Path(args.output_dir)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # else TensorFlow takes all of its memory, whatever it needs
        tf.config.experimental.set_memory_growth(gpu, True)
    device = describe_device("cpu")
    if gpus:
        device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    logger.info("Run folder %s, %s", run_folder, device)
    if args.demo:
        logger.info("DEMO: synthetic voices. These are not real results.")

    # -----------------------------------------------------------------------------------------------
    # Labelled table

    overwrite = args.overwrite or (args.demo and args.output_dir == DEMO["output_dir"])
    cache_dir = Path(args.cache_dir or cache_folder())
    unfinished = check_run_folder(
        run_folder, overwrite, bool(args.resume_from_checkpoint), bool(args.evaluate_on)
    )
    repository = None
    if args.push_to_hub:  # what is amiss there is known before the training
        repository = Repository(args.hub_model_id or run_folder.resolve().name, args.hub_private_repo)
    if not unfinished:
        logger.info("Nothing to train: the run is complete, see %s", run_folder / "README.md")
        evaluate_on(run_folder, args.evaluate_on, cache_dir, args.allow_partial)
        if repository:
            publish(repository, run_folder)
        return
    if args.resume_from_checkpoint == "hub":
        fetch_checkpoints(repository, run_folder)
        args.resume_from_checkpoint = "true"
    if args.demo:
        files = find_corpora(["demo"], [make_demo_corpus(PROJECT_ROOT / "data" / "demo")])
    else:
        files = find_corpora(args.corpora, [Path(folder) for folder in args.data_dir])
    own_files, own_clips = find_training_corpora(args.train_on, args.evaluate_on)
    files |= own_files
    table, waveforms = read_table(files, cache_dir, own_clips)
    table, findings = check_table(table, args.allow_partial)
    emotions = choose_emotions({name: CORPORA[name].emotions for name in files}, args.emotions)
    table = select_emotions(table, emotions)

    # -----------------------------------------------------------------------------------------------
    # Speaker split

    # After a model per fold comes the one that is published.
    folds, models, final = split_models(table, args.protocol, emotions, args.seed)
    logger.info("Split %s: %s", args.protocol, PROTOCOL_WORDS[args.protocol])

    places = ("corpora", "data_dir", "train_on", "evaluate_on", "cache_dir", "output_dir", "overwrite")
    places += ("resume_from_checkpoint",)
    identity = {name: value for name, value in vars(args).items() if name not in places and "hub" not in name}
    identity |= {"emotions": list(emotions), "split_digest": folds_digest(list(folds.values()))}
    begin_run(run_folder, args.resume_from_checkpoint, identity)
    keep = []
    if args.hub_strategy == "checkpoint":
        keeper = CheckpointUploader(repository, run_folder)
        keep = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: keeper())]

    heard = []
    for name, split in models.items():
        model_folder = run_folder / "checkpoints" / name.replace(" ", "_")
        finished = model_folder.with_suffix(".csv")
        if args.resume_from_checkpoint and finished.exists():
            logger.info("%s: was trained and tested before", name)
            heard.append(report.read_predictions(finished))
            continue
        logger.info("Model of %s", name)
        for part, rows in describe_split(split).items():
            logger.info("  %-10s %5d clips by %s", part, rows["clips"], ", ".join(rows["speakers"]))

        # -------------------------------------------------------------------------------------------
        # Dataset

        dataset = build_dataset(split, waveforms, emotions)
        segments = TrainingSegments(
            dataset["train"],
            batch_size=args.batch_size,
            num_samples=round(args.segment_seconds * SAMPLING_RATE),
            num_emotions=len(emotions),
            mixup=args.mixup,
            label_smoothing=args.label_smoothing,
            seed=args.seed,
            folder=run_folder / "checkpoints",
        )
        validation = WholeClips(dataset["validation"], len(emotions))

        # -------------------------------------------------------------------------------------------
        # Model

        keras.utils.clear_session()
        keras.utils.set_random_seed(args.seed)
        trainee, classifier = build_model(len(emotions), args.width, args.dropout, args.seed)
        trainee.compile(
            keras.optimizers.AdamW(args.learning_rate, weight_decay=args.weight_decay),
            loss="categorical_crossentropy",
            jit_compile=False,
        )

        # -------------------------------------------------------------------------------------------
        # Training

        networks = [model.get_layer("convolutional_network") for model in (trainee, classifier)]
        average = WeightAverage(*networks, classifier, validation, decay=args.average_decay)
        early_stopping = keras.callbacks.EarlyStopping("val_uar", mode="max", patience=args.patience)
        plateau = keras.callbacks.ReduceLROnPlateau(
            "val_uar", mode="max", factor=0.5, patience=max(1, args.patience // 3)
        )
        resumable = ResumableTraining(model_folder, segments, average, early_stopping, plateau)
        num_done = resumable.restore(trainee)
        try:
            if num_done < args.epochs and not trainee.stop_training:
                trainee.fit(
                    segments,
                    initial_epoch=num_done,
                    epochs=args.epochs,
                    shuffle=False,  # the segments are: Keras' own order of the batches could not be resumed
                    verbose=2,
                    callbacks=[average, early_stopping, plateau, resumable, *keep],
                )
        except KeyboardInterrupt:
            logger.info("\nThe same command with --resume_from_checkpoint true goes on from the last epoch.")
            raise
        training_seconds = sum(figures["seconds"] for figures in resumable.history)  # before a kill as well
        resumable.restore_best()
        weights = (run_folder if split is final else model_folder) / "model.keras"
        classifier.save(weights)

        # -------------------------------------------------------------------------------------------
        # Test metrics: of the saved model, loaded back, one whole clip at a time

        saved = keras.models.load_model(weights)
        scored = {}
        for part in ("validation", "test") if split is final else ("test",):
            if not len(dataset[part]):
                continue  # nobody is left to test the final model beside the folds
            probabilities = predict(saved, dataset[part], f"Listening to the {part} clips")
            about = dataset[part].remove_columns("waveform").to_pandas()
            scored[part] = report.prediction_table(about, probabilities, emotions, name)
        if "test" in scored:
            heard.append(scored["test"])
        if split is not final:  # a fold's model has done its part
            write_text(finished, scored["test"].to_csv(index=False))
            shutil.rmtree(model_folder)

    predictions = {"validation": scored["validation"], "test": pd.concat(heard, ignore_index=True)}
    last = list(folds.values())[-1]
    checked, timed, examples = report.pick_waveforms(last[last["split"] == "test"], waveforms, emotions)
    latency = measure_latency(
        lambda waveform: saved.predict_on_batch(waveform[None]),
        timed,
        SAMPLING_RATE,
    )

    # -----------------------------------------------------------------------------------------------
    # Report and card

    from utils.report.model_plots import plot_layers  # Matplotlib is for the end of a run
    from utils.report.style import save_figure

    history = [
        {"epoch": epoch, "loss": figures["loss"], "learning_rate": figures["learning_rate"]}
        | {"eval_loss": figures["val_loss"], "eval_uar": figures["val_uar"]}
        for epoch, figures in enumerate(resumable.history, start=1)
    ]
    metrics = report.describe_run(
        script=Path(__file__).name,
        command_line=sys.argv[1:],
        arguments=vars(args),
        table=final,
        findings=findings,
        emotions=emotions,
        protocol=args.protocol,
        predictions=predictions,
        packages=["tensorflow", "keras", "datasets", "evaluate", "huggingface_hub"],
        folds=None if args.protocol in SINGLE_MODEL else folds,
    )
    metrics["model"] = {
        "library": "keras",
        "base_model": None,
        "description": f"a convolutional network on the log-mel spectrogram ({NUM_MELS} bands), trained from "
        "scratch; the spectrogram is computed inside the model",
        "starts_random": False,
        "parameters": saved.count_params(),
        "weights_mb": weights.stat().st_size / 1e6,
    }
    best = early_stopping.best_epoch + 1
    metrics["training"] = {
        "description": f"Trained with AdamW, weight decay {args.weight_decay:g}, learning rate "
        f"{args.learning_rate:g}, halved when validation UAR stood still, in batches of {args.batch_size} "
        f"segments of {args.segment_seconds:g} s; class weights balanced; other speed, position, noise, "
        f"spectrum shifted and masked, mixup {args.mixup:g}, label smoothing {args.label_smoothing:g}. The "
        f"saved weights are their running mean (decay {args.average_decay:g} per step). Of {len(history)} "
        f"epochs the one with the best validation UAR was kept: epoch {best}, "
        f"{100 * early_stopping.best:.1f} %.",
        "device": device,
        "epochs": len(history),
        "seconds": training_seconds,
        "clips_per_second": len(dataset["train"]) * len(history) / training_seconds,
        "history": history,
    }
    metrics["latency"] = latency | {"device": device}
    if args.protocol in SINGLE_MODEL:
        metrics["calibration"] = describe_scaling(predictions["validation"], predictions["test"], emotions)
    metrics["duration_seconds"] = time.perf_counter() - start
    (run_folder / "figures").mkdir(exist_ok=True)
    save_figure(
        plot_layers(describe_layers(saved), f"{saved.count_params():,} parameters"),
        run_folder / "figures" / "model.png",
    )

    def hear(heard: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([saved.predict_on_batch(waveform[None]) for waveform in heard])

    save_reference_predictions(run_folder, checked, hear(checked))
    if args.protocol in SINGLE_MODEL:
        from utils.report.explanation_plots import plot_grad_cam

        explain(
            run_folder,
            predictions["test"].set_index(final.index[final["split"] == "test"]),
            waveforms,
            emotions,
            lambda waveform, label, title: plot_grad_cam(grad_cam(saved, waveform, label), title),
        )
    if wants_robustness_test(args.protocol, args.demo, args.stress_test, args.no_stress_test):
        metrics["stress"] = measure_robustness(
            hear, final[final["split"] == "test"], waveforms, emotions, args.seed
        )
    if args.protocol != "random":  # of voices that were heard in training it would say nothing
        audit(run_folder, metrics, predictions["test"], final)
    report.write_report(run_folder, metrics, predictions["test"], history, examples, SAMPLING_RATE)
    write_card(run_folder)
    shutil.rmtree(run_folder / "checkpoints")
    logger.info(
        "%sTest UAR %.1f %%, accuracy %.1f %% on %d clips. Card: %s",
        "Synthetic voices, no real result. " if args.demo else "",
        100 * metrics["test"]["uar"],
        100 * metrics["test"]["accuracy"],
        metrics["test"]["clips"],
        run_folder / "README.md",
    )
    evaluate_on(run_folder, args.evaluate_on, cache_dir, args.allow_partial)
    if repository:
        publish(repository, run_folder)


if __name__ == "__main__":
    run_script(main)
