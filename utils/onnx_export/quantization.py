"""Quantize the weights of an ONNX file to 8 bits."""

import logging
from pathlib import Path

import numpy as np

MIN_FLOAT16 = 512
"""Minimum number of elements from which other weights (biases, norms) are stored in 16 instead of 32 bits."""


def quantize(path: Path, target: Path, convolutions: str) -> None:
    """Write a copy of an ONNX file with quantized weights.

    Args:
        path: the file in float32.
        target: the file to write.
        convolutions: "int8" or "float16", the type in which weights of `Conv` nodes are stored.
    """
    import onnx

    _quantize_transformer_layers(path, target)
    model = onnx.load(target)
    _Weights(model.graph).compress(convolutions)
    _shorten_names(model.graph)
    onnx.save(model, target)


def add_to_logits(path: Path, correction: np.ndarray) -> None:
    """Add a constant (num_emotions,) to the logits of an ONNX file."""
    import onnx

    model = onnx.load(path)
    [last] = [node for node in model.graph.node if "logits" in node.output]
    last.output[:] = ["uncorrected"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(correction, "correction"))
    model.graph.node.append(onnx.helper.make_node("Add", ["uncorrected", "correction"], ["logits"]))
    onnx.save(model, path)


def _quantize_transformer_layers(path: Path, target: Path) -> None:
    """Write a copy in which the matrix products of the transformer layers are computed in integers.

    Not those before and after: there the values of a clip differ too much in size to share one scale.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = [node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
    logging.disable(logging.WARNING)  # it recommends a preprocessing step that this model does not need
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


class _Weights:
    """The float32 weights of a graph, to be stored in fewer bits."""

    def __init__(self, graph):
        self.graph = graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes = []  # of the new graph, in execution order

    def compress(self, convolutions: str) -> None:
        """Store the weights of convolutions and matrix products in int8, other large tensors in float16."""
        for node in self.graph.node:
            if node.op_type == "MatMulInteger":  # the scales are symmetric: their zero points are zero
                self.graph.initializer.remove(self.tensors[node.input.pop()])
            if "/projector/" in node.name or "/log_mel/" in node.name:  # small, and stay in float32
                for name in node.input:
                    self.tensors.pop(name, None)
            name = node.input[1] if node.op_type in ("Conv", "MatMul") else None
            if name in self.tensors and self.tensors[name].data_type == self.tensors[name].FLOAT:
                if node.op_type == "Conv" and convolutions == "float16":
                    self._store_float16(name)
                else:
                    self._store_int8(name, output_axis=0 if node.op_type == "Conv" else 1)
            for name in node.input:
                if name in self.tensors and "_scale" not in name and _is_large_float(self.tensors[name]):
                    self._store_float16(name)
            self.nodes.append(node)
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)

    def _store_float16(self, name: str) -> None:
        from onnx import TensorProto, helper

        self._replace(name, {f"{name}_16": self._array(name).astype(np.float16)})
        self.nodes.append(helper.make_node("Cast", [f"{name}_16"], [name], to=TensorProto.FLOAT))

    def _store_int8(self, name: str, output_axis: int) -> None:
        """Store a weight with one scale per output channel."""
        from onnx import helper

        weight = self._array(name)
        other_axes = tuple(axis for axis in range(weight.ndim) if axis != output_axis)
        scale = np.abs(weight).max(axis=other_axes, keepdims=True).clip(1e-12) / np.float32(127)
        rounded = np.round(weight / scale).astype(np.int8)
        stored = {f"{name}_8": rounded, f"{name}_scale": scale.ravel()}
        self._replace(name, stored)
        self.nodes.append(helper.make_node("DequantizeLinear", list(stored), [name], axis=output_axis))

    def _array(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.tensors[name])

    def _replace(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        from onnx import numpy_helper

        self.graph.initializer.remove(self.tensors.pop(name))
        self.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())


def _is_large_float(tensor) -> bool:
    return tensor.data_type == tensor.FLOAT and np.prod(tensor.dims) >= MIN_FLOAT16


def _shorten_names(graph) -> None:
    """Replace the names of inner tensors by numbers, which makes the file half a megabyte smaller."""
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
