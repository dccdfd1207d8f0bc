"""Hidden states of an encoder for a batch of clips, and their time means (PyTorch).

Clips of different length share a forward pass; the result for each clip is the same as for that clip alone.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from utils.encoders.families import family_of, last_norm
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
        states: num_layers + 1 tensors (num_clips, num_frames, hidden_size): the input of the first layer,
            then the output of each layer. Frames after the end of a shorter clip are undefined.
        num_frames: int64 (num_clips,), the number of frames of each clip.
    """
    base, family = model.base_model, family_of(model.config)
    with _first_layers(base, num_layers), _recorded_states(base) as states:
        if family.has_window:
            base.get_submodule(family.body)(torch.stack(list(clips)))
            num_frames = torch.full((len(clips),), states[0].shape[1])
        else:
            num_frames = _run_padded(base, clips, family.input_name == "input_values")
    return tuple(states[: None if num_layers is None else num_layers + 1]), num_frames.to(states[0].device)


def _run_padded(base: torch.nn.Module, clips: Sequence[torch.Tensor], are_waveforms: bool) -> torch.Tensor:
    """Run an encoder on clips of any length, and return their numbers of frames."""
    lengths = torch.tensor([len(clip) for clip in clips])
    input_values = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    attention_mask = None
    if len(lengths.unique()) > 1:
        attention_mask = torch.arange(input_values.shape[1]) < lengths[:, None]
        attention_mask = attention_mask.long().to(input_values.device)
    if not are_waveforms:
        base(input_values, attention_mask=attention_mask)
        return lengths
    with _unpadded_convolutions(base, lengths.tolist()):
        base(input_values, attention_mask=attention_mask)
    return base._get_feat_extract_output_lengths(lengths)


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
def _recorded_states(base: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which a forward pass appends the input of the first layer and the output of each layer.

    `output_hidden_states` is not used: whether its last state is normalised depends on the version of
    transformers.
    """
    states, layers = [], base.encoder.layers
    hooks = [
        layers[0].register_forward_pre_hook(
            lambda layer, args, options: states.append(args[0] if args else options["hidden_states"]),
            with_kwargs=True,
        )
    ]
    hooks += [
        layer.register_forward_hook(lambda layer, args, output: states.append(layer_output(output)))
        for layer in layers
    ]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def output_means(
    model: torch.nn.Module, states: Sequence[torch.Tensor], num_frames: torch.Tensor
) -> torch.Tensor:
    """Return the time means, without padding, of the outputs of an encoder cut after each of its layers.

    Args:
        model: a stock classifier.
        states, num_frames: its `hidden_states`.

    Returns:
        float32 (num_clips, num_layers, hidden_size).
    """
    is_frame = torch.arange(states[0].shape[1], device=num_frames.device) < num_frames[:, None]
    norm = last_norm(model)
    sums = [(norm(state).float() * is_frame[..., None]).sum(dim=1) for state in states[1:]]
    return torch.stack(sums, dim=1) / num_frames[:, None, None]
