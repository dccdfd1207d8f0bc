"""Time means of the hidden states of a frozen encoder for all clips of a corpus, cached on disk (PyTorch).

In a stock classifier all operations after the encoder are affine, so these means describe a clip completely
for a frozen encoder. One pass serves every fold, seed and set of labels. The same pass can also store the
input of the first layer that will be fine-tuned (`Frames`).
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from utils.data.audio import SAMPLING_RATE
from utils.data.decoding import DECODING_VERSION, Waveforms
from utils.encoders.distributed import receive_from_other_machines
from utils.encoders.frames import Frames
from utils.encoders.freezing import num_used_layers
from utils.encoders.hidden_states import hidden_states, layer_means
from utils.encoders.shards import cached_digests, map_means, write_shard
from utils.runtime import logger, write_bytes

_VERSION = 1  # raise it whenever the same encoder and clip would give other means

SHARD = 64
"""Clips per file of the cache: a killed pass loses at most this many clips per process."""

MAX_SAMPLES_PER_BATCH = 64 * 4 * 16_000
"""On a GPU: 64 clips of 4 seconds, including padding. On a CPU each batch is one clip."""

_HEAD_SETTINGS = {
    *("id2label", "label2id", "problem_type", "use_weighted_layer_sum", "classifier_proj_size"),
    *("architectures", "transformers_version", "_name_or_path", "dtype"),
}
"""Settings in the config of a classifier that do not change the output of its encoder."""

Batch = tuple[list[int], tuple[torch.Tensor, ...], torch.Tensor]
"""Rows of the clips, and their `hidden_states`: states and numbers of frames."""


def embed(
    model: torch.nn.Module,
    feature_extractor,
    waveforms,
    num_samples: Sequence[int],
    digests: Sequence[str],
    cache_dir: Path,
    frames: Frames | None = None,
) -> np.ndarray:
    """Return the time means of the hidden states of many clips; compute only those that are not cached.

    The pass is in float32, on a GPU too. With several processes, on one or several machines, each computes
    its share of the clips, and all return the whole result.

    Args:
        model: a stock classifier over raw waveforms.
        feature_extractor: the one of its encoder.
        waveforms: Dataset with a `waveform` per row (float32, 16 kHz).
        num_samples: length of each row.
        digests: `file_digest` of each row.
        cache_dir: folder of the cache; created if it does not exist.
        frames: missing rows are filled in: in the same pass, or, for clips whose means are cached, in a pass
            through the first layers only.

    Returns:
        float32 (num_clips, num_used_layers + 1, hidden_size), memory-mapped; 40 KB per clip for an encoder of
        base size. See `freezing.num_used_layers`.
    """
    state = PartialState()
    model.eval()
    folder = cache_dir / f"embeddings-{_encoder_key(model, feature_extractor)}"
    folder.mkdir(parents=True, exist_ok=True)
    _exchange(folder, frames)
    uncached, unfilled = _pending_rows(folder, num_samples, digests, frames)
    state.wait_for_everyone()  # no process may write before all know what is missing
    encode = functools.partial(_encode, model, feature_extractor, waveforms, num_samples)
    if uncached:
        logger.info("Encoding %d of %d clips, cached in %s", len(uncached), len(digests), folder)
        _write_means(folder, encode(uncached, None, "Encoding clips"), digests, frames)
    if unfilled:
        for rows, states, num_frames in encode(unfilled, frames.layer + 1, "Running the frozen layers"):
            _fill(frames, rows, states, num_frames)
    state.wait_for_everyone()
    _exchange(folder, frames)
    return map_means(folder, digests)[:, : num_used_layers(model.config) + 1]


def _encoder_key(model: torch.nn.Module, feature_extractor) -> str:
    """Return a digest of all that determines the means, apart from the clip.

    It depends on the weights and settings of the encoder, not on the name of the checkpoint.
    """
    settings = [
        _VERSION,
        DECODING_VERSION,
        "None",  # meant float32 when other precisions were supported; keeps older caches valid
        feature_extractor.to_json_string(),
        type(model).__name__,
        *(item for item in sorted(model.config.to_dict().items()) if item[0] not in _HEAD_SETTINGS),
    ]
    digest = xxhash.xxh3_128(repr(settings).encode())
    for name, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _pending_rows(
    folder: Path, num_samples: Sequence[int], digests: Sequence[str], frames: Frames | None
) -> tuple[list[int], list[int]]:
    """Return the rows without cached means, and those with cached means but without frames.

    Both are sorted by length, the longest clip first: running out of memory happens at the start.
    """
    cached = cached_digests(folder)
    order = sorted(range(len(digests)), key=lambda row: (-num_samples[row], digests[row]))
    uncached = [row for row in order if digests[row] not in cached]
    missing = set(frames.missing()) if frames else set()
    return uncached, [row for row in order if row in missing and digests[row] in cached]


def _encode(
    model,
    feature_extractor,
    waveforms,
    num_samples,
    rows: list[int],
    num_layers: int | None,
    description: str,
) -> Iterator[Batch]:
    """Yield the `hidden_states` of this process's share of the rows, batch by batch."""
    state = PartialState()
    own_rows = rows[state.process_index :: state.num_processes]
    max_samples = MAX_SAMPLES_PER_BATCH if model.device.type == "cuda" else 0
    clips = Waveforms(waveforms)
    disable = None if state.is_main_process else True
    with tqdm(total=len(own_rows), desc=description, unit="clip", disable=disable) as progress:
        for batch in _batches(own_rows, num_samples, max_samples):
            name = feature_extractor.model_input_names[0]
            values = [feature_extractor(clips[row], sampling_rate=SAMPLING_RATE)[name][0] for row in batch]
            on_device = [torch.as_tensor(each).to(model.device) for each in values]
            yield batch, *hidden_states(model, on_device, num_layers)
            progress.update(len(batch))


def _batches(rows: Sequence[int], lengths: Sequence[int], max_samples: int) -> Iterator[list[int]]:
    """Split rows, sorted from long to short, into batches.

    A batch has at most `max_samples`, including padding, or is a single clip.
    """
    batch = []
    for row in rows:
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_samples:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _write_means(
    folder: Path, batches: Iterable[Batch], digests: Sequence[str], frames: Frames | None
) -> None:
    """Write the layer means of encoded batches to the cache, and their frames to `frames`."""
    shard = {}
    for rows, states, num_frames in batches:
        means = layer_means(states, num_frames).cpu().numpy()
        shard |= dict(zip((digests[row] for row in rows), means, strict=True))
        if frames:
            _fill(frames, rows, states, num_frames)
        if len(shard) >= SHARD:
            write_shard(folder, shard)
            shard = {}
    if shard:
        write_shard(folder, shard)


def _fill(frames: Frames, rows: list[int], states: Sequence[torch.Tensor], num_frames: torch.Tensor) -> None:
    """Store the input of the layer `frames.layer` for the rows of a batch."""
    values = states[frames.layer].float().cpu().numpy()
    for row, padded, length in zip(rows, values, num_frames.tolist(), strict=True):
        frames[row] = padded[:length]


def _exchange(folder: Path, frames: Frames | None) -> None:
    """Copy cached means and frames that other machines have computed to the disk of this machine."""
    local_names = {path.name for path in folder.glob("*.npz")}
    names = sorted(set(gather_object(sorted(local_names))))
    for name, content in receive_from_other_machines(
        names, [name in local_names for name in names], lambda name: (folder / name).read_bytes()
    ):
        write_bytes(folder / name, content)
    if frames:
        is_filled = np.ones(len(frames.ends), dtype=bool)
        is_filled[frames.missing()] = False
        rows = range(len(is_filled))
        for row, values in receive_from_other_machines(rows, is_filled, frames.__getitem__):
            frames[row] = values
