"""Fine-tune the last layers of an encoder on the stored outputs of its frozen layers (PyTorch).

The outputs of the frozen layers never change, so they are computed once (`embeddings.embed`), and training
runs only the layers after them. Of the frozen layers, the weighted sum of layers uses the time means: all
operations after that sum are affine, so the result is the same.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers.masking_utils import create_bidirectional_mask

from utils.encoders.families import family_of
from utils.encoders.frames import Frames
from utils.encoders.freezing import layer_output, num_used_layers

MAX_PADDING = 0.05
"""Maximum ratio of padded to real frames in a forward pass. Padding is masked: it costs only time."""


class TunedLayers(torch.nn.Module):
    """The last of the `num_used_layers` of a stock classifier and its head, with shared weights.

    Args:
        model: a stock classifier over raw waveforms with `use_weighted_layer_sum`.
        num_layers: number of transformer layers, counted from the last one that is used.
    """

    def __init__(self, model: torch.nn.Module, num_layers: int):
        super().__init__()
        encoder, num_used = model.base_model.encoder, num_used_layers(model.config)
        self.num_frozen = num_used - num_layers
        self.layers = encoder.layers[self.num_frozen : num_used]
        self.projector = model.projector
        self.classifier = model.classifier
        self.layer_weights = model.layer_weights
        last_norm = family_of(model.config).last_norm
        self.last_norm = model.base_model.get_submodule(last_norm) if last_norm else torch.nn.Identity()
        self._config = model.config
        # In WavLM the first layer, which may be frozen, computes the relative position bias of all layers.
        self._compute_position_bias = getattr(
            getattr(encoder.layers[0], "attention", None), "compute_bias", None
        )

    def forward(self, input_values: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return logits (num_clips, num_labels), for each clip the same as for that clip alone.

        Args:
            input_values: for each clip the pair of `FrozenClips`, on the device of the weights. Clips of
                similar length share a forward pass.
        """
        pooled = [None] * len(input_values)
        for rows in similar_length_groups([len(frames) for frames, _ in input_values]):
            means = [*torch.stack([input_values[row][1] for row in rows]).unbind(dim=1)]
            means += self._tuned_means([input_values[row][0] for row in rows])
            weights = self.layer_weights.softmax(dim=-1)[: len(means)]
            weighted_sum = (torch.stack(means, dim=1) * weights[:, None]).sum(dim=1)
            for row, values in zip(rows, weighted_sum, strict=True):
                pooled[row] = values
        return self.classifier(self.projector(torch.stack(pooled)))

    def _tuned_means(self, clips: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the time means (num_clips, hidden_size) of the output of each tuned layer."""
        hidden = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        lengths = torch.tensor([len(clip) for clip in clips], device=hidden.device)
        is_frame = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        is_wavlm = self._compute_position_bias is not None
        options = {"attention_mask": None}
        if len({len(clip) for clip in clips}) > 1:
            mask = is_frame if is_wavlm else create_bidirectional_mask(self._config, hidden, is_frame)
            options["attention_mask"] = mask
        if is_wavlm and self.num_frozen:
            with torch.no_grad():
                bias = self._compute_position_bias(hidden.shape[1], hidden.shape[1])
            options["position_bias"] = bias[None].repeat(len(hidden), 1, 1, 1).flatten(0, 1)
        means = []
        for number, layer in enumerate(self.layers, start=1):
            output = layer(hidden, **options)
            if is_wavlm:
                options["position_bias"] = output[1]
            hidden = layer_output(output)
            state = self.last_norm(hidden) if number == len(self.layers) else hidden
            means.append((state * is_frame[..., None]).sum(dim=1) / lengths[:, None])
        return means


def similar_length_groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield groups of rows; padding a group to its longest clip adds at most `MAX_PADDING` to its frames."""
    group, total = [], 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        total += lengths[row]
        if group and lengths[group[0]] * (len(group) + 1) > (1 + MAX_PADDING) * total:
            yield group
            group, total = [], lengths[row]
        group.append(row)
    yield group


class FrozenClips(torch.utils.data.Dataset):
    """The outputs of the frozen layers for the clips of one split, in the format of the Trainer.

    `clips[i]`, or `clips[i, ...]` with a key of the sampler, has the `label` and, for `TunedLayers`, the
    `input_values`: float32 frames (num_frames, hidden_size), the input of the first tuned layer, and float32
    means (num_frozen_layers + 1, hidden_size), the time means of the hidden states up to that input.

    Args:
        frames: of the corpus.
        means: float32 (num_clips, num_used_layers + 1, hidden_size) of the corpus, from `embeddings.embed`.
        rows: of the split, in both.
        labels: of these rows.
    """

    def __init__(self, frames: Frames, means: np.ndarray, rows: np.ndarray, labels: Sequence[int]):
        self.frames = frames
        self.means = means
        self.rows = rows
        self.labels = np.asarray(labels)
        self.lengths = np.diff(frames.ends, prepend=0)[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int, int]) -> dict:
        index = key[0] if isinstance(key, tuple) else key
        row = self.rows[index]
        frames = torch.from_numpy(self.frames[row])
        means = torch.from_numpy(np.array(self.means[row, : self.frames.layer + 1]))
        return {"input_values": (frames, means), "label": int(self.labels[index])}
