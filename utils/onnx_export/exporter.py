"""A finished run's classifier comes in; ONNX files go out beside its weights, in float32 and in 8 bits, and
how far they agree with it (PyTorch).

    python -m utils.export runs/wav2vec2
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForAudioClassification

from utils.data.audio import SAMPLING_RATE
from utils.onnx_export.integers import IntegerConvolutions
from utils.onnx_export.quantization import add_to_logits, quantize
from utils.onnx_export.session import FILES, extract_input_values, open_session
from utils.runtime import InputError

MAX_CONVOLUTION_SHARE = 0.9
"""Of the error of the logits, what may come from convolutions in 8 bits. Where it is more, they are kept in
16: those of some encoders bear no 8, and without them the file would be ten times as exact."""


def require_onnx() -> None:
    """Say what is to be installed, before any long work.

    Raises:
        InputError: onnx or onnxruntime is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--export onnx: {error.name} is not installed; pip install onnx onnxruntime"
        ) from None


def export_onnx(folder: Path, waveforms: Sequence[np.ndarray]) -> str:
    """Write `onnx/model.onnx` and `onnx/model_int8.onnx` of the classifier in a run's folder.

    Both take `input_values` (num_clips, num_samples), float32 at 16 kHz as the feature extractor makes it, of
    clips of one length, and give `logits` (num_clips, num_emotions). In the second one the weights are int8,
    with a scale per output channel; the head's are float32. Matrix products of the transformer layers and
    the feature extractor's convolutions are computed in integers, all else in float32. Where convolutions
    make more of the error than `MAX_CONVOLUTION_SHARE`, their weights are float16 and they are computed in
    float32. The mean of the error that is left is taken off the logits (Nagel et al. 2019, "Data-Free
    Quantization Through Weight Equalization and Bias Correction", do so in each layer).

    Args:
        folder: the run's.
        waveforms: float32 at 16 kHz; clips on which that is tried. Their labels are not asked for.

    Returns:
        how the convolutions are stored, int8 or float16.
    """
    require_onnx()
    target = folder / "onnx"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, suffix=".partial") as scratch:
        floats, integers = Path(scratch) / FILES["fp32"], Path(scratch) / "integers.onnx"
        model = _classifier(folder)
        _export(model, floats, in_integers=False)
        model.base_model.feature_extractor = IntegerConvolutions(model.base_model.feature_extractor)
        _export(model, integers, in_integers=True)
        values = extract_input_values(folder, waveforms)
        expected, corrections, errors = _logits(floats, values), {}, {}
        for convolutions, traced in (("float16", floats), ("int8", integers)):
            path = Path(scratch) / convolutions
            quantize(traced, path, convolutions)
            apart = expected - _logits(path, values)
            corrections[convolutions] = apart.mean(axis=0)
            errors[convolutions] = np.abs(apart - apart.mean(axis=0)).mean()
        in_16_bits = errors["float16"] < (1 - MAX_CONVOLUTION_SHARE) * errors["int8"]
        convolutions = "float16" if in_16_bits else "int8"
        add_to_logits(Path(scratch) / convolutions, corrections[convolutions])
        floats.replace(target / floats.name)
        (Path(scratch) / convolutions).replace(target / FILES["int8"])
    return convolutions


def _logits(path: Path, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return what an ONNX file says of each clip, (num_clips, num_emotions)."""
    session = open_session(path)
    return np.concatenate([session.run(None, {"input_values": clip})[0] for clip in values])


class _Logits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).logits


def _classifier(folder: Path) -> torch.nn.Module:
    """Return the classifier of a run's folder as it is traced."""
    model = AutoModelForAudioClassification.from_pretrained(folder, attn_implementation="eager").eval()
    for module in model.modules():  # weight norm is computed once and for all
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    with torch.no_grad():  # the two layers of the head, with but a mean between them, are one
        head = torch.nn.Linear(model.projector.in_features, model.config.num_labels)
        head.weight[:] = model.classifier.weight @ model.projector.weight
        head.bias[:] = model.classifier(model.projector.bias)
    model.projector, model.classifier = head, torch.nn.Identity()
    return model


def _export(model: torch.nn.Module, path: Path, in_integers: bool) -> None:
    with warnings.catch_warnings():  # of shapes: the tests hear clips of several lengths
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model),
            (torch.randn(2, SAMPLING_RATE),),
            path,
            input_names=["input_values"],
            output_names=["logits"],
            dynamic_axes={"input_values": {0: "clip", 1: "sample"}, "logits": {0: "clip"}},
            opset_version=17,
            dynamo=False,
            autograd_inlining=False,  # products of integers are written as such, not as what PyTorch computes
            custom_opsets={"com.microsoft": 1} if in_integers else {},
        )
