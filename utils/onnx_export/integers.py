"""Convolutions of wav2vec2-like encoders that are exported to ONNX as integer products (PyTorch).

In PyTorch the module computes the same as the original convolutions, with weights rounded to 8 bits. In ONNX
Runtime frames and weights are multiplied as integers. Each frame has its own scale: with a common scale, loud
frames would leave few quantization steps for quiet ones.
"""

import torch
from torch import nn

LARGEST = 127
"""Largest value of a signed 8-bit integer."""


class IntegerConvolutions(nn.Module):
    """Replacement for the feature extractor of a stock classifier.

    float32 (num_clips, num_samples) -> float32 (num_clips, num_channels, num_frames), like the original.

    Args:
        extractor: `model.base_model.feature_extractor` of wav2vec2, HuBERT, WavLM or a related encoder.
    """

    def __init__(self, extractor: nn.Module):
        super().__init__()
        first, *others = extractor.conv_layers
        self.first = _FirstConvolution(first)
        self.others = nn.ModuleList(_IntegerConvolution(layer) for layer in others)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        hidden = self.first(input_values)
        for layer in self.others:
            hidden = layer(hidden)
        return hidden.transpose(1, 2)


class _FirstConvolution(nn.Module):
    """The first convolution, in float32: 8 bits are too few for samples.

    (num_clips, num_samples) -> (num_clips, num_frames, num_channels). It needs few operations, and its output
    is the largest tensor of the encoder. Therefore group norm is merged into its weights: for centred frames
    with covariance matrix C, a channel with weights w has output values of mean 0 and variance w.C.w.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.conv, self.activation = layer.conv, layer.activation
        self.norm = getattr(layer, "layer_norm", None)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        [num_taps], [stride] = self.conv.kernel_size, self.conv.stride
        frames = torch.stack(
            [_inputs_of_tap(tap, num_taps, stride, input_values) for tap in range(num_taps)], dim=-1
        )
        weight, bias = self.conv.weight[:, 0].T, self.conv.bias
        if not isinstance(self.norm, nn.GroupNorm):
            hidden = frames @ weight + (0 if bias is None else bias)
            return self.activation(hidden if self.norm is None else self.norm(hidden))
        frames = frames - frames.mean(dim=1, keepdim=True)  # this would also remove a bias
        # float64: neighbouring samples are almost equal, so their differences are small.
        precise = frames.double()
        # Not a transpose and a product: ONNX Runtime up to 1.24 fuses them to an operator that it has not
        # implemented for float64.
        covariance = torch.einsum("nft,nfs->nts", precise, precise) / frames.shape[1]
        variance = ((covariance @ weight.double()) * weight).sum(dim=1, keepdim=True)
        scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps).float()
        return self.activation(frames @ (weight * scale) + self.norm.bias)


class _IntegerConvolution(nn.Module):
    """A convolution with int8 weights: (num_clips, num_frames, num_channels) in and out."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.norm = getattr(layer, "layer_norm", None)
        self.activation, self.bias, [self.stride] = layer.activation, layer.conv.bias, layer.conv.stride
        weight = layer.conv.weight.detach().permute(2, 1, 0)  # (taps, in, out)
        scale = weight.abs().amax(dim=(0, 1)).clamp_min(1e-12) / LARGEST
        self.register_buffer("column_scale", scale)
        self.num_taps = len(weight)
        for tap, values in enumerate((weight / scale).round().to(torch.int8)):
            self.register_buffer(f"tap{tap}", values.contiguous())

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        taps = [getattr(self, f"tap{tap}") for tap in range(self.num_taps)]
        hidden = _FrameProducts.apply(hidden, self.column_scale, self.stride, *taps)
        if self.bias is not None:
            hidden = hidden + self.bias
        return self.activation(hidden if self.norm is None else self.norm(hidden))


def _inputs_of_tap(tap: int, num_taps: int, stride: int, values: torch.Tensor) -> torch.Tensor:
    """Return the elements of (num_clips, num_values, ...) that a tap of a convolution is multiplied with."""
    return values[:, tap : tap + 1 - num_taps or None : stride]


class _FrameProducts(torch.autograd.Function):
    """The sum over all taps of their input frames times their weights (int8 times `column_scale`)."""

    @staticmethod
    def forward(ctx, hidden, column_scale, stride, *taps):
        inputs = (_inputs_of_tap(tap, len(taps), stride, hidden) for tap in range(len(taps)))
        return sum(frames @ (weight * column_scale) for frames, weight in zip(inputs, taps, strict=True))

    @staticmethod
    def symbolic(g, hidden, column_scale, stride, *taps):
        """Write the ONNX operators: quantize each frame, then multiply as integers tap by tap."""

        def constant(value, dtype=torch.float32):
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        def inputs_of_tap(tap, values):
            bounds = ([tap], [tap + 1 - len(taps) or 2**31], [1], [stride])  # from, to, axis, step
            return g.op("Slice", values, *(constant(bound, torch.int64) for bound in bounds))

        num_channels, num_out = taps[0].type().sizes()
        highest = g.op("ReduceMax", hidden, axes_i=[-1], keepdims_i=1)
        lowest = g.op("Neg", g.op("ReduceMin", hidden, axes_i=[-1], keepdims_i=1))
        step = g.op("Mul", g.op("Max", highest, lowest, constant(1e-9)), constant(1 / LARGEST))
        flat_step = g.op("Reshape", step, constant([-1], torch.int64))
        zero = constant(128, torch.uint8)  # ONNX Runtime multiplies unsigned integers much faster than signed
        zeros = g.op("Expand", zero, g.op("Shape", flat_step))
        rows = g.op("Reshape", hidden, constant([-1, num_channels], torch.int64))
        quantized = g.op("QuantizeLinear", rows, flat_step, zeros, axis_i=0)
        quantized = g.op("Reshape", quantized, g.op("Shape", hidden))
        total = None
        for tap, weight in enumerate(taps):
            inputs = inputs_of_tap(tap, quantized), weight, constant(1.0), column_scale, zero
            product = g.op("com.microsoft::MatMulIntegerToFloat", *inputs)
            product = g.op("Mul", product, inputs_of_tap(tap, step))
            total = product if total is None else g.op("Add", total, product)
        total.setType(hidden.type().with_sizes([None, None, num_out]))
        return total
