"""ONNX Runtime sessions for the exported files of a run, and their inputs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoFeatureExtractor

from utils.encoders.families import extract_input

FILES = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
"""Precision -> file name in the folder `onnx/` of the run."""


def onnx_inputs(folder: Path, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what the ONNX files of a run are given: waveforms, normalised if its classifier needs that.

    Args:
        folder: of the run.
        waveforms: float32 (num_samples,) at 16 kHz.

    Returns:
        float32 (1, num_samples) for each waveform.
    """
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    if extractor.model_input_names[0] == "input_features":  # the files compute the log-mel spectrogram
        return [np.asarray(waveform, np.float32)[None] for waveform in waveforms]
    return [np.asarray(extract_input(extractor, each), np.float32)[None] for each in waveforms]


def open_session(path: Path, num_threads: int = 0):
    """Open an ONNX file with ONNX Runtime on the CPU.

    Args:
        path: of the file.
        num_threads: number of threads; 0: one per core.

    Returns:
        the `onnxruntime.InferenceSession`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # Dequantize the weights of the convolutions once, when the file is loaded, not for each clip.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Spinning threads make no difference on an idle machine, and slow each other down on a busy one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
