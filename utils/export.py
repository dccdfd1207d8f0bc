"""A finished run's classifier comes in; ONNX files go out beside its weights, in float32 and in 8 bits, and
how far they agree with it (PyTorch).

    python -m utils.export runs/wav2vec2
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from utils.audio import SAMPLING_RATE
from utils.card import write_card
from utils.integers import IntegerConvolutions
from utils.runs import is_finished, read_checked_clips
from utils.runtime import InputError, describe_device, logger, refuse_arguments, run_script, write_json

FILES = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
"""Kind -> its file in `onnx/` of the run's folder."""

NUM_TIMED, NUM_ROUNDS = 5, 3
"""Clips on which the files and the classifier are timed, and how often."""

MAX_CONVOLUTION_SHARE = 0.9
"""Of the error of the logits, what may come from convolutions in 8 bits. Where it is more, they are kept in
16: those of some encoders bear no 8, and without them the file would be ten times as exact."""

MIN_FLOAT16 = 512
"""Numbers in a bias or another weight that is neither of a convolution nor of a matrix product, from which on
it is kept in 16 bits rather than 32."""


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
        values = _input_values(folder, waveforms)
        expected, corrections, errors = _logits(floats, values), {}, {}
        for convolutions, traced in (("float16", floats), ("int8", integers)):
            path = Path(scratch) / convolutions
            _quantize(traced, path, convolutions)
            apart = expected - _logits(path, values)
            corrections[convolutions] = apart.mean(axis=0)
            errors[convolutions] = np.abs(apart - apart.mean(axis=0)).mean()
        in_16_bits = errors["float16"] < (1 - MAX_CONVOLUTION_SHARE) * errors["int8"]
        convolutions = "float16" if in_16_bits else "int8"
        _add_to_logits(Path(scratch) / convolutions, corrections[convolutions])
        floats.replace(target / floats.name)
        (Path(scratch) / convolutions).replace(target / FILES["int8"])
    return convolutions


def _input_values(folder: Path, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what a run's feature extractor makes of each clip, float32 (1, num_samples)."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    return [
        extractor(one, sampling_rate=SAMPLING_RATE, return_tensors="np")["input_values"].astype(np.float32)
        for one in waveforms
    ]


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


def _quantize(path: Path, target: Path, convolutions: str) -> None:
    import onnx
    from onnx import helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Before and behind the transformer layers a clip's values differ too much in size to share one scale.
    products = [node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
    logging.disable(logging.WARNING)  # it asks for a step that this model does not need
    try:
        quantize_dynamic(
            path,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[name for name in products if "/encoder/layers." not in name],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(target)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []

    def keep_in_16_bits(name: str) -> None:
        weight = numpy_helper.to_array(tensors[name]).astype(np.float16)
        graph.initializer.remove(tensors.pop(name))
        graph.initializer.append(numpy_helper.from_array(weight, f"{name}_16"))
        nodes.append(helper.make_node("Cast", [f"{name}_16"], [name], to=onnx.TensorProto.FLOAT))

    for node in graph.node:
        if node.op_type == "MatMulInteger":  # the scales are symmetric: their zero points are zero
            graph.initializer.remove(tensors[node.input.pop()])
        name = node.input[1] if node.op_type in ("Conv", "MatMul") else None
        if name in tensors and tensors[name].data_type == onnx.TensorProto.FLOAT:
            if "/projector/" in node.name:  # the head is small, and has taken in how its inputs vary
                del tensors[name]
            elif node.op_type == "Conv" and convolutions == "float16":
                keep_in_16_bits(name)
            else:
                weight = numpy_helper.to_array(tensors[name])
                graph.initializer.remove(tensors.pop(name))
                channels = 0 if node.op_type == "Conv" else 1  # the axis of the output's
                others = tuple(axis for axis in range(weight.ndim) if axis != channels)
                scale = np.abs(weight).max(axis=others, keepdims=True).clip(1e-12) / np.float32(127)
                rounded = np.round(weight / scale).astype(np.int8)
                graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_8"))
                graph.initializer.append(numpy_helper.from_array(scale.ravel(), f"{name}_scale"))
                stored = [f"{name}_8", f"{name}_scale"]
                nodes.append(helper.make_node("DequantizeLinear", stored, [name], axis=channels))
        for name in node.input:
            if name in tensors and "_scale" not in name and _is_large_float(tensors[name]):
                keep_in_16_bits(name)
        nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    _shorten_names(graph)
    onnx.save(model, target)


def _add_to_logits(path: Path, correction: np.ndarray) -> None:
    """Add numbers (num_emotions,) to what an ONNX file says of every clip."""
    import onnx

    model = onnx.load(path)
    [last] = [node for node in model.graph.node if "logits" in node.output]
    last.output[:] = ["uncorrected"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(correction, "correction"))
    model.graph.node.append(onnx.helper.make_node("Add", ["uncorrected", "correction"], ["logits"]))
    onnx.save(model, path)


def _is_large_float(tensor) -> bool:
    return tensor.data_type == tensor.FLOAT and np.prod(tensor.dims) >= MIN_FLOAT16


def _shorten_names(graph) -> None:
    """Number the tensors of a graph: their names take half a megabyte."""
    kept = {each.name for each in (*graph.input, *graph.output)} | {""}
    numbers = {}

    def short(name: str) -> str:
        return name if name in kept else numbers.setdefault(name, str(len(numbers)))

    for node in graph.node:
        node.name = ""
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)


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
    values = _input_values(folder, waveforms)

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("run", type=Path, help="the folder of a finished run of train_wav2vec2.py")
    folder = parser.parse_args().run
    if not is_finished(folder):
        raise InputError(f"{folder}: expected the folder of a finished run, with its README.md")
    run = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    if run["model"]["library"] != "transformers":
        raise InputError(f"{folder}: is a run of {run['script']}; expected one of train_wav2vec2.py")
    waveforms, _ = read_checked_clips(folder)
    stored = export_onnx(folder, waveforms[::2])
    run["onnx"] = compare_onnx(folder, waveforms[1::2]) | {"convolutions": stored}  # on others than it tried
    write_json(folder / "metrics.json", run)
    write_card(folder)
    facts = run["onnx"]["int8"]
    logger.info(
        "%s: %.1f MB in 8 bits, %.1f times as fast, the same answer on %.1f %% of %d clips. Card: %s",
        folder / "onnx",
        facts["mb"],
        facts["times_faster"],
        100 * facts["agreement"],
        run["onnx"]["clips"],
        folder / "README.md",
    )


if __name__ == "__main__":
    run_script(main)
