"""Fine-tune the last layers of an encoder on the stored outputs of its frozen layers (PyTorch).

The outputs of the frozen layers never change, so they are computed once (`embeddings.fill_frames`), and
training runs only the layers after them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers.masking_utils import create_bidirectional_mask

from utils.encoders.families import family_of, last_norm
from utils.encoders.frames import Frames
from utils.encoders.freezing import count_frozen_layers, layer_output

MAX_PADDING = 0.05
"""Maximum ratio of padded to real frames in a forward pass. Padding is masked: it costs only time."""


class TunedLayers(torch.nn.Module):
    """The last layers of a stock classifier and its head, with shared weights.

    Args:
        model: a stock classifier.
        num_layers: number of transformer layers, counted from the last one; more than there are means all.
    """

    def __init__(self, model: torch.nn.Module, num_layers: int):
        super().__init__()
        layers = model.base_model.encoder.layers
        self.num_frozen = count_frozen_layers(model, num_layers)
        self.layers = layers[self.num_frozen :]
        self.last_norm = last_norm(model)
        self.projector = model.projector
        self.classifier = model.classifier
        self._config = model.config
        self._max_padding = MAX_PADDING if family_of(model.config).layers_mask else 0.0
        # In WavLM the first layer, which may be frozen, computes the relative position bias of all layers.
        self._compute_position_bias = getattr(getattr(layers[0], "attention", None), "compute_bias", None)

    def forward(self, input_values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits (num_clips, num_labels), for each clip the same as for that clip alone.

        Args:
            input_values: the input of the first of these layers for each clip, (num_frames, hidden_size), on
                the device of the weights. Clips of similar length share a forward pass.
        """
        pooled = [None] * len(input_values)
        for rows in similar_length_groups([len(frames) for frames in input_values], self._max_padding):
            for row, mean in zip(rows, self._means([input_values[row] for row in rows]), strict=True):
                pooled[row] = mean
        return self.classifier(self.projector(torch.stack(pooled)))

    def _means(self, clips: list[torch.Tensor]) -> torch.Tensor:
        """Return the time means (num_clips, hidden_size) of the output of the last layer."""
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
        for layer in self.layers:
            output = layer(hidden, **options)
            if is_wavlm:
                options["position_bias"] = output[1]
            hidden = layer_output(output)
        return (self.last_norm(hidden) * is_frame[..., None]).sum(dim=1) / lengths[:, None]


def similar_length_groups(lengths: Sequence[int], max_padding: float = MAX_PADDING) -> Iterator[list[int]]:
    """Yield groups of rows; padding a group to its longest clip adds at most this share to its frames."""
    group, total = [], 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        total += lengths[row]
        if group and lengths[group[0]] * (len(group) + 1) > (1 + max_padding) * total:
            yield group
            group, total = [], lengths[row]
        group.append(row)
    yield group


class FrozenClips(torch.utils.data.Dataset):
    """The outputs of the frozen layers for the clips of one split, in the format of the Trainer.

    `clips[i]`, or `clips[i, ...]` with a key of the sampler, has the `label` and, for `TunedLayers`, the
    `input_values`: float32 (num_frames, hidden_size), the input of the first tuned layer.

    Args:
        frames: of the corpus.
        rows: of the split, in `frames`.
        labels: of these rows.
    """

    def __init__(self, frames: Frames, rows: np.ndarray, labels: Sequence[int]):
        self.frames = frames
        self.rows = rows
        self.labels = np.asarray(labels)
        self.lengths = np.diff(frames.ends, prepend=0)[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int, int]) -> dict:
        index = key[0] if isinstance(key, tuple) else key
        frames = torch.from_numpy(self.frames[self.rows[index]])
        return {"input_values": frames, "label": int(self.labels[index])}
