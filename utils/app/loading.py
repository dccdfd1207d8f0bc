"""Load the model of a finished run by its library's public API, as anybody would."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.runtime import InputError


def load_model(folder: Path, run: dict) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Return what maps a list of waveforms to probabilities (num_clips, num_emotions) of the run's emotions.

    A model of speaker-normalised features takes the waveforms of a call to be of one voice.

    Args:
        folder: the run's.
        run: its metrics.json.

    Raises:
        InputError: weights are missing, or the model's labels are not the run's emotions.
    """
    library, emotions = run["model"]["library"], run["emotions"]
    if library == "transformers":
        from transformers import AutoModelForAudioClassification, pipeline

        model, loading = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
        wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
        if wrong:
            raise InputError(f"its weights do not fit its config: {wrong}")
        _compare_labels([name for _, name in sorted(model.config.id2label.items())], emotions)
        classifier = pipeline("audio-classification", model=str(folder))

        def by_pipeline(waveform: np.ndarray) -> list[float]:
            scores = {answer["label"]: answer["score"] for answer in classifier(waveform, top_k=None)}
            return [scores[emotion] for emotion in emotions]

        return lambda waveforms: np.array([by_pipeline(waveform) for waveform in waveforms])
    if library == "keras":
        import keras

        model = keras.saving.load_model(folder / "model.keras")
        return lambda waveforms: np.concatenate([model.predict_on_batch(one[None]) for one in waveforms])
    import skops.io

    from utils.features.extraction import extract, normalize_speakers

    model = skops.io.load(folder / "model.skops", trusted=run["model"]["trusted_types"])
    _compare_labels(model.classes_.tolist(), sorted(emotions))
    order = [model.classes_.tolist().index(emotion) for emotion in emotions]

    def by_features(waveforms: list[np.ndarray]) -> np.ndarray:
        features = np.stack([extract(waveform, run["model"]["feature_set"]) for waveform in waveforms])
        if run["model"]["speaker_normalization"]:
            features = normalize_speakers(features, ["this speaker"] * len(features))
        return model.predict_proba(features)[:, order]

    return by_features


def _compare_labels(labels: list[str], emotions: list[str]) -> None:
    if labels != list(emotions):
        raise InputError(f"its labels are {labels}, the run's emotions {list(emotions)}")
