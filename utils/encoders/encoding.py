"""What a frozen encoder computes from the clips of a run, once for all splits: embeddings, frames, probes."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from utils.data.loading import LoadedClips
from utils.data.splits import Plan, training_parts
from utils.encoders.embeddings import embed
from utils.encoders.frames import Frames
from utils.encoders.freezing import count_frames, num_used_layers
from utils.encoders.probe import Probe, fit_probes


@dataclass(frozen=True)
class EncodedClips:
    """The clips of a run as a frozen encoder sees them.

    Attributes:
        means: float32 (num_clips, num_layers + 1, hidden_size), time means of the hidden states, in the order
            of the table; None if nothing needs them.
        frames: the input of the first fine-tuned layer; None if the clips change in each epoch.
        probes: model name -> its fitted head; empty without probes.
        seconds: that this took.
    """

    means: np.ndarray | None
    frames: Frames | None
    probes: dict[str, Probe]
    seconds: float


def encode_clips(
    model: torch.nn.Module,
    extractor,
    clips: LoadedClips,
    plan: Plan,
    protocol: str,
    cache_dir: Path,
    with_probes: bool,
    frames_folder: Path | None,
    unfreeze_layers: int,
) -> EncodedClips:
    """Run the frozen encoder over the clips, and fit a probe for each model of the plan.

    Args:
        model: a stock classifier, on the device to use.
        frames_folder: where the input of the first fine-tuned layer is kept; None: it is not needed.
        unfreeze_layers: how many of the last layers are fine-tuned.
    """
    begun = time.perf_counter()
    table, means, frames, probes = clips.table, None, None, {}
    if frames_folder:
        num_frames = count_frames(model, table["num_samples"])
        first = num_used_layers(model.config) - unfreeze_layers
        with PartialState().main_process_first():
            frames = Frames(frames_folder, first, num_frames, model.config.hidden_size)
    if frames or with_probes:
        means = embed(
            model,
            extractor,
            clips.waveforms.select(table.index),
            table["num_samples"].tolist(),
            table["digest"].tolist(),
            cache_dir,
            frames,
        )
    if with_probes:
        parts = training_parts(plan.models.values(), protocol)
        labels, corpora = table["label"].to_numpy(), table["corpus"].to_numpy()
        fitted = fit_probes(means, labels, parts, len(clips.emotions), corpora)
        probes = dict(zip(plan.models, fitted, strict=True))
    return EncodedClips(means, frames, probes, time.perf_counter() - begun)
