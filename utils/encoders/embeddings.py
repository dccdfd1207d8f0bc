"""A frozen encoder and clips come in; the time mean of each of its hidden layers goes out, kept on disk.

Everything after the encoder is affine in a stock classifier, so these means are all that a frozen encoder
has to say of a clip: one pass serves every fold, seed and label set. The same pass gives the frames that
layers to be tuned are given.
"""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
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
from utils.encoders.freezing import layer_output, num_used_layers
from utils.runtime import logger, write_bytes

_VERSION = 1  # of what is computed here

SHARD = 64
"""Clips per file on disk: what a kill can cost."""

MAX_SAMPLES_PER_BATCH = 64 * 4 * 16_000
"""On a GPU: 64 clips of 4 seconds, padding included."""

_NOT_THE_ENCODERS = {
    *("id2label", "label2id", "problem_type", "use_weighted_layer_sum", "classifier_proj_size"),
    *("architectures", "transformers_version", "_name_or_path", "dtype"),
}
"""Settings of a classifier's config that say nothing of what its encoder computes."""


class UnpaddedConvolutions(torch.nn.Module):
    """Stands in for the convolutions of an encoder: padded clips go through them one length at a time.

    Encoders that normalise over time (wav2vec2-base) would otherwise mix padding into every frame. What comes
    after them leaves padding out when it is given an attention mask.

    Args:
        convolutions: the encoder's own.
        lengths: of the clips of the next batch, in samples.
    """

    def __init__(self, convolutions: torch.nn.Module, lengths: Sequence[int]):
        super().__init__()
        self.convolutions = convolutions
        self.lengths = torch.tensor(lengths)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """(num_clips, num_samples) -> (num_clips, num_channels, num_frames)"""
        features = None
        for length in self.lengths.unique(sorted=True).flip(0):  # the longest says how many frames there are
            rows = (self.lengths == length).nonzero().flatten().to(input_values.device)
            own = self.convolutions(input_values[rows, :length])
            if features is None:
                features = own.new_zeros(len(input_values), *own.shape[1:])
            features[rows, :, : own.shape[2]] = own
        return features


@torch.inference_mode()
def hidden_states(
    model: torch.nn.Module, clips: Sequence[torch.Tensor], num_layers: int | None = None
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Return the hidden states, the same for each clip as for that clip alone.

    Args:
        model: a stock classifier over raw waveforms, in eval mode.
        clips: tensors (num_samples,) as its feature extractor makes them, on its device.
        num_layers: only so many of the first layers are run; by default all.

    Returns:
        states: num_layers + 1 of (num_clips, num_frames, hidden_size), first what the first layer is given.
            What is beyond the end of a shorter clip means nothing.
        num_frames: int64 (num_clips,), of each clip.
    """
    base = model.base_model
    lengths = torch.tensor([len(clip) for clip in clips])
    values = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    mask = None
    if len(lengths.unique()) > 1:
        mask = (torch.arange(values.shape[1]) < lengths[:, None]).long().to(values.device)
    convolutions, layers = base.feature_extractor, base.encoder.layers
    base.feature_extractor = UnpaddedConvolutions(convolutions, lengths.tolist())
    base.encoder.layers = layers[: None if num_layers is None else max(num_layers, 1)]
    # Not with `output_hidden_states`, whose last state depends on the version (see `num_used_layers`).
    states = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, args, options: states.append(args[0] if args else options["hidden_states"]),
            with_kwargs=True,
        )
        for layer in base.encoder.layers
    ]
    hooks += [
        base.encoder.layers[-1].register_forward_hook(
            lambda layer, args, output: states.append(layer_output(output))
        )
    ]
    try:
        base(values, attention_mask=mask)
    finally:
        base.feature_extractor, base.encoder.layers = convolutions, layers
        for hook in hooks:
            hook.remove()
    states = tuple(states[: None if num_layers is None else num_layers + 1])
    return states, base._get_feat_extract_output_lengths(lengths).to(values.device)


def layer_means(states: Sequence[torch.Tensor], num_frames: torch.Tensor) -> torch.Tensor:
    """Return the time means of `hidden_states`, float32 (num_clips, num_states, hidden_size)."""
    sounds = torch.arange(states[0].shape[1], device=num_frames.device) < num_frames[:, None]
    sums = [(state.float() * sounds[..., None]).sum(dim=1) for state in states]
    return torch.stack(sums, dim=1) / num_frames[:, None, None]


def embed(
    model: torch.nn.Module,
    feature_extractor,
    waveforms,
    num_samples: Sequence[int],
    digests: Sequence[str],
    cache_dir: Path,
    frames: Frames | None = None,
) -> np.ndarray:
    """Return the time means of the hidden states of many clips that a head can rest on (see
    `encoder.num_used_layers`); compute those that no earlier run kept.

    In float32, on a GPU too: it is one pass, and what learns from it is scored in float32 later. With several
    processes, on one machine or on several, each computes its share, and all get the whole result. A killed
    pass has lost at most the last `SHARD` clips of each process.

    Args:
        model: a stock classifier over raw waveforms.
        feature_extractor: the encoder's.
        waveforms: Dataset with a `waveform` per row (float32, 16 kHz).
        num_samples: the rows' lengths.
        digests: the rows' `audio.file_digest`s.
        cache_dir: folder of the cache; made where it is missing.
        frames: is filled where it has none yet: in the same pass, or, of clips whose means are kept, in one
            of the first layers alone.

    Returns:
        float32 (num_clips, num_used_layers + 1, hidden_size), mapped into memory: 40 KB per clip of a base
        encoder.
    """
    state = PartialState()
    model.eval()
    folder = cache_dir / f"embeddings-{_encoder_key(model, feature_extractor)}"
    folder.mkdir(parents=True, exist_ok=True)
    _fetch(folder, frames)  # no process writes before all agree on what is missing
    kept = {digest for shard, _ in _read_shards(folder) for digest in shard}
    # The longest first: what does not fit into memory fails at once.
    order = sorted(range(len(digests)), key=lambda row: (-num_samples[row], digests[row]))
    unknown = [row for row in order if digests[row] not in kept]
    unfilled = set(frames.missing()) if frames else set()
    unfilled = [row for row in order if row in unfilled and digests[row] in kept]
    state.wait_for_everyone()

    def encode(rows: list[int], num_layers: int | None, description: str) -> Iterator[tuple]:
        return _encode(model, feature_extractor, waveforms, num_samples, rows, num_layers, description)

    if unknown:
        logger.info("Encoding %d of %d clips, to be kept in %s", len(unknown), len(digests), folder)
        shard = {}
        for rows, states, num_frames in encode(unknown, None, "Encoding clips"):
            means = layer_means(states, num_frames).cpu().numpy()
            shard |= dict(zip((digests[row] for row in rows), means, strict=True))
            if frames:
                _fill(frames, rows, states, num_frames)
            if len(shard) >= SHARD:
                _write_shard(folder, shard)
                shard = {}
        if shard:
            _write_shard(folder, shard)
    if unfilled:
        for rows, states, num_frames in encode(unfilled, frames.layer + 1, "Running the frozen layers"):
            _fill(frames, rows, states, num_frames)
    state.wait_for_everyone()
    _fetch(folder, frames)
    return _map_means(folder, digests)[:, : num_used_layers(model.config) + 1]


def _encode(
    model,
    feature_extractor,
    waveforms,
    num_samples,
    rows: list[int],
    num_layers: int | None,
    description: str,
) -> Iterator[tuple[list[int], tuple[torch.Tensor, ...], torch.Tensor]]:
    """Yield batches of this process's share of the rows, with their `hidden_states`."""
    state = PartialState()
    mine = rows[state.process_index :: state.num_processes]
    budget = MAX_SAMPLES_PER_BATCH if model.device.type == "cuda" else 0
    clips = Waveforms(waveforms)
    disable = None if state.is_main_process else True
    with tqdm(total=len(mine), desc=description, unit="clip", disable=disable) as progress:
        for batch in _batches(mine, num_samples, budget):
            values = [
                feature_extractor(clips[row], sampling_rate=SAMPLING_RATE)["input_values"][0] for row in batch
            ]
            on_device = [torch.as_tensor(each).to(model.device) for each in values]
            yield batch, *hidden_states(model, on_device, num_layers)
            progress.update(len(batch))


def _fill(frames: Frames, rows: list[int], states: Sequence[torch.Tensor], num_frames: torch.Tensor) -> None:
    values = states[frames.layer].float().cpu().numpy()
    for row, own, length in zip(rows, values, num_frames.tolist(), strict=True):
        frames[row] = own[:length]


def _batches(rows: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group clips, the longest first: a batch with its padding has at most `budget` samples, or one clip."""
    batch = []
    for row in rows:
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _encoder_key(model: torch.nn.Module, feature_extractor) -> str:
    """Return a digest of all that the means depend on beside the clip: whatever a checkpoint is called, its
    weights and settings say which one it is."""
    settings = [
        _VERSION,
        DECODING_VERSION,
        "None",  # stood for float32 when there were other precisions; caches of that time stay good
        feature_extractor.to_json_string(),
        type(model).__name__,
        *(item for item in sorted(model.config.to_dict().items()) if item[0] not in _NOT_THE_ENCODERS),
    ]
    digest = xxhash.xxh3_128(repr(settings).encode())
    for name, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _write_shard(folder: Path, shard: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, digests=np.array(list(shard)), means=np.stack(list(shard.values())))
    name = hashlib.sha256("".join(shard).encode()).hexdigest()[:32]
    write_bytes(folder / f"{name}.npz", buffer.getvalue())


def _read_shards(folder: Path) -> Iterator[tuple[list[str], np.lib.npyio.NpzFile]]:
    """Yield the digests in each shard, and the open shard: its means are read when they are asked for."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as shard:
            yield shard["digests"].tolist(), shard


def _fetch(folder: Path, frames: Frames | None) -> None:
    """Write the shards and frames to this machine's disk that other machines have computed."""
    own = {path.name for path in folder.glob("*.npz")}
    names = sorted(set(gather_object(sorted(own))))
    for name, content in receive_from_other_machines(
        names, [name in own for name in names], lambda name: (folder / name).read_bytes()
    ):
        write_bytes(folder / name, content)
    if frames:
        have = np.ones(len(frames.ends), dtype=bool)
        have[frames.missing()] = False
        for row, values in receive_from_other_machines(range(len(have)), have, frames.__getitem__):
            frames[row] = values


def _map_means(folder: Path, digests: Sequence[str]) -> np.memmap:
    """Return the means of these clips in their order, in a nameless file beside the shards."""
    rows_of = {}
    for row, digest in enumerate(digests):
        rows_of.setdefault(digest, []).append(row)
    means = None
    for kept, shard in _read_shards(folder):
        if not any(digest in rows_of for digest in kept):
            continue
        values = shard["means"]
        if means is None:
            with tempfile.TemporaryFile(dir=folder) as file:
                means = np.memmap(file, np.float32, "w+", shape=(len(digests), *values.shape[1:]))
        for digest, own in zip(kept, values, strict=True):
            means[rows_of.pop(digest, [])] = own
    assert not rows_of, "clips that nobody has encoded"
    return means
