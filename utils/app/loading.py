"""Load the model of a finished run with the public API of its library, and save scikit-learn models."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.runtime import InputError, write_bytes


def load_model(folder: Path, run: dict) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Load the model of a run.

    Args:
        folder: the run folder.
        run: its metrics.json.

    Returns:
        function of a list of waveforms, float32 (num_samples,) at 16 kHz, that returns probabilities
        (num_clips, num_emotions) in the order of the run's emotions. A model of speaker-normalised features
        assumes that all waveforms of a call are of one speaker.

    Raises:
        InputError: weights are missing, or the labels of the model differ from the emotions of the run.
    """
    loaders = {"transformers": _load_transformers, "keras": _load_keras}
    return loaders.get(run["model"]["library"], _load_sklearn)(folder, run)


def _load_transformers(folder: Path, run: dict) -> Callable[[list[np.ndarray]], np.ndarray]:
    from transformers import AutoModelForAudioClassification, pipeline

    model, loading = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        raise InputError(f"its weights do not fit its config: {wrong}")
    _check_labels([name for _, name in sorted(model.config.id2label.items())], run["emotions"])
    classifier = pipeline("audio-classification", model=str(folder))

    def predict_one(waveform: np.ndarray) -> list[float]:
        scores = {result["label"]: result["score"] for result in classifier(waveform, top_k=None)}
        return [scores[emotion] for emotion in run["emotions"]]

    return lambda waveforms: np.array([predict_one(waveform) for waveform in waveforms])


def _load_keras(folder: Path, run: dict) -> Callable[[list[np.ndarray]], np.ndarray]:
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the only backend that the kit requires
    import keras

    model = keras.saving.load_model(folder / "model.keras")
    return lambda waveforms: np.concatenate(
        [model.predict_on_batch(waveform[None]) for waveform in waveforms]
    )


def _load_sklearn(folder: Path, run: dict) -> Callable[[list[np.ndarray]], np.ndarray]:
    import skops.io

    from utils.features.extraction import extract, normalize_speakers

    model = skops.io.load(folder / "model.skops", trusted=run["model"]["trusted_types"])
    labels, emotions = model.classes_.tolist(), run["emotions"]
    _check_labels(labels, sorted(emotions))
    order = [labels.index(emotion) for emotion in emotions]

    def predict_proba(waveforms: list[np.ndarray]) -> np.ndarray:
        features = np.stack([extract(waveform, run["model"]["feature_set"]) for waveform in waveforms])
        if run["model"]["speaker_normalization"]:
            features = normalize_speakers(features, ["one speaker"] * len(features))
        return model.predict_proba(features)[:, order]

    return predict_proba


def _check_labels(labels: list[str], emotions: list[str]) -> None:
    if labels != list(emotions):
        raise InputError(f"its labels are {labels}, the run's emotions {list(emotions)}")


def save_skops(model, folder: Path) -> tuple[object, list[str], float]:
    """Save a scikit-learn model as `folder/model.skops`.

    Returns:
        the model loaded back, the names of its types that skops has to trust, and its size in MB.
    """
    import skops.io  # imports PyTorch if it is installed

    saved = skops.io.dumps(model)
    trusted = skops.io.get_untrusted_types(data=saved)
    write_bytes(folder / "model.skops", saved)
    return skops.io.loads(saved, trusted=trusted), trusted, len(saved) / 1e6
