"""Explanations of predictions: occlusion of a waveform, permutation importance of feature groups.

The functions take a prediction function and clips or features, and return how much the model's result depends
on each window of the clip or each group of features.
"""

from collections.abc import Callable, Sequence

import joblib
import numpy as np
import pandas as pd

WINDOW_SECONDS, HOP_SECONDS = 0.25, 0.1
"""Occlusion window, about the length of a syllable, and its hop: about forty windows in a clip of 4 s."""

FADE_SECONDS = 0.01  # an abrupt cut would add a click

NUM_PERMUTED = 2_000
"""Permuted clips per group of features. A support vector machine classifies 300 of them in a second."""

NOISE_DB = -60.0
"""Level of the noise that replaces a window, relative to the root mean square of the clip. Recordings do not
contain digital silence, and its logarithm lies far outside the range of the training data."""


def most_confident_clips(predictions: pd.DataFrame, emotions: Sequence[str]) -> dict[str, int]:
    """Return, for each emotion, the correctly classified clip with the highest probability.

    Explanations of these clips show what correct predictions depend on; they do not explain errors.

    Args:
        predictions: a `predictions.prediction_table`.
        emotions: label names.

    Returns:
        Emotion -> position of the clip in `predictions`, without the emotions that were never predicted
        correctly.
    """
    correct = (predictions["emotion"] == predictions["predicted"]).to_numpy()
    positions = {}
    for emotion in emotions:
        rows = np.flatnonzero(correct & (predictions["emotion"] == emotion).to_numpy())
        if len(rows):
            positions[emotion] = int(rows[predictions[f"p_{emotion}"].to_numpy()[rows].argmax()])
    return positions


def occlude(
    predict_proba: Callable[[list[np.ndarray]], np.ndarray],
    waveform: np.ndarray,
    sampling_rate: int,
    label: int,
    seed: int = 0,
) -> dict[str, float | list[float]]:
    """Silence one window of a clip at a time and measure the change in an emotion's probability.

    This is occlusion sensitivity (Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional
    Networks").

    Args:
        predict_proba: list of waveforms -> probabilities (num_clips, num_emotions).
        waveform: float32 (num_samples,).
        sampling_rate: in Hz.
        label: the emotion whose probability is measured, usually the predicted one.
        seed: of the faint noise that replaces a window.

    Returns:
        `center_seconds` (centre of each window); `probability_drops` (per window, in -1..1; negative where
        the probability rises without the window); `probability` (of the unchanged clip); `window_seconds`.
    """
    width, hop = round(WINDOW_SECONDS * sampling_rate), round(HOP_SECONDS * sampling_rate)
    width = min(width, len(waveform))
    starts = range(0, len(waveform) - width + 1, hop)
    gain = 1 - _tapered_window(width, round(FADE_SECONDS * sampling_rate))
    rms = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))
    noise = np.random.default_rng(seed).standard_normal(width) * rms * 10 ** (NOISE_DB / 20)
    occluded = []
    for start in starts:
        copy = np.array(waveform, np.float32)
        part = copy[start : start + width]
        part[:] = gain * part + (1 - gain) * noise
        occluded.append(copy)
    probabilities = np.asarray(predict_proba([np.asarray(waveform, np.float32), *occluded]))[:, label]
    return {
        "center_seconds": [(start + width / 2) / sampling_rate for start in starts],
        "probability_drops": (probabilities[0] - probabilities[1:]).tolist(),
        "probability": float(probabilities[0]),
        "window_seconds": width / sampling_rate,
    }


def _tapered_window(width: int, fade: int) -> np.ndarray:
    """Return a window of ones with raised-cosine fades of `fade` samples at both ends, float64 (width,)."""
    fade = min(fade, width // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1))
    return np.concatenate([rise, np.ones(width - 2 * fade), rise[::-1]])


def permutation_importance(
    predict: Callable[[np.ndarray], Sequence[str]],
    features: np.ndarray,
    true_emotions: Sequence[str],
    feature_groups: Sequence[str],
    emotions: Sequence[str],
    seed: int,
    num_repeats: int | None = None,
) -> dict[str, dict]:
    """Shuffle the features of one group among the clips and measure the loss of UAR and recall.

    This is permutation importance (Breiman 2001, "Random Forests"), with the columns of a group shuffled
    together. UAR is unweighted average recall, the mean of the per-emotion recalls.

    Args:
        predict: features (num_clips, num_features) -> predicted emotion per clip.
        features: of the test clips, float (num_clips, num_features).
        true_emotions: true emotion per clip, (num_clips,).
        feature_groups: name of the group of each feature, (num_features,).
        emotions: label names; those without clips have no recall and are left out.
        seed: of the permutations.
        num_repeats: number of permutations per group, over which the losses are averaged; None: five, or
            fewer with many clips, see `NUM_PERMUTED`.

    Returns:
        `uar`: group -> loss of UAR; `recall`: emotion -> group -> loss of recall; all in -1..1.
    """
    true_emotions, feature_groups = np.asarray(true_emotions), np.asarray(feature_groups)
    present = [emotion for emotion in emotions if (true_emotions == emotion).any()]

    def recalls(features: np.ndarray) -> np.ndarray:
        correct = np.asarray(predict(features)) == true_emotions
        return np.array([correct[true_emotions == emotion].mean() for emotion in present])

    def recalls_without(group: str, order: np.ndarray) -> np.ndarray:
        shuffled, columns = features.copy(), feature_groups == group
        shuffled[:, columns] = features[order][:, columns]
        return recalls(shuffled)

    num_repeats = num_repeats or max(1, min(5, NUM_PERMUTED // len(features)))
    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(feature_groups.tolist()))
    tasks = [(name, generator.permutation(len(features))) for name in names for _ in range(num_repeats)]
    baseline = recalls(features)
    # Threads suffice: the kernels of a support vector machine, the slowest part, release the global lock.
    parallel = joblib.Parallel(n_jobs=-1, prefer="threads")
    permuted = parallel(joblib.delayed(recalls_without)(*task) for task in tasks)
    means = np.reshape(permuted, (len(names), num_repeats, len(present))).mean(axis=1)
    losses = dict(zip(names, baseline - means, strict=True))
    return {
        "uar": {group: float(loss.mean()) for group, loss in losses.items()},
        "recall": {
            emotion: {group: float(loss[position]) for group, loss in losses.items()}
            for position, emotion in enumerate(present)
        },
    }
