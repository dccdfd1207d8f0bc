"""Compare the ONNX files of a run with its PyTorch classifier: predictions, size and time per clip."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from utils.onnx_export.session import FILES, extract_input_values, open_session
from utils.runtime import describe_device

NUM_TIMED, NUM_ROUNDS = 5, 3
"""Clips on which the files and the classifier are timed, and how often."""


def compare_onnx(folder: Path, waveforms: Sequence[np.ndarray], labels: Sequence[int] | None = None) -> dict:
    """Return how far the ONNX files of a run agree with its classifier, and how fast they are on this CPU.

    Args:
        folder: the run's.
        waveforms: float32 at 16 kHz, heard one at a time.
        labels: their true labels, where they are known.

    Returns:
        `clips`, `device`, `do_normalize` (of the feature extractor); under `eager` of the classifier itself
        and under each kind of `FILES`: `p50_ms` and `uar` (None without labels); of the files also `mb`,
        `agreement` (share of clips with the same answer) and `times_faster`. All are timed on the same
        clips, in turn.
    """
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    values = extract_input_values(folder, waveforms)

    @torch.inference_mode()
    def eager(clip: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(clip)).logits.numpy()

    sessions = {kind: open_session(folder / "onnx" / name) for kind, name in FILES.items()}
    ways = {"eager": eager}
    for kind, session in sessions.items():
        ways[kind] = lambda clip, session=session: session.run(None, {"input_values": clip})[0]
    told = {
        kind: np.array([way(clip)[0].argmax() for clip in tqdm(values, f"Comparing {kind}")])
        for kind, way in ways.items()
    }
    seconds = {kind: [] for kind in ways}
    timed = values[:: -(-len(values) // NUM_TIMED)]
    for kind, way in NUM_ROUNDS * list(ways.items()):
        for clip in timed:
            begun = time.perf_counter()
            way(clip)
            seconds[kind].append(time.perf_counter() - begun)
    middle = {kind: 1000 * statistics.median(times) for kind, times in seconds.items()}
    recalls = {
        kind: None if labels is None else float(balanced_accuracy_score(labels, told[kind])) for kind in ways
    }
    normalized = AutoFeatureExtractor.from_pretrained(folder).do_normalize
    found = {"clips": len(values), "device": describe_device("cpu"), "do_normalize": normalized}
    found["eager"] = {"p50_ms": middle["eager"], "uar": recalls["eager"]}
    for kind, name in FILES.items():
        found[kind] = {
            "mb": os.path.getsize(folder / "onnx" / name) / 1e6,  # noqa: PTH202
            "agreement": float((told[kind] == told["eager"]).mean()),
            "uar": recalls[kind],
            "p50_ms": middle[kind],
            "times_faster": middle["eager"] / middle[kind],
        }
    return found
