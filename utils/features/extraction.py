"""Extract features of one clip, of several clips, or of a whole corpus with a cache on disk."""

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
import scipy
import soundfile
import soxr
from tqdm.auto import tqdm

from utils.data.audio import SAMPLING_RATE
from utils.data.decoding import DECODING_VERSION, Waveforms
from utils.features.functionals import voice_functionals
from utils.features.other_sets import mfcc_means, opensmile_functionals
from utils.features.prosody import PROSODY, prosody
from utils.runtime import is_main_process, write_bytes

if TYPE_CHECKING:
    from datasets import Dataset

FEATURE_SETS = {
    "full": voice_functionals,  # invariant to gain and constant offset
    "mfcc": mfcc_means,  # of the unchanged clip, as in most notebooks
    "compare": functools.partial(opensmile_functionals, "compare"),
    "egemaps": functools.partial(opensmile_functionals, "egemaps"),
}
"""Feature sets for training: name -> function of a waveform that returns feature name -> value."""

_CHUNK = 32
"""Number of clips that a process handles at a time."""

_CACHE_VERSION = 1  # increase it with any change that gives other features for the same bytes


def extract(waveform: np.ndarray, feature_set: str = "full") -> np.ndarray:
    """Extract the features of one clip.

    Args:
        waveform: float32 (num_samples,) at 16 kHz, as returned by `audio.read_waveform`.
        feature_set: one of `FEATURE_SETS`, or `PROSODY`.

    Returns:
        float32 (num_features,), in the order of `feature_names`; finite for all `FEATURE_SETS`.

    Raises:
        InputError: the set needs openSMILE, and it is not installed.
    """
    return np.fromiter(_named_features(waveform, feature_set).values(), np.float32)


@functools.cache
def feature_names(feature_set: str = "full") -> tuple[str, ...]:
    """Return the name of each feature: `"<group>.<contour>.<frames>.<functional>"` or shorter."""
    return tuple(_named_features(np.sin(np.arange(SAMPLING_RATE, dtype=np.float32)), feature_set))


def feature_groups(feature_set: str = "full") -> dict[str, str]:
    """Return name -> group, e.g. mfcc, logmel, pitch, energy, spectral, voice, formant, timing."""
    return {name: re.match("[A-Za-z]+[0-9]?", name)[0] for name in feature_names(feature_set)}


def normalize_speakers(features: np.ndarray, speakers: Sequence[str]) -> np.ndarray:
    """Standardise features to mean 0 and standard deviation 1 over the clips of each speaker.

    No label is used. The prediction for a test clip then depends on all other clips of its speaker.

    Args:
        features: (num_clips, num_features).
        speakers: the speaker of each clip.

    Returns:
        float32 (num_clips, num_features).
    """
    speakers = np.asarray(speakers)
    normalized = np.empty_like(features, dtype=np.float32)
    for speaker in np.unique(speakers):
        clips = features[speakers == speaker].astype(np.float64)
        normalized[speakers == speaker] = (clips - clips.mean(axis=0)) / (clips.std(axis=0) + 1e-6)
    return normalized


def extract_table(
    waveforms: "Dataset", digests: Sequence[str], cache_dir: Path, feature_set: str = "full"
) -> np.ndarray:
    """Extract the features of a whole corpus on all cores, or read them from the cache.

    Args:
        waveforms: Dataset with a `waveform` per row, as returned by `table.read_table`.
        digests: `decoding.file_digest` of each row; they determine the cache entry.
        cache_dir: folder of the cache; created if it does not exist.
        feature_set: one of `FEATURE_SETS`, or `PROSODY`.

    Returns:
        float32 (num_clips, num_features); zeros where the waveform is empty (an unusable clip).
    """
    if len(waveforms) != len(digests):
        raise ValueError(f"{len(waveforms)} waveforms but {len(digests)} digests")
    path = cache_dir / f"features-{feature_set}-{_cache_key(digests, feature_set)}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)

    rows = Waveforms(waveforms)
    chunks = (range(start, min(start + _CHUNK, len(rows))) for start in range(0, len(rows), _CHUNK))
    parts = [np.zeros((0, len(feature_names(feature_set))), np.float32)]
    silent = None if is_main_process() else True
    with tqdm(total=len(rows), desc=f"Extracting {feature_set} features", disable=silent) as progress:
        # New processes instead of forks, which PyTorch and TensorFlow do not survive. Each of them
        # memory-maps the waveforms itself: only their location is sent.
        parallel = joblib.Parallel(n_jobs=-1, return_as="generator")
        for part in parallel(joblib.delayed(_extract_rows)(rows, chunk, feature_set) for chunk in chunks):
            parts.append(part)
            progress.update(len(part))
    table = np.concatenate(parts)
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    cache_dir.mkdir(parents=True, exist_ok=True)
    write_bytes(path, file.getvalue())
    return table


def _cache_key(digests: Sequence[str], feature_set: str) -> str:
    """Return a hash of everything that determines the features."""
    libraries = [np.__version__, scipy.__version__, librosa.__version__]
    libraries += [soundfile.__libsndfile_version__, soxr.__version__]
    settings = [_CACHE_VERSION, DECODING_VERSION, feature_set, feature_names(feature_set), SAMPLING_RATE]
    return hashlib.sha256(json.dumps([settings, libraries, list(digests)]).encode()).hexdigest()[:32]


def extract_all(waveforms: Sequence[np.ndarray], feature_set: str = "full") -> np.ndarray:
    """Extract the features of waveforms in memory on all cores; return float32 (num_clips, num_features)."""
    chunks = [waveforms[start : start + _CHUNK] for start in range(0, len(waveforms), _CHUNK)]
    parts = joblib.Parallel(n_jobs=-1)(joblib.delayed(_extract_chunk)(chunk, feature_set) for chunk in chunks)
    return np.concatenate(parts)


def _extract_rows(rows: Waveforms, chunk: range, feature_set: str) -> np.ndarray:
    return _extract_chunk([rows[row] for row in chunk], feature_set)


def _extract_chunk(waveforms: Sequence[np.ndarray], feature_set: str) -> np.ndarray:
    unusable = np.zeros(len(feature_names(feature_set)), np.float32)
    return np.stack([extract(waveform, feature_set) if len(waveform) else unusable for waveform in waveforms])


def _named_features(waveform: np.ndarray, feature_set: str) -> dict[str, float]:
    """Return name -> value: one function gives both, so that names and values always match."""
    sets = FEATURE_SETS | {PROSODY: prosody}
    if feature_set not in sets:
        raise ValueError(f"feature_set {feature_set!r} is none of {', '.join(FEATURE_SETS)}")
    return sets[feature_set](waveform)
