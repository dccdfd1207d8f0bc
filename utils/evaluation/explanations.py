"""A finished model and some of what it heard come in; what its answers rest on goes out."""

from collections.abc import Callable, Sequence

import joblib
import numpy as np
import pandas as pd

WINDOW_SECONDS, HOP_SECONDS = 0.25, 0.1
"""A window about as long as a syllable, and its steps: some forty answers for a clip of four seconds."""

FADE_SECONDS = 0.01  # a hard cut would be a click, which is heard too

NOISE_DB = -60.0
"""Of the noise that stands for silence, against the RMS of the clip: digital zero is found in no recording,
and its logarithm stands apart from all that was heard in training."""


def most_confident_clips(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict[str, int]:
    """Return emotion -> position of the clip of it that is named rightly with the highest probability.

    These show what the model goes by where it works, not where it errs. An emotion that was never named
    rightly is left out.

    Args:
        predictions: a `report.prediction_table`.
    """
    right = (predictions["emotion"] == predictions["predicted"]).to_numpy()
    chosen = {}
    for emotion in emotions:
        rows = np.flatnonzero(right & (predictions["emotion"] == emotion).to_numpy())
        if len(rows):
            chosen[emotion] = int(rows[predictions[f"p_{emotion}"].to_numpy()[rows].argmax()])
    return chosen


def occlude(
    hear: Callable[[list[np.ndarray]], np.ndarray],
    waveform: np.ndarray,
    sampling_rate: int,
    label: int,
    seed: int = 0,
) -> dict[str, float | list[float]]:
    """Silence one window of a clip after the other and see what an emotion's probability loses by it
    (occlusion sensitivity; Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks").

    Args:
        hear: list of waveforms -> probabilities (num_clips, num_emotions).
        waveform: float32 (num_samples,).
        sampling_rate: in Hz.
        label: of the emotion, usually the one that the model names.
        seed: of the faint noise that takes the place of a window.

    Returns:
        `seconds` (centres of the windows), `drops` (of the probability, in -1..1; below 0 the model is surer
        without the window), `probability` (of the whole clip), `window_seconds`.
    """
    width, hop = round(WINDOW_SECONDS * sampling_rate), round(HOP_SECONDS * sampling_rate)
    width = min(width, len(waveform))
    starts = range(0, len(waveform) - width + 1, hop)
    keep = 1 - _plateau(width, round(FADE_SECONDS * sampling_rate))
    rms = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))
    noise = np.random.default_rng(seed).standard_normal(width) * rms * 10 ** (NOISE_DB / 20)
    changed = []
    for start in starts:
        copy = np.array(waveform, np.float32)
        part = copy[start : start + width]
        part[:] = keep * part + (1 - keep) * noise
        changed.append(copy)
    probabilities = np.asarray(hear([np.asarray(waveform, np.float32), *changed]))[:, label]
    return {
        "seconds": [(start + width / 2) / sampling_rate for start in starts],
        "drops": (probabilities[0] - probabilities[1:]).tolist(),
        "probability": float(probabilities[0]),
        "window_seconds": width / sampling_rate,
    }


def _plateau(width: int, fade: int) -> np.ndarray:
    """Return (width,): 1, rising from and falling to 0 at the ends."""
    fade = min(fade, width // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1))
    return np.concatenate([rise, np.ones(width - 2 * fade), rise[::-1]])


def permutation_importance(
    predict: Callable[[np.ndarray], Sequence[str]],
    features: np.ndarray,
    truth: Sequence[str],
    groups: Sequence[str],
    emotions: Sequence[str],
    seed: int,
    num_shuffles: int = 5,
) -> dict[str, dict]:
    """Shuffle each group of features together among the clips and see what is lost by it (permutation
    importance; Breiman 2001, "Random Forests").

    Args:
        predict: features (num_clips, num_features) -> named emotion per clip.
        features: of the test clips.
        truth: true emotion per clip.
        groups: of each feature.
        emotions: label names; those that do not occur in the truth have no recall and are left out.
        seed: of the shuffles; the losses are means of `num_shuffles`.

    Returns:
        `uar`: group -> UAR lost; `recall`: emotion -> group -> recall lost; in -1..1.
    """
    truth, groups = np.asarray(truth), np.asarray(groups)
    present = [emotion for emotion in emotions if (truth == emotion).any()]

    def recalls(changed: np.ndarray) -> np.ndarray:
        right = np.asarray(predict(changed)) == truth
        return np.array([right[truth == emotion].mean() for emotion in present])

    def shuffled_recalls(group: str, order: np.ndarray) -> np.ndarray:
        shuffled, columns = features.copy(), groups == group
        shuffled[:, columns] = features[order][:, columns]
        return recalls(shuffled)

    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(groups.tolist()))
    tasks = [(name, generator.permutation(len(features))) for name in names for _ in range(num_shuffles)]
    whole = recalls(features)
    # Threads: what takes long, the kernels of a support vector machine, works outside Python's global lock.
    parallel = joblib.Parallel(n_jobs=-1, prefer="threads")
    told = parallel(joblib.delayed(shuffled_recalls)(*task) for task in tasks)
    means = np.reshape(told, (len(names), num_shuffles, len(present))).mean(axis=1)
    lost = dict(zip(names, whole - means, strict=True))
    return {
        "uar": {group: float(each.mean()) for group, each in lost.items()},
        "recall": {
            emotion: {group: float(each[place]) for group, each in lost.items()}
            for place, emotion in enumerate(present)
        },
    }
