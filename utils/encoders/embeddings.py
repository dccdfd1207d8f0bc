"""What a frozen encoder computes from all clips of a corpus (PyTorch).

In a stock classifier all operations after the encoder are affine, so the time means of its output describe a
clip completely for a frozen encoder. They are cached on disk: one pass serves every fold, seed and set of
labels. A pass through the first layers fills the `Frames`, the input of the first layer that is fine-tuned.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
import xxhash
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from utils.data.decoding import DECODING_VERSION, Waveforms
from utils.encoders.distributed import receive_from_other_machines
from utils.encoders.families import extract_input
from utils.encoders.frames import Frames
from utils.encoders.freezing import unpadded_logits
from utils.encoders.hidden_states import hidden_states, output_means
from utils.encoders.shards import cached_digests, map_means, write_shard
from utils.runtime import InputError, logger, write_bytes

_VERSION = 2  # raise it whenever the same encoder and clip would give other means

SHARD = 64
"""Clips per file of the cache: a killed pass loses at most this many clips per process."""

MAX_SAMPLES_PER_BATCH = 64 * 4 * 16_000
"""On a GPU: 64 clips of 4 seconds, including padding. On a CPU each batch is one clip."""

_HEAD_SETTINGS = {
    *("id2label", "label2id", "problem_type", "use_weighted_layer_sum", "classifier_proj_size"),
    *("architectures", "transformers_version", "_name_or_path", "dtype"),
}
"""Settings in the config of a classifier that do not change the output of its encoder."""

BATCH_TOLERANCE, HEAD_TOLERANCE = 1e-3, 0.05
"""Of the means of a clip in a batch and alone, and of the logits of its head and of the classifier, relative
to the standard deviation. Arithmetic with fewer bits (TF32) differs by less, a wrong computation by more."""

Batch = tuple[list[int], tuple[torch.Tensor, ...], torch.Tensor]
"""Rows of the clips, and their `hidden_states`: states and numbers of frames."""


def embed(
    model: torch.nn.Module,
    feature_extractor,
    waveforms,
    num_samples: Sequence[int],
    digests: Sequence[str],
    cache_dir: Path,
) -> np.ndarray:
    """Return the `output_means` of many clips; compute only those that are not cached.

    The pass is in float32, on a GPU too. With several processes, on one or several machines, each computes
    its share of the clips, and all return the whole result.

    Args:
        model: a stock classifier.
        feature_extractor: the one of its encoder.
        waveforms: Dataset with a `waveform` per row (float32, 16 kHz).
        num_samples: length of each row.
        digests: `file_digest` of each row.
        cache_dir: folder of the cache; created if it does not exist.

    Returns:
        float32 (num_clips, num_layers, hidden_size), memory-mapped; 40 KB per clip for an encoder of base
        size.

    Raises:
        InputError: the encoder is not computed correctly, see `shares_batches`.
    """
    state = PartialState()
    folder = cache_dir / f"embeddings-{_encoder_key(model, feature_extractor)}"
    folder.mkdir(parents=True, exist_ok=True)
    _exchange_means(folder)
    cached = cached_digests(folder)
    # By length, the longest clip first: running out of memory happens at the start.
    order = sorted(range(len(digests)), key=lambda row: (-num_samples[row], digests[row]))
    uncached = [row for row in order if digests[row] not in cached]
    state.wait_for_everyone()  # no process may write before all know what is missing
    if uncached:
        logger.info("Encoding %d of %d clips, cached in %s", len(uncached), len(digests), folder)
        batches = _encode(model, feature_extractor, waveforms, num_samples, uncached, None, "Encoding clips")
        _write_means(folder, model, batches, digests)
    state.wait_for_everyone()
    _exchange_means(folder)
    return map_means(folder, digests)


def fill_frames(
    model: torch.nn.Module, feature_extractor, waveforms, num_samples: Sequence[int], frames: Frames
) -> None:
    """Fill the missing rows of `frames` in a pass through the layers before `frames.layer`.

    Args:
        model, feature_extractor, waveforms, num_samples: as of `embed`.
    """
    _exchange_frames(frames)
    missing = sorted(frames.missing(), key=lambda row: (-num_samples[row], row))
    PartialState().wait_for_everyone()
    if missing:
        description = "Running the frozen layers"
        for rows, states, num_frames in _encode(
            model, feature_extractor, waveforms, num_samples, missing, frames.layer, description
        ):
            values = states[frames.layer].float().cpu().numpy()
            for row, padded, length in zip(rows, values, num_frames.tolist(), strict=True):
                frames[row] = padded[:length]
    PartialState().wait_for_everyone()
    _exchange_frames(frames)


def _encoder_key(model: torch.nn.Module, feature_extractor) -> str:
    """Return a digest of all that determines the means, apart from the clip.

    It depends on the weights and settings of the encoder and on the kind of device, not on the name of the
    checkpoint.
    """
    settings = [
        _VERSION,
        DECODING_VERSION,
        model.device.type,
        feature_extractor.to_json_string(),
        type(model).__name__,
        *(item for item in sorted(model.config.to_dict().items()) if item[0] not in _HEAD_SETTINGS),
    ]
    digest = xxhash.xxh3_128(repr(settings).encode())
    for name, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.inference_mode()
def shares_batches(model: torch.nn.Module, clips: Sequence[torch.Tensor]) -> bool:
    """Return whether clips of unlike length may share a batch: their means are those of each clip alone.

    Args:
        model: a stock classifier, in eval mode.
        clips: some outputs of its feature extractor, of unlike length.

    Raises:
        InputError: its head gives other logits for the means of a clip than the classifier for the clip.
    """
    alone = torch.cat([output_means(model, *hidden_states(model, [clip])) for clip in clips])
    logits = model.classifier(model.projector(alone[:, -1]))
    if not _agree(logits, unpadded_logits(model, clips), HEAD_TOLERANCE):
        raise InputError(
            f"--model_name_or_path: this {model.config.model_type} is computed differently by transformers "
            f"{transformers.__version__}; its probe would not be its classifier. Expected another encoder"
        )
    return _agree(output_means(model, *hidden_states(model, clips)), alone, BATCH_TOLERANCE)


def _agree(values: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return bool((values - expected).abs().max() <= tolerance * expected.std())


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
    model.eval()
    own_rows = rows[state.process_index :: state.num_processes]
    clips = Waveforms(waveforms)

    def inputs(rows: Sequence[int]) -> list[torch.Tensor]:
        values = (extract_input(feature_extractor, clips[row]) for row in rows)
        return [torch.as_tensor(each).to(model.device) for each in values]

    mixes = shares_batches(model, inputs([*dict.fromkeys((rows[0], rows[-1]))]))
    max_samples = MAX_SAMPLES_PER_BATCH if model.device.type == "cuda" else 0
    disable = None if state.is_main_process else True
    with tqdm(total=len(own_rows), desc=description, unit="clip", disable=disable) as progress:
        for batch in _batches(own_rows, num_samples, max_samples, mixes):
            yield batch, *hidden_states(model, inputs(batch), num_layers)
            progress.update(len(batch))


def _batches(
    rows: Sequence[int], lengths: Sequence[int], max_samples: int, mixes: bool
) -> Iterator[list[int]]:
    """Split rows, sorted from long to short, into batches.

    A batch has at most `max_samples`, including padding, or is a single clip. Unless `mixes`, all its clips
    have the same length.
    """
    batch = []
    for row in rows:
        longest = lengths[batch[0]] if batch else 0
        is_full = (len(batch) + 1) * longest > max_samples
        if batch and (is_full or (lengths[row] != longest and not mixes)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _write_means(
    folder: Path, model: torch.nn.Module, batches: Iterable[Batch], digests: Sequence[str]
) -> None:
    """Write the means of encoded batches to the cache."""
    shard = {}
    for rows, states, num_frames in batches:
        means = output_means(model, states, num_frames).cpu().numpy()
        shard |= dict(zip((digests[row] for row in rows), means, strict=True))
        if len(shard) >= SHARD:
            write_shard(folder, shard)
            shard = {}
    if shard:
        write_shard(folder, shard)


def _exchange_means(folder: Path) -> None:
    """Copy cached means that other machines have computed to the disk of this machine."""
    local_names = {path.name for path in folder.glob("*.npz")}
    names = sorted(set(gather_object(sorted(local_names))))
    for name, content in receive_from_other_machines(
        names, [name in local_names for name in names], lambda name: (folder / name).read_bytes()
    ):
        write_bytes(folder / name, content)


def _exchange_frames(frames: Frames) -> None:
    """Copy rows that other machines have computed to the disk of this machine."""
    is_filled = np.ones(len(frames.ends), dtype=bool)
    is_filled[frames.missing()] = False
    rows = range(len(is_filled))
    for row, values in receive_from_other_machines(rows, is_filled, frames.__getitem__):
        frames[row] = values
