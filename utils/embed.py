"""A frozen encoder and clips come in; the time mean of each of its hidden layers goes out, kept on disk.

Everything after the encoder is affine in a stock classifier, so these means are all that a frozen encoder
has to say of a clip: one pass serves every fold, seed and label set.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from utils.audio import DECODING_VERSION, SAMPLING_RATE
from utils.machines import from_other_disks
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
def layer_means(model: torch.nn.Module, clips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the time mean of each hidden state, the same for each clip as for that clip alone.

    Args:
        model: a stock classifier over raw waveforms, in eval mode.
        clips: tensors (num_samples,) as its feature extractor makes them, on its device.

    Returns:
        float32 (num_clips, num_hidden_layers + 1, hidden_size); entry 0 is what the first layer is given.
    """
    base = model.base_model
    lengths = torch.tensor([len(clip) for clip in clips])
    values = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    mask = None
    if len(lengths.unique()) > 1:
        mask = (torch.arange(values.shape[1]) < lengths[:, None]).long().to(values.device)
    convolutions = base.feature_extractor
    base.feature_extractor = UnpaddedConvolutions(convolutions, lengths.tolist())
    try:
        states = base(values, attention_mask=mask, output_hidden_states=True).hidden_states
    finally:
        base.feature_extractor = convolutions
    num_frames = base._get_feat_extract_output_lengths(lengths).to(values.device)
    sounds = torch.arange(states[0].shape[1], device=values.device) < num_frames[:, None]
    sums = [(state.float() * sounds[..., None]).sum(dim=1) for state in states]
    return torch.stack(sums, dim=1) / num_frames[:, None, None]


def embed(
    model: torch.nn.Module,
    feature_extractor,
    waveforms,
    digests: Sequence[str],
    cache_dir: Path,
    autocast: torch.dtype | None = None,
) -> np.ndarray:
    """Return the time means of all hidden states of many clips; compute those that no earlier run kept.

    With several processes, on one machine or on several, each computes its share, and all get the whole
    result. A killed pass has lost at most the last `SHARD` clips of each process.

    Args:
        model: a stock classifier over raw waveforms.
        feature_extractor: the encoder's.
        waveforms: Dataset with a `waveform` per row (float32, 16 kHz).
        digests: the rows' `audio.file_digest`s.
        cache_dir: folder of the cache; made where it is missing.
        autocast: compute in this precision (a GPU's bfloat16 or float16); float32 without it.

    Returns:
        float32 (num_clips, num_hidden_layers + 1, hidden_size), mapped into memory: 40 KB per clip of a base
        encoder.
    """
    state = PartialState()
    model.eval()
    folder = cache_dir / f"embeddings-{_encoder_key(model, feature_extractor, autocast)}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = waveforms.select_columns("waveform").with_format("numpy")
    _fetch_shards(folder)  # no process writes before all agree on what is missing
    kept = {digest for shard, _ in _read_shards(folder) for digest in shard}
    state.wait_for_everyone()
    missing = {digest: row for row, digest in enumerate(digests) if digest not in kept}
    if missing:
        logger.info("Encoding %d of %d clips, to be kept in %s", len(missing), len(digests), folder)
        lengths = {digest: len(rows[row]["waveform"]) for digest, row in missing.items()}
        # The longest first: what does not fit into memory fails at once.
        order = sorted(missing, key=lambda digest: (-lengths[digest], digest))
        mine = order[state.process_index :: state.num_processes]
        budget = MAX_SAMPLES_PER_BATCH if model.device.type == "cuda" else 0
        precision = contextlib.nullcontext()
        if autocast:
            precision = torch.autocast(model.device.type, autocast)
        shard = {}
        silent = None if state.is_main_process else True
        with tqdm(total=len(mine), desc="Encoding clips", unit="clip", disable=silent) as progress, precision:
            for batch in _batches(mine, lengths, budget):
                clips = [
                    torch.as_tensor(
                        feature_extractor(rows[missing[digest]]["waveform"], sampling_rate=SAMPLING_RATE)[
                            "input_values"
                        ][0]
                    ).to(model.device)
                    for digest in batch
                ]
                shard |= dict(zip(batch, layer_means(model, clips).cpu().numpy(), strict=True))
                progress.update(len(batch))
                if len(shard) >= SHARD:
                    _write_shard(folder, shard)
                    shard = {}
        if shard:
            _write_shard(folder, shard)
        state.wait_for_everyone()
        _fetch_shards(folder)
    return _map_means(folder, digests)


def _batches(digests: Sequence[str], lengths: dict[str, int], budget: int) -> Iterator[list[str]]:
    """Group clips, the longest first: a batch with its padding has at most `budget` samples, or one clip."""
    batch = []
    for digest in digests:
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(digest)
    if batch:
        yield batch


def _encoder_key(model: torch.nn.Module, feature_extractor, autocast: torch.dtype | None) -> str:
    """Return a digest of all that the means depend on beside the clip: whatever a checkpoint is called, its
    weights and settings say which one it is."""
    settings = [
        _VERSION,
        DECODING_VERSION,
        str(autocast),
        feature_extractor.to_json_string(),
        type(model).__name__,
        *(item for item in sorted(model.config.to_dict().items()) if item[0] not in _NOT_THE_ENCODERS),
    ]
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


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


def _fetch_shards(folder: Path) -> None:
    """Write the shards to this machine's disk that other machines have computed."""
    own = {path.name for path in folder.glob("*.npz")}
    names = sorted(set(gather_object(sorted(own))))
    for name, content in from_other_disks(
        names, [name in own for name in names], lambda name: (folder / name).read_bytes()
    ):
        write_bytes(folder / name, content)


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
