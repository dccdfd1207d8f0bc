"""Compare the ONNX files of a run with its PyTorch classifier: predictions, size and time per clip."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from utils.encoders.families import extract_input
from utils.onnx_export.session import FILES, onnx_inputs, open_session
from utils.runtime import describe_device

NUM_TIMED, NUM_ROUNDS = 5, 3
"""Number of clips on which the files and the classifier are timed, and number of repetitions."""

Logits = Callable[[np.ndarray], np.ndarray]
"""`input_values` (1, num_samples) -> logits (1, num_emotions)"""


def compare_onnx(folder: Path, waveforms: Sequence[np.ndarray], labels: Sequence[int] | None = None) -> dict:
    """Compare the predictions and the speed of the ONNX files of a run with those of its classifier.

    Args:
        folder: of the run.
        waveforms: float32 at 16 kHz; they are classified one at a time.
        labels: true labels of the waveforms, if known.

    Returns:
        `clips`, `device`, and `do_normalize`: whether waveforms are normalised first. Under `eager` for the
        PyTorch classifier, and under each key of `FILES`: `p50_ms`, the median time per clip in milliseconds,
        and `uar`, the unweighted average recall (None without labels). For the files also `mb`, `agreement`
        (share of clips with the same prediction as the classifier) and `times_faster`.
    """
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    has_log_mel = extractor.model_input_names[0] == "input_features"
    clips = onnx_inputs(folder, waveforms)

    @torch.inference_mode()
    def eager(clip: np.ndarray) -> np.ndarray:
        if has_log_mel:
            clip = extract_input(extractor, clip[0])[None]
        return model(torch.from_numpy(clip)).logits.numpy()

    classifiers = {"eager": eager} | {
        kind: _onnx_logits(folder / "onnx" / name) for kind, name in FILES.items()
    }
    predictions = {
        kind: np.array([logits(clip)[0].argmax() for clip in tqdm(clips, f"Classifying with {kind}")])
        for kind, logits in classifiers.items()
    }
    milliseconds = _median_milliseconds(classifiers, clips[:: -(-len(clips) // NUM_TIMED)])
    uar = {
        kind: None if labels is None else float(balanced_accuracy_score(labels, predictions[kind]))
        for kind in classifiers
    }
    do_normalize = not has_log_mel and extractor.do_normalize
    results = {"clips": len(clips), "device": describe_device("cpu"), "do_normalize": do_normalize}
    results["eager"] = {"p50_ms": milliseconds["eager"], "uar": uar["eager"]}
    for kind, name in FILES.items():
        results[kind] = {
            "mb": (folder / "onnx" / name).stat().st_size / 1e6,
            "agreement": float((predictions[kind] == predictions["eager"]).mean()),
            "uar": uar[kind],
            "p50_ms": milliseconds[kind],
            "times_faster": milliseconds["eager"] / milliseconds[kind],
        }
    return results


def _onnx_logits(path: Path) -> Logits:
    session = open_session(path)
    return lambda clip: session.run(None, {"input_values": clip})[0]


def _median_milliseconds(classifiers: Mapping[str, Logits], clips: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the median time per clip of each classifier; the classifiers take turns."""
    seconds = {kind: [] for kind in classifiers}
    for kind, logits in NUM_ROUNDS * list(classifiers.items()):
        for clip in clips:
            start = time.perf_counter()
            logits(clip)
            seconds[kind].append(time.perf_counter() - start)
    return {kind: 1000 * statistics.median(values) for kind, values in seconds.items()}
