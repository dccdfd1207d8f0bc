"""A classifier with frozen lower layers comes in; the part that learns goes out, and what it hears of clips.

What the frozen part makes of a clip never changes, so it is computed once; training runs the rest alone. The
sum over layers takes the time means of the frozen ones: everything after it is affine, so that is the same.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers.masking_utils import create_bidirectional_mask

from utils.encoders.frames import Frames
from utils.encoders.freezing import layer_output, num_used_layers

MAX_PADDING = 0.05
"""Share of the frames of a pass that may be padding. It is masked, so it costs time and changes nothing."""


class TunedLayers(torch.nn.Module):
    """The last of the `num_used_layers` of a stock classifier and its head; it shares their weights with it.

    Args:
        model: a stock classifier over raw waveforms with `use_weighted_layer_sum`.
        num_layers: how many of the last layers.
    """

    def __init__(self, model: torch.nn.Module, num_layers: int):
        super().__init__()
        encoder, num_used = model.base_model.encoder, num_used_layers(model.config)
        self.num_frozen = num_used - num_layers
        self.layers = encoder.layers[self.num_frozen : num_used]
        self.projector = model.projector
        self.classifier = model.classifier
        self.layer_weights = model.layer_weights
        self._config = model.config
        # WavLM's first layer says for all of them how much distance matters. In a list it is no part of this
        # module: it may be frozen.
        self._distances = [getattr(encoder.layers[0].attention, "compute_bias", None)]

    def forward(self, input_values: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return logits (num_clips, num_labels), of each clip the same as of that clip alone.

        Args:
            input_values: of each clip as in `FrozenClips`, on the device of the weights. Those of like length
                share a pass.
        """
        pooled = [None] * len(input_values)
        for rows in alike([len(frames) for frames, _ in input_values]):
            means = [*torch.stack([input_values[row][1] for row in rows]).unbind(dim=1)]
            means += self._run([input_values[row][0] for row in rows])
            weights = self.layer_weights.softmax(dim=-1)[: len(means)]
            together = (torch.stack(means, dim=1) * weights[:, None]).sum(dim=1)
            for row, values in zip(rows, together, strict=True):
                pooled[row] = values
        return self.classifier(self.projector(torch.stack(pooled)))

    def _run(self, clips: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the time means (num_clips, hidden_size) after each layer."""
        hidden = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        lengths = torch.tensor([len(clip) for clip in clips], device=hidden.device)
        sounds = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        is_wavlm = self._distances[0] is not None
        options = {"attention_mask": None}
        if len({len(clip) for clip in clips}) > 1:
            mask = sounds if is_wavlm else create_bidirectional_mask(self._config, hidden, sounds)
            options["attention_mask"] = mask
        if is_wavlm and self.num_frozen:
            with torch.no_grad():
                bias = self._distances[0](hidden.shape[1], hidden.shape[1])
            options["position_bias"] = bias[None].repeat(len(hidden), 1, 1, 1).flatten(0, 1)
        means = []
        for layer in self.layers:
            output = layer(hidden, **options)
            if is_wavlm:
                options["position_bias"] = output[1]
            hidden = layer_output(output)
            means.append((hidden * sounds[..., None]).sum(dim=1) / lengths[:, None])
        return means


def alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield groups of clips that, padded to the longest, are at most `MAX_PADDING` longer than they are."""
    group, total = [], 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        total += lengths[row]
        if group and lengths[group[0]] * (len(group) + 1) > (1 + MAX_PADDING) * total:
            yield group
            group, total = [], lengths[row]
        group.append(row)
    yield group


class FrozenClips(torch.utils.data.Dataset):
    """What the frozen part of an encoder makes of the clips of a split.

    `clips[i]`, or `clips[i, ...]` as the sampler asks for it, has the `label` and, for `TunedLayers`, the
    `input_values`: float32 frames (num_frames, hidden_size), which the first tuned layer is given, and means
    (num_frozen_layers + 1, hidden_size), the time means of the hidden states up to there.

    Args:
        frames: of the corpus.
        means: float32 (num_clips, num_used_layers + 1, hidden_size) of the corpus, as from `embed.embed`.
        rows: the split's in both.
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
