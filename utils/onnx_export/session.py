"""Open an ONNX file of a run and prepare clips for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoFeatureExtractor

from utils.data.audio import SAMPLING_RATE


def extract_input_values(folder: Path, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what a run's feature extractor makes of each clip, float32 (1, num_samples)."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    return [
        extractor(one, sampling_rate=SAMPLING_RATE, return_tensors="np")["input_values"].astype(np.float32)
        for one in waveforms
    ]


def open_session(path: Path, num_threads: int = 0):
    """Return an onnxruntime session on the CPU, with so many threads; 0: one per core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # The convolutions' weights become floats when the file is opened, not at each clip.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Threads that spin while they wait gain nothing here, and on a busy machine stand in each other's way.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


FILES = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
"""Kind -> its file in `onnx/` of the run's folder."""
