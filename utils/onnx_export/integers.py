"""The convolutions of a wav2vec2-like encoder come in; a module goes out that is traced into integers.

In PyTorch it computes what they do, from weights of 8 bits. In ONNX Runtime frames are multiplied with
weights as integers, each frame with a scale of its own: where all share one, loud frames leave few steps to
quiet ones.
"""

import torch
from torch import nn

LARGEST = 127
"""Steps from zero to the largest value that a signed byte holds."""


class IntegerConvolutions(nn.Module):
    """Stands in for the feature extractor of a stock classifier.

    float32 (num_clips, num_samples) becomes float32 (num_clips, num_channels, num_frames), as there.

    Args:
        extractor: `model.base_model.feature_extractor` of wav2vec2, HuBERT, WavLM and their relatives.
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
    """Samples in, frames (num_clips, num_frames, num_channels) out, in float32: samples bear no 8 bits.

    It is hardly any work, but its output is the largest tensor of all. So group norm goes into its weights:
    a channel of weights w gives, of centred frames of covariance C, values of mean 0 and variance w.C.w.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.conv, self.activation = layer.conv, layer.activation
        self.norm = getattr(layer, "layer_norm", None)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        [num_taps], [stride] = self.conv.kernel_size, self.conv.stride
        frames = torch.stack(
            [_met_by(tap, num_taps, stride, input_values) for tap in range(num_taps)], dim=-1
        )
        weight, bias = self.conv.weight[:, 0].T, self.conv.bias
        if not isinstance(self.norm, nn.GroupNorm):
            hidden = frames @ weight + (0 if bias is None else bias)
            return self.activation(hidden if self.norm is None else self.norm(hidden))
        frames = frames - frames.mean(dim=1, keepdim=True)  # a bias would go with it
        precise = frames.double()  # neighbouring samples are much alike, their differences small
        # Not a transpose and a product: ONNX Runtime up to 1.24 fuses them into an operator that it lacks for
        # doubles.
        covariance = torch.einsum("nft,nfs->nts", precise, precise) / frames.shape[1]
        variance = ((covariance @ weight.double()) * weight).sum(dim=1, keepdim=True)
        scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps).float()
        return self.activation(frames @ (weight * scale) + self.norm.bias)


class _IntegerConvolution(nn.Module):
    """Frames (num_clips, num_frames, num_channels) in and out."""

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


def _met_by(tap: int, num_taps: int, stride: int, values: torch.Tensor) -> torch.Tensor:
    """Return which of (num_clips, num_values, ...) a tap of a convolution meets."""
    return values[:, tap : tap + 1 - num_taps or None : stride]


class _FrameProducts(torch.autograd.Function):
    """The sum over taps of the frames that it meets @ its weights, which are int8 times `column_scale`."""

    @staticmethod
    def forward(ctx, hidden, column_scale, stride, *taps):
        met = (_met_by(tap, len(taps), stride, hidden) for tap in range(len(taps)))
        return sum(frames @ (weight * column_scale) for frames, weight in zip(met, taps, strict=True))

    @staticmethod
    def symbolic(g, hidden, column_scale, stride, *taps):
        def constant(value, dtype=torch.float32):
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        def met_by(tap, values):
            bounds = ([tap], [tap + 1 - len(taps) or 2**31], [1], [stride])  # from, to, axis, step
            return g.op("Slice", values, *(constant(bound, torch.int64) for bound in bounds))

        num_channels, num_out = taps[0].type().sizes()
        highest = g.op("ReduceMax", hidden, axes_i=[-1], keepdims_i=1)
        lowest = g.op("Neg", g.op("ReduceMin", hidden, axes_i=[-1], keepdims_i=1))
        step = g.op("Mul", g.op("Max", highest, lowest, constant(1e-9)), constant(1 / LARGEST))
        flat_step = g.op("Reshape", step, constant([-1], torch.int64))
        zero = constant(128, torch.uint8)  # ONNX Runtime multiplies unsigned bytes much faster than signed
        zeros = g.op("Expand", zero, g.op("Shape", flat_step))
        rows = g.op("Reshape", hidden, constant([-1, num_channels], torch.int64))
        quantized = g.op("QuantizeLinear", rows, flat_step, zeros, axis_i=0)
        quantized = g.op("Reshape", quantized, g.op("Shape", hidden))
        total = None
        for tap, weight in enumerate(taps):
            inputs = met_by(tap, quantized), weight, constant(1.0), column_scale, zero
            product = g.op("com.microsoft::MatMulIntegerToFloat", *inputs)
            product = g.op("Mul", product, met_by(tap, step))
            total = product if total is None else g.op("Add", total, product)
        total.setType(hidden.type().with_sizes([None, None, num_out]))
        return total
