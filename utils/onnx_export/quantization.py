"""Quantize the weights of an ONNX file to 8 bits."""

import logging
from pathlib import Path

import numpy as np

MIN_FLOAT16 = 512
"""Numbers in a bias or another weight that is neither of a convolution nor of a matrix product, from which on
it is kept in 16 bits rather than 32."""


def quantize(path: Path, target: Path, convolutions: str) -> None:
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


def add_to_logits(path: Path, correction: np.ndarray) -> None:
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
