"""Export the classifier of a finished run to ONNX files in float32 and in 8 bits (PyTorch).

The command `python -m utils.export runs/wav2vec2` calls it.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from utils.data.audio import SAMPLING_RATE
from utils.encoders.families import check_exportable, family_of
from utils.onnx_export.integers import IntegerConvolutions
from utils.onnx_export.log_mel import LogMel
from utils.onnx_export.quantization import add_to_logits, quantize
from utils.onnx_export.session import FILES, onnx_inputs, open_session
from utils.runtime import InputError

MAX_CONVOLUTION_SHARE = 0.9
"""Maximum share of the error of the logits that 8-bit convolutions may cause. Above it, the convolutions are
stored in 16 bits: for some encoders this reduces the error by a factor of ten."""


def require_onnx() -> None:
    """Check that the packages for the export are installed; call it before a long computation.

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
    """Write `onnx/model.onnx` and `onnx/model_int8.onnx` for the classifier in the folder of a run.

    Input of both: `input_values`, float32 (num_clips, num_samples), as from `session.onnx_inputs`. Output:
    `logits` (num_clips, num_emotions).

    In the second file the weights are int8 with one scale per output channel, except float32 weights in the
    head. The matrix products of the transformer layers and the convolutions of the feature extractor are
    computed in integers, all other operations in float32. If the convolutions cause more of the error than
    `MAX_CONVOLUTION_SHARE`, their weights are float16 and they are computed in float32. The mean of the
    remaining error is subtracted from the logits (Nagel et al. 2019, "Data-Free Quantization Through Weight
    Equalization and Bias Correction", do so in each layer).

    Args:
        folder: of the run.
        waveforms: float32 at 16 kHz; clips on which the error is measured. Labels are not needed.

    Returns:
        the type in which the weights of the convolutions are stored: "int8" or "float16".

    Raises:
        InputError: onnx or onnxruntime is missing.
    """
    require_onnx()
    target = folder / "onnx"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, suffix=".partial") as temporary:
        float_file, integer_file = Path(temporary) / FILES["fp32"], Path(temporary) / "integers.onnx"
        model = _load_classifier(folder)
        check_exportable(model.config)
        log_mel = None
        if family_of(model.config).has_window:
            log_mel = LogMel(AutoFeatureExtractor.from_pretrained(folder))
        _export(model, float_file, log_mel)
        if log_mel:
            integer_file = float_file  # its two convolutions take little time
        else:
            model.base_model.feature_extractor = IntegerConvolutions(model.base_model.feature_extractor)
            _export(model, integer_file, integer_ops=True)
        clips = onnx_inputs(folder, waveforms)
        expected, corrections, errors = _logits(float_file, clips), {}, {}
        for convolutions, exported in (("float16", float_file), ("int8", integer_file)):
            path = Path(temporary) / convolutions
            quantize(exported, path, convolutions)
            differences = expected - _logits(path, clips)
            corrections[convolutions] = differences.mean(axis=0)
            errors[convolutions] = np.abs(differences - differences.mean(axis=0)).mean()
        use_float16 = errors["float16"] < (1 - MAX_CONVOLUTION_SHARE) * errors["int8"]
        convolutions = "float16" if use_float16 else "int8"
        add_to_logits(Path(temporary) / convolutions, corrections[convolutions])
        float_file.replace(target / float_file.name)
        (Path(temporary) / convolutions).replace(target / FILES["int8"])
    return convolutions


def _logits(path: Path, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logits (num_clips, num_emotions) of an ONNX file for clips (1, num_samples)."""
    session = open_session(path)
    return np.concatenate([session.run(None, {"input_values": clip})[0] for clip in clips])


class _Logits(torch.nn.Module):
    """A classifier that returns its logits as a tensor, for the export.

    Args:
        log_mel: computes the input of the classifier from waveforms; None: it is given waveforms.
    """

    def __init__(self, model: torch.nn.Module, log_mel: LogMel | None = None):
        super().__init__()
        self.model, self.log_mel = model, log_mel

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        if self.log_mel is not None:
            input_values = self.log_mel(input_values)
        return self.model(input_values).logits


def _load_classifier(folder: Path) -> torch.nn.Module:
    """Return the classifier of a run without weight norm, and with both layers of the head merged."""
    model = AutoModelForAudioClassification.from_pretrained(folder, attn_implementation="eager").eval()
    for module in model.modules():
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    with torch.no_grad():  # the time mean is the only operation between the two layers
        head = torch.nn.Linear(model.projector.in_features, model.config.num_labels)
        head.weight[:] = model.classifier.weight @ model.projector.weight
        head.bias[:] = model.classifier(model.projector.bias)
    model.projector, model.classifier = head, torch.nn.Identity()
    return model


def _export(
    model: torch.nn.Module, path: Path, log_mel: LogMel | None = None, integer_ops: bool = False
) -> None:
    """Trace a classifier to an ONNX file; `integer_ops`: it contains `IntegerConvolutions`."""
    with warnings.catch_warnings():  # about traced shapes; the tests run clips of several lengths
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model, log_mel).eval(),
            (torch.randn(2, SAMPLING_RATE),),
            path,
            input_names=["input_values"],
            output_names=["logits"],
            dynamic_axes={"input_values": {0: "clip", 1: "sample"}, "logits": {0: "clip"}},
            opset_version=17,
            dynamo=False,
            autograd_inlining=False,  # write `symbolic` of the integer product, not its forward pass
            custom_opsets={"com.microsoft": 1} if integer_ops else {},
        )
