"""A classifier with frozen lower layers comes in; the part that learns goes out, and what it hears of clips.

What the frozen part makes of a clip never changes, so it is computed once; training runs the rest alone. The
sum over layers takes the time means of the frozen ones: everything after it is affine, so that is the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from utils.audio import SAMPLING_RATE
from utils.machines import from_other_disks


class TunedLayers(torch.nn.Module):
    """The last transformer layers of a stock classifier and its head; it shares their weights with it.

    Args:
        model: a stock classifier over raw waveforms with `use_weighted_layer_sum`.
        num_layers: how many of the last layers.
    """

    def __init__(self, model: torch.nn.Module, num_layers: int):
        super().__init__()
        encoder = model.base_model.encoder
        self.num_frozen = len(encoder.layers) - num_layers
        self.layers = encoder.layers[self.num_frozen :]
        self.projector = model.projector
        self.classifier = model.classifier
        self.layer_weights = model.layer_weights
        # WavLM's first layer says for all of them how much distance matters. In a list it is no part of this
        # module: it may be frozen.
        self._distances = [getattr(encoder.layers[0].attention, "compute_bias", None)]

    def forward(self, input_values: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return logits (num_clips, num_labels).

        Args:
            input_values: of each clip what `frozen_part` returned for it. Equally long ones share a pass.
        """
        lengths = [len(frames) for frames, _ in input_values]
        pooled = [None] * len(lengths)
        for length in sorted(set(lengths)):
            rows = [row for row in range(len(lengths)) if lengths[row] == length]
            hidden = torch.stack([input_values[row][0] for row in rows])
            means = [*torch.stack([input_values[row][1] for row in rows]).unbind(dim=1)]
            means += [state.mean(dim=1) for state in self._run(hidden)]
            weights = self.layer_weights.softmax(dim=-1)
            together = (torch.stack(means, dim=1) * weights[:, None]).sum(dim=1)
            for row, values in zip(rows, together, strict=True):
                pooled[row] = values
        return self.classifier(self.projector(torch.stack(pooled)))

    def _run(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Return the hidden states after each layer."""
        options = {}
        if self._distances[0] and self.num_frozen:
            with torch.no_grad():
                bias = self._distances[0](hidden.shape[1], hidden.shape[1])
            options["position_bias"] = bias[None].repeat(len(hidden), 1, 1, 1).flatten(0, 1)
        states = []
        for layer in self.layers:
            output = layer(hidden, **options)
            if isinstance(output, tuple):  # a WavLM's
                hidden, options["position_bias"] = output[:2]
            else:
                hidden = output
            states.append(hidden)
        return states


class FrozenClips(torch.utils.data.Dataset):
    """What the frozen part of an encoder makes of clips, in a file of memory-mapped frames.

    `clips[i]`, or `clips[i, ...]` as the sampler asks for it, has the `input_values` that `TunedLayers` takes
    and the `label`. Of several processes, on one machine or on several, each fills in its share. A killed
    pass goes on where it was.

    Args:
        model: a stock classifier; it is put into eval mode.
        feature_extractor: the encoder's.
        waveforms: Dataset with a `waveform` per row (float32, 16 kHz).
        num_layers: how many of the last layers are tuned.
        folder: for the files; made where it is missing. About 0.5 MB per clip of a base encoder.
    """

    def __init__(self, model: torch.nn.Module, feature_extractor, waveforms, num_layers: int, folder: Path):
        rows = waveforms.select_columns("waveform").with_format("numpy")
        base = model.base_model.eval()
        num_states = len(base.encoder.layers) - num_layers + 1
        self.lengths = np.array([len(row["waveform"]) for row in rows])
        num_frames = base._get_feat_extract_output_lengths(torch.tensor(self.lengths)).numpy()
        self.ends = np.cumsum(num_frames)
        hidden_size = model.config.hidden_size

        folder.mkdir(parents=True, exist_ok=True)
        state = PartialState()
        with state.local_main_process_first():
            self.frames = _open(folder / "frames.f32", (self.ends[-1], hidden_size), np.float32)
            self.means = _open(folder / "means.f32", (len(rows), num_states, hidden_size), np.float32)
            done = _open(folder / "done.u8", (len(rows),), np.uint8)
        mine = [row for row in range(state.process_index, len(rows), state.num_processes) if not done[row]]
        silent = None if state.is_main_process else True
        for row in tqdm(mine, "Running the frozen layers", unit="clip", disable=silent):
            values = feature_extractor(rows[row]["waveform"], sampling_rate=SAMPLING_RATE)["input_values"][0]
            clip = torch.as_tensor(values).to(model.device)
            frames, means = frozen_part(model, clip, num_layers)
            self._keep(row, (frames.numpy(), means.numpy()))
            done[row] = 1
        state.wait_for_everyone()
        for row, values in from_other_disks(range(len(rows)), done, self._kept):
            self._keep(row, values)
            done[row] = 1
        self.rows = np.arange(len(rows))
        self.labels = None

    def select(self, rows: np.ndarray, labels: np.ndarray) -> "FrozenClips":
        """Return some of the clips, with their labels."""
        chosen = object.__new__(FrozenClips)
        chosen.__dict__ |= self.__dict__ | {
            "rows": self.rows[rows],
            "lengths": self.lengths[rows],
            "labels": np.asarray(labels),
        }
        return chosen

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int, int]) -> dict:
        index = key[0] if isinstance(key, tuple) else key
        frames, means = self._kept(self.rows[index])
        return {
            "input_values": (torch.from_numpy(frames), torch.from_numpy(means)),
            "label": int(self.labels[index]),
        }

    def _kept(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a copy of a clip's frames, and of its means of the frozen layers."""
        start = self.ends[row - 1] if row else 0
        return np.array(self.frames[start : self.ends[row]]), np.array(self.means[row])

    def _keep(self, row: int, values: tuple[np.ndarray, np.ndarray]) -> None:
        start = self.ends[row - 1] if row else 0
        self.frames[start : self.ends[row]], self.means[row] = values


def _open(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Map a file, and make it, of zeros, where it is missing or another size."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    mode = "r+" if path.exists() and path.stat().st_size == size else "w+"
    return np.memmap(path, dtype, mode, shape=shape)


@torch.inference_mode()
def frozen_part(
    model: torch.nn.Module, clip: torch.Tensor, num_layers: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the frozen layers make of a clip, float32 on the CPU.

    Args:
        model: a stock classifier in eval mode.
        clip: (num_samples,) as its feature extractor makes it, on its device.
        num_layers: how many of the last layers are tuned.

    Returns:
        frames: (num_frames, hidden_size), which the first tuned layer is given.
        means: (num_frozen_layers + 1, hidden_size), the time means of the hidden states up to there.
    """
    states = model.base_model(clip[None], output_hidden_states=True).hidden_states
    kept = states[: len(states) - num_layers]
    means = torch.cat([state.mean(dim=1) for state in kept])
    return kept[-1][0].float().cpu(), means.float().cpu()
