"""Hidden states of an encoder for a batch of clips, and their time means (PyTorch).

Clips of different length share a forward pass; the result for each clip is the same as for that clip alone.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from utils.encoders.families import family_of
from utils.encoders.freezing import layer_output


class UnpaddedConvolutions(torch.nn.Module):
    """Replacement for the feature extractor of an encoder that processes padded clips one length at a time.

    Encoders that normalise over time (wav2vec2-base) would otherwise mix padding into every frame. The
    transformer layers ignore padding if they are given an attention mask.

    Args:
        convolutions: the feature extractor of the encoder.
        lengths: number of samples of each clip of the next batch.
    """

    def __init__(self, convolutions: torch.nn.Module, lengths: Sequence[int]):
        super().__init__()
        self.convolutions = convolutions
        self.lengths = torch.tensor(lengths)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """(num_clips, num_samples) -> (num_clips, num_channels, num_frames), zero in padded frames."""
        features = None
        for length in self.lengths.unique(sorted=True).flip(0):  # the longest first: it has all frames
            rows = (self.lengths == length).nonzero().flatten().to(input_values.device)
            unpadded = self.convolutions(input_values[rows, :length])
            if features is None:
                features = unpadded.new_zeros(len(input_values), *unpadded.shape[1:])
            features[rows, :, : unpadded.shape[2]] = unpadded
        return features


@torch.inference_mode()
def hidden_states(
    model: torch.nn.Module, clips: Sequence[torch.Tensor], num_layers: int | None = None
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Return the hidden states of a batch of clips, for each clip the same as for that clip alone.

    Args:
        model: a stock classifier, in eval mode.
        clips: tensors, as returned by its feature extractor, on the device of the model.
        num_layers: run only the first `num_layers` transformer layers; by default all.

    Returns:
        states: num_layers + 1 tensors (num_clips, num_frames, hidden_size); the first is the input of the
            first layer. Frames after the end of a shorter clip are undefined.
        num_frames: int64 (num_clips,), the number of frames of each clip.
    """
    base, family = model.base_model, family_of(model.config)
    if family.has_window:
        with _first_layers(base, num_layers), _recorded_states(base, family.last_norm) as states:
            base.get_submodule(family.body)(torch.stack(list(clips)))
        states = tuple(states[: None if num_layers is None else num_layers + 1])
        return states, torch.full((len(clips),), states[0].shape[1], device=states[0].device)
    lengths = torch.tensor([len(clip) for clip in clips])
    input_values = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    attention_mask = None
    if len(lengths.unique()) > 1:
        attention_mask = torch.arange(input_values.shape[1]) < lengths[:, None]
        attention_mask = attention_mask.long().to(input_values.device)
    with (
        _unpadded_convolutions(base, lengths.tolist()),
        _first_layers(base, num_layers),
        _recorded_states(base) as states,
    ):
        base(input_values, attention_mask=attention_mask)
    states = tuple(states[: None if num_layers is None else num_layers + 1])
    return states, base._get_feat_extract_output_lengths(lengths).to(input_values.device)


@contextlib.contextmanager
def _unpadded_convolutions(base: torch.nn.Module, lengths: list[int]) -> Iterator:
    """Temporarily give an encoder `UnpaddedConvolutions`."""
    convolutions = base.feature_extractor
    base.feature_extractor = UnpaddedConvolutions(convolutions, lengths)
    try:
        yield
    finally:
        base.feature_extractor = convolutions


@contextlib.contextmanager
def _first_layers(base: torch.nn.Module, num_layers: int | None) -> Iterator:
    """Temporarily leave an encoder only its first layers, at least one."""
    layers = base.encoder.layers
    base.encoder.layers = layers[: None if num_layers is None else max(num_layers, 1)]
    try:
        yield
    finally:
        base.encoder.layers = layers


@contextlib.contextmanager
def _recorded_states(base: torch.nn.Module, last_norm: str | None = None) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which a forward pass appends the input of each layer and the output of the last one, or
    of the norm after it.

    `output_hidden_states` is not used: its last state depends on the version of transformers (see
    `freezing.num_used_layers`).
    """
    states, layers = [], base.encoder.layers
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, args, options: states.append(args[0] if args else options["hidden_states"]),
            with_kwargs=True,
        )
        for layer in layers
    ]
    last = base.get_submodule(last_norm) if last_norm else layers[-1]
    hooks += [last.register_forward_hook(lambda layer, args, output: states.append(layer_output(output)))]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def layer_means(states: Sequence[torch.Tensor], num_frames: torch.Tensor) -> torch.Tensor:
    """Return the time means of hidden states, without padding.

    Args:
        states, num_frames: the result of `hidden_states`.

    Returns:
        float32 (num_clips, num_states, hidden_size).
    """
    is_frame = torch.arange(states[0].shape[1], device=num_frames.device) < num_frames[:, None]
    sums = [(state.float() * is_frame[..., None]).sum(dim=1) for state in states]
    return torch.stack(sums, dim=1) / num_frames[:, None, None]
