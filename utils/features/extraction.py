"""Waveforms in, rows of features out: one clip, several clips, or a whole corpus through a cache on disk."""

import functools
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import librosa
import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr
from tqdm.auto import tqdm

from utils.data.audio import SAMPLING_RATE
from utils.data.decoding import DECODING_VERSION, Waveforms
from utils.runtime import is_main_process, write_bytes

if TYPE_CHECKING:
    from datasets import Dataset
from utils.features.functionals import voice_functionals
from utils.features.other_sets import mfcc_means, opensmile_functionals
from utils.features.prosody import PROSODY, prosody

_CHUNK = 32
"""Clips that a process describes at a time."""

_CACHE_VERSION = 1  # to be raised whenever the same bytes shall give other features


def extract(waveform: np.ndarray, feature_set: str = "full") -> np.ndarray:
    """Describe one clip.

    Args:
        waveform: float32 (num_samples,) at 16 kHz, as `audio.read_waveform` gives it.
        feature_set: one of `FEATURE_SETS`, or `PROSODY`.

    Returns:
        float32 (num_features,), finite in all of `FEATURE_SETS`, in the order of `feature_names`.

    Raises:
        InputError: openSMILE is wanted and not installed.
    """
    return np.fromiter(_describe(waveform, feature_set).values(), np.float32)


@functools.cache
def feature_names(feature_set: str = "full") -> tuple[str, ...]:
    """Return the name of each feature: `"<group>.<contour>.<frames>.<functional>"` or shorter."""
    return tuple(_describe(np.sin(np.arange(SAMPLING_RATE, dtype=np.float32)), feature_set))


def feature_groups(feature_set: str = "full") -> dict[str, str]:
    """Return name -> group, e.g. mfcc, logmel, pitch, energy, spectral, voice, formant, timing."""
    return {name: re.match("[A-Za-z]+[0-9]?", name)[0] for name in feature_names(feature_set)}


def normalize_speakers(features: np.ndarray, speakers: Sequence[str]) -> np.ndarray:
    """Return float32 features (num_clips, num_features) of mean 0 and deviation 1 over each speaker's clips.

    No label is used, but all clips of a speaker are: who is tested has been heard at length.
    """
    speakers = np.asarray(speakers)
    normalized = np.empty_like(features, dtype=np.float32)
    for speaker in np.unique(speakers):
        own = features[speakers == speaker].astype(np.float64)
        normalized[speakers == speaker] = (own - own.mean(axis=0)) / (own.std(axis=0) + 1e-6)
    return normalized


def extract_table(
    waveforms: "Dataset", digests: Sequence[str], cache_dir: Path, feature_set: str = "full"
) -> np.ndarray:
    """Describe many clips on all cores, or read what an earlier run made of the same clips.

    Args:
        waveforms: Dataset with a `waveform` per row, as `table.read_table` returns it.
        digests: the rows' `audio.file_digest`s: by them the cache entry is found.
        cache_dir: folder of the cache; made where it is missing.

    Returns:
        float32 (num_clips, num_features); zeros where the waveform is empty (an unusable clip).
    """
    if len(waveforms) != len(digests):
        raise ValueError(f"{len(waveforms)} waveforms but {len(digests)} digests")
    libraries = [np.__version__, scipy.__version__, librosa.__version__]
    libraries += [soundfile.__libsndfile_version__, soxr.__version__]
    settings = [_CACHE_VERSION, DECODING_VERSION, feature_set, feature_names(feature_set), SAMPLING_RATE]
    key = hashlib.sha256(json.dumps([settings, libraries, list(digests)]).encode()).hexdigest()[:32]
    path = cache_dir / f"features-{feature_set}-{key}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)

    # What is sent to the other processes is where the waveforms are: they map them into their own memory.
    rows = Waveforms(waveforms)
    chunks = (range(start, min(start + _CHUNK, len(rows))) for start in range(0, len(rows), _CHUNK))
    described = [np.zeros((0, len(feature_names(feature_set))), np.float32)]
    silent = None if is_main_process() else True
    with tqdm(total=len(rows), desc=f"Extracting {feature_set} features", disable=silent) as progress:
        # Processes of their own rather than forks: PyTorch and TensorFlow do not survive a fork.
        parallel = joblib.Parallel(n_jobs=-1, return_as="generator")
        for part in parallel(joblib.delayed(_extract_rows)(rows, chunk, feature_set) for chunk in chunks):
            described.append(part)
            progress.update(len(part))
    table = np.concatenate(described)
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    cache_dir.mkdir(parents=True, exist_ok=True)
    write_bytes(path, file.getvalue())
    return table


def extract_all(waveforms: Sequence[np.ndarray], feature_set: str = "full") -> np.ndarray:
    """Return the `extract` of each of some waveforms, (num_clips, num_features), computed on all cores."""
    chunks = [waveforms[start : start + _CHUNK] for start in range(0, len(waveforms), _CHUNK)]
    described = joblib.Parallel(n_jobs=-1)(joblib.delayed(_extract_chunk)(one, feature_set) for one in chunks)
    return np.concatenate(described)


def _extract_rows(rows: Waveforms, chunk: range, feature_set: str) -> np.ndarray:
    return _extract_chunk([rows[row] for row in chunk], feature_set)


def _extract_chunk(waveforms: Sequence[np.ndarray], feature_set: str) -> np.ndarray:
    unusable = np.zeros(len(feature_names(feature_set)), np.float32)
    return np.stack([extract(waveform, feature_set) if len(waveform) else unusable for waveform in waveforms])


def _describe(waveform: np.ndarray, feature_set: str) -> dict[str, float]:
    """Return name -> value, so that names and values cannot part."""
    sets = FEATURE_SETS | {PROSODY: prosody}
    if feature_set not in sets:
        raise ValueError(f"feature_set {feature_set!r} is none of {', '.join(FEATURE_SETS)}")
    return sets[feature_set](waveform)


FEATURE_SETS = {
    "full": voice_functionals,  # which no gain and no constant offset changes
    "mfcc": mfcc_means,  # of the clip as it is: what most notebooks use
    "compare": functools.partial(opensmile_functionals, "compare"),
    "egemaps": functools.partial(opensmile_functionals, "egemaps"),
}
"""What models train on: a function of each set, of a waveform as `extract` takes it, to name -> value."""
