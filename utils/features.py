"""A waveform comes in; named functionals go out: one row of numbers per clip, for scikit-learn.

Silence at both ends is cut off and loudness levelled, and each contour (a value per frame) is summarised over
time. Nothing here is fitted to data.
"""

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
from scipy.ndimage import uniform_filter1d
from tqdm.auto import tqdm

from utils.audio import DECODING_VERSION, SAMPLING_RATE, SILENCE_PEAK, Waveforms
from utils.contours import FLOOR_DB, NUM_MELS, contours
from utils.runtime import InputError, is_main_process, write_bytes
from utils.voice import HOP, TINY, TRIM_DB, decibel, spectra, speech_part, track_pitch

if TYPE_CHECKING:
    from datasets import Dataset

PROSODY = "prosody"
"""A set to look at, beside `FEATURE_SETS`: in units that people read, NaN where not measurable."""

NUM_CORRELATED = 15
MIN_FRAMES = 4  # with fewer voiced (or unvoiced) frames their functionals are 0

_CHUNK = 32
"""Clips that a process describes at a time."""

_CACHE_VERSION = 1  # to be raised whenever the same bytes shall give other features
_MODULATION_EDGES = (0.5, 2, 4, 6, 8, 12, 16, 25, 40)  # Hz
_SHAPED = (
    *(f"mfcc.c{k}" for k in range(13)),
    *("pitch.f0", "energy.level", "voice.hnr", "voice.alpha_ratio", "formant.f1", "formant.f2"),
    *("spectral.centroid", "spectral.flux", "spectral.flatness", "spectral.slope0"),
)
"""Contours whose course over the clip matters; the first `NUM_CORRELATED` are also correlated."""


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


def voice_functionals(waveform: np.ndarray) -> dict[str, float]:
    """Summarise every contour of the speech part, all of it and what is voiced, and how it is timed."""
    named, voiced = contours(speech_part(waveform)[0])
    names = list(named)
    values = np.stack([named[name] for name in names]).astype(np.float64)
    columns = {f"all.{name}": column for name, column in summary(values).items()}
    columns |= {f"voiced.{name}": column for name, column in summary(_frames(values, voiced)).items()}
    unvoiced = _frames(values, ~voiced)
    columns |= {"unvoiced.mean": unvoiced.mean(axis=1), "unvoiced.std": unvoiced.std(axis=1)}
    row = {f"{name}.{kind}": column[k] for kind, column in columns.items() for k, name in enumerate(names)}
    shaped = values[[names.index(name) for name in _SHAPED]]
    log_mel = values[[names.index(f"logmel.band{k}") for k in range(NUM_MELS)]]
    row |= _shapes(shaped) | _correlations(shaped[:NUM_CORRELATED]) | _modulation(log_mel)
    return row | _timing(named["energy.level"], voiced)


def mfcc_means(waveform: np.ndarray) -> dict[str, float]:
    """Return what `librosa.feature.mfcc(y=waveform, sr=16_000, n_mfcc=40).mean(axis=1)` does.

    The cosine transform is linear: the mean over time comes first, and one transform does.
    """
    window, filters = _mfcc_window_and_filters()
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, 1024), 2048)[::512]
    spectrum = scipy.fft.rfft(frames * window, axis=1)
    mel = (spectrum.real**2 + spectrum.imag**2) @ filters
    log_mel = decibel(mel)
    log_mel = np.maximum(log_mel, log_mel.max() - 80)
    means = scipy.fft.dct(log_mel.mean(axis=0, dtype=np.float64), norm="ortho")[:40]
    return {f"mfcc.c{k}.mean": mean for k, mean in enumerate(means)}


@functools.cache
def _mfcc_window_and_filters() -> tuple[np.ndarray, np.ndarray]:
    window = scipy.signal.get_window("hann", 2048).astype(np.float32)
    return window, librosa.filters.mel(sr=SAMPLING_RATE, n_fft=2048).T.copy()


def opensmile_functionals(feature_set: str, waveform: np.ndarray) -> dict[str, float]:
    """Return "compare", the 6373 functionals of ComParE 2016, or "egemaps", the 88 of eGeMAPS v02.

    Raises:
        InputError: openSMILE is not installed.
    """
    smile = _open_smile(feature_set)
    values = np.nan_to_num(smile.process_signal(waveform, SAMPLING_RATE).to_numpy()[0])
    return dict(zip(smile.feature_names, values, strict=True))


@functools.cache
def _open_smile(feature_set: str):
    """Return openSMILE's extractor (Eyben et al. 2010). Optional: its licence allows no commercial use."""
    try:
        import opensmile
    except ImportError:
        raise InputError(
            f"--features {feature_set}: needs openSMILE, free for research: pip install opensmile; "
            "--features full needs nothing more"
        ) from None
    sets = {"compare": opensmile.FeatureSet.ComParE_2016, "egemaps": opensmile.FeatureSet.eGeMAPSv02}
    return opensmile.Smile(sets[feature_set], opensmile.FeatureLevel.Functionals)


def prosody(waveform: np.ndarray) -> dict[str, float]:
    """Describe how a clip is spoken, in units that people read; what cannot be measured is NaN.

    All but the level are measured as for the "full" set, on the part between the silences at both ends.

    Returns:
        speech_seconds: length of that part, at least `MIN_SECONDS`.
        level_dbfs: RMS of its sounding samples, before any levelling; 0 = an RMS of full scale.
        level_range_db: 10th to 95th percentile of the level of its frames that sound, as in the loudness
            range of EBU Tech 3342; sounding is what is at most `TRIM_DB` below the loudest frame.
        sounding_percent: frames that sound, as a share of all.
        peaks_per_second: peaks of the level that stand out by 2 dB, which mark syllables (de Jong & Wempe
            2009, Behav. Res. Methods 41:385), per second.
        pitch_hz: median of the voiced frames.
        pitch_range_semitones: 5th to 95th percentile of the voiced frames.
        voiced_percent: voiced frames, as a share of all.
    """
    samples, rms = speech_part(waveform)
    _, power, frame_rms = spectra(samples)
    level = np.maximum(decibel(frame_rms**2), -FLOOR_DB)
    hertz, _, voiced = track_pitch(power, frame_rms)
    pitch = hertz[voiced] if voiced.sum() >= MIN_FRAMES else np.full(1, np.nan)
    sounding = level > level.max() - TRIM_DB
    smooth = np.pad(uniform_filter1d(level, 7), 1, constant_values=-FLOOR_DB)  # silence before and after
    peaks, _ = scipy.signal.find_peaks(smooth, height=smooth.max() - 25, prominence=2)
    seconds = len(samples) / SAMPLING_RATE
    row = {
        "speech_seconds": seconds,
        "level_dbfs": 20 * np.log10(max(rms, TINY)),
        "level_range_db": np.ptp(np.percentile(level[sounding], [10, 95])),
        "sounding_percent": 100 * sounding.mean(),
        "peaks_per_second": len(peaks) / seconds,
        "pitch_hz": np.median(pitch),
        "pitch_range_semitones": np.ptp(12 * np.log2(np.percentile(pitch, [5, 95]))),
        "voiced_percent": 100 * voiced.mean(),
    }
    silent = np.abs(waveform - waveform.mean()).max() < SILENCE_PEAK
    return dict.fromkeys(row, np.nan) if silent else row


def _frames(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen frames of (num_contours, num_frames), or zeros if they are too few to describe."""
    return values[:, chosen] if chosen.sum() >= MIN_FRAMES else np.zeros((len(values), MIN_FRAMES))


def _delta(values: np.ndarray, width: int) -> np.ndarray:
    """Return the slope of the regression line through each frame and `width` frames on either side."""
    num_frames = values.shape[1]
    padded = np.pad(values, ((0, 0), (width, width)), mode="edge")
    rise = sum(k * padded[:, width + k : width + k + num_frames] for k in range(-width, width + 1))
    return rise / sum(k * k for k in range(-width, width + 1))


def _percentiles(values: np.ndarray, percents: Sequence[float]) -> np.ndarray:
    """`np.percentile` over the frames, (len(percents), num_contours), by one sort for all."""
    ordered = np.sort(values, axis=1)
    position = np.asarray(percents) / 100 * (values.shape[1] - 1)
    below = position.astype(int)
    above = np.minimum(below + 1, values.shape[1] - 1)
    return (ordered[:, below] + (position - below) * (ordered[:, above] - ordered[:, below])).T


def summary(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return functional -> (num_contours,) of contours (num_contours, num_frames)."""
    p5, p25, p50, p75, p95 = _percentiles(values, (5, 25, 50, 75, 95))
    mean, std = values.mean(axis=1), values.std(axis=1)
    step = np.diff(values, axis=1)
    standard = (values - mean[:, None]) / (std[:, None] + 1e-3)
    time = np.linspace(-1, 1, values.shape[1])
    levels = {"mean": mean, "std": std, "p5": p5, "p25": p25, "p50": p50, "p75": p75, "p95": p95}
    return levels | {
        "iqr": p75 - p25,
        "range": p95 - p5,
        "skew": (standard * standard * standard).mean(axis=1),
        "slope": values @ time / (time**2).sum(),
        "step_mean_abs": np.abs(step).mean(axis=1),
        "step_std": step.std(axis=1),
    }


def _shapes(values: np.ndarray) -> dict[str, float]:
    """Return cosine coefficients 1 to 8 of each contour after stretching it to 64 points."""
    times = np.linspace(0, values.shape[1] - 1, 64)
    stretched = np.stack([np.interp(times, np.arange(values.shape[1]), contour) for contour in values])
    cosines = scipy.fft.dct(stretched, axis=1, norm="ortho")
    return {f"{name}.shape{k}": cosines[i, k] for i, name in enumerate(_SHAPED) for k in range(1, 9)}


def _correlations(values: np.ndarray) -> dict[str, float]:
    """Return how contours and their slopes move together (each pair's correlation over time)."""
    short = [name.partition(".")[2] for name in _SHAPED[: len(values)]]
    short += [f"d_{name}" for name in short]
    covariance = np.cov(np.concatenate([values, _delta(values, 2)]))
    scale = np.sqrt(np.diag(covariance) + 1e-3)
    correlation = covariance / np.outer(scale, scale)
    pairs = zip(*np.triu_indices(len(short), 1), strict=True)
    return {f"correlation.{short[i]}~{short[j]}": correlation[i, j] for i, j in pairs}


def _modulation(log_mel: np.ndarray) -> dict[str, float]:
    """Return how strongly 8 groups of mel bands wax and wane at each rate (log amplitude)."""
    num_frames = log_mel.shape[1]
    groups = log_mel.reshape(8, -1, num_frames).mean(axis=1)
    groups = (groups - groups.mean(axis=1, keepdims=True)) * np.hanning(num_frames)
    num_fft = max(1024, num_frames)
    amplitude = np.abs(scipy.fft.rfft(groups, num_fft, axis=1)) / num_frames
    edges = np.searchsorted(np.fft.rfftfreq(num_fft, HOP / SAMPLING_RATE), _MODULATION_EDGES)
    row = {}
    for low, start, stop in zip(_MODULATION_EDGES, edges, edges[1:], strict=False):
        depth = np.log(amplitude[:, start:stop].mean(axis=1) + 1e-3)
        row |= {f"modulation.group{k}.from{low}hz": depth[k] for k in range(8)}
    return row


def _timing(level: np.ndarray, voiced: np.ndarray) -> dict[str, float]:
    """Return durations (s) of the clip, its voiced stretches and the gaps between them, and rates (1/s)."""
    frame = HOP / SAMPLING_RATE
    edges = np.diff(voiced.astype(int), prepend=0, append=0)
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    duration = len(level) * frame
    peaks, _ = scipy.signal.find_peaks(uniform_filter1d(level, 7), height=level.max() - 20)
    row = {
        "timing.duration": duration,
        "timing.log_duration": np.log(duration),
        "timing.voiced_share": voiced.mean(),
        "timing.quiet_share": (level < level.max() - 25).mean(),
        "timing.voiced_rate": len(starts) / duration,
        "timing.peak_rate": len(peaks) / duration,
    }
    for name, lengths in {"stretch": stops - starts, "gap": starts[1:] - stops[:-1]}.items():
        seconds = lengths * frame if len(lengths) else np.zeros(1)
        for statistic in (np.mean, np.std, np.max):
            row[f"timing.{name}_{statistic.__name__}"] = statistic(seconds)
    return row


FEATURE_SETS = {
    "full": voice_functionals,  # which no gain and no constant offset changes
    "mfcc": mfcc_means,  # of the clip as it is: what most notebooks use
    "compare": functools.partial(opensmile_functionals, "compare"),
    "egemaps": functools.partial(opensmile_functionals, "egemaps"),
}
"""What models train on: a function of each set, of a waveform as `extract` takes it, to name -> value."""
