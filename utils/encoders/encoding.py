"""What a frozen encoder computes from the clips of a run, once for all splits: embeddings and probes."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.data.loading import LoadedClips
from utils.data.splits import Plan, training_parts
from utils.encoders.embeddings import embed
from utils.encoders.probe import Probe, fit_probes


@dataclass(frozen=True)
class EncodedClips:
    """The clips of a run as a frozen encoder sees them.

    Attributes:
        means: window of the encoder in seconds, None if it has none -> float32 (num_clips, num_layers,
            hidden_size), from `embeddings.embed`, in the order of the table.
        probes: model name -> its fitted head; empty without probes.
        seconds: that this took.
    """

    means: dict[int | None, np.ndarray] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)
    seconds: float = 0.0


def encode_clips(
    encoders: Iterable[tuple[int | None, torch.nn.Module, Any]],
    clips: LoadedClips,
    plan: Plan,
    protocol: str,
    cache_dir: Path,
    num_layers: int | None,
) -> EncodedClips:
    """Run the frozen encoder over the clips, and fit a probe for each model of the plan.

    Args:
        encoders: window in seconds, or None; stock classifier with that window, on the device to use; its
            feature extractor. The probes choose among them, too.
        num_layers: cut the encoder after this many layers; None: this is selected.
    """
    begun = time.perf_counter()
    table, means, probes = clips.table, {}, {}
    waveforms, lengths = clips.waveforms.select(table.index), table["num_samples"].tolist()
    labels, corpora = table["label"].to_numpy(), table["corpus"].to_numpy()
    parts = training_parts(plan.models.values(), protocol)
    for window, model, extractor in encoders:
        means[window] = embed(model, extractor, waveforms, lengths, table["digest"].tolist(), cache_dir)
        fitted = fit_probes(means[window], labels, parts, len(clips.emotions), corpora, num_layers)
        for name, probe in zip(plan.models, fitted, strict=True):
            if name not in probes or probe.uar > probes[name].uar:
                probes[name] = replace(probe, window_seconds=window)
    return EncodedClips(means, probes, time.perf_counter() - begun)
