"""A waveform comes in; named functionals go out: one row of numbers per clip, for scikit-learn.

Silence at both ends is cut off and loudness levelled, one short-time spectrum then serves every contour
(a value per frame), and each contour is summarised over time. Nothing here is fitted to data.
"""

import functools
import hashlib
import io
import itertools
import json
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

from utils.audio import MIN_SECONDS, SAMPLING_RATE
from utils.runtime import is_main_process, write_bytes

if TYPE_CHECKING:
    from datasets import Dataset

FEATURE_SETS = ("full", "mfcc")

WINDOW = 640  # samples: 40 ms, three periods of the lowest pitch
HOP = 160  # samples: 10 ms
NUM_FFT = 1024  # window + longest lag fit in, so the spectrum also gives the autocorrelation
MIN_PITCH, MAX_PITCH = 75.0, 600.0  # Hz
MAX_FORMANT = 5500.0  # Hz
TRIM_DB = 35.0  # sound ends where it is this far below the loudest 40 ms
FLOOR_DB = 70.0  # anything further below the loudest is taken to be noise
NUM_MELS, NUM_MFCC, NUM_CORRELATED = 40, 20, 15
MIN_FRAMES = 4  # with fewer voiced (or unvoiced) frames their functionals are 0

_CACHE_VERSION = 1  # to be raised whenever the same bytes shall give other features
_TINY = 1e-10
_FREQUENCIES = np.fft.rfftfreq(NUM_FFT, 1 / SAMPLING_RATE).astype(np.float32)
_HANN = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)
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
        feature_set: "full", which no gain and no constant offset changes; or "mfcc", the time means of
            40 MFCCs of the clip as it is, what most notebooks use.

    Returns:
        float32 (num_features,), always finite, in the order of `feature_names`.
    """
    return np.fromiter(_describe(waveform, feature_set).values(), np.float32)


@functools.cache
def feature_names(feature_set: str = "full") -> tuple[str, ...]:
    """Return the name of each feature: `"<group>.<contour>.<frames>.<functional>"` or shorter."""
    return tuple(_describe(np.sin(np.arange(SAMPLING_RATE, dtype=np.float32)), feature_set))


def feature_groups(feature_set: str = "full") -> dict[str, str]:
    """Return name -> group, e.g. mfcc, logmel, pitch, energy, spectral, voice, formant, timing."""
    return {name: name.partition(".")[0] for name in feature_names(feature_set)}


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
    settings = [_CACHE_VERSION, feature_set, feature_names(feature_set), SAMPLING_RATE]
    key = hashlib.sha256(json.dumps([settings, libraries, list(digests)]).encode()).hexdigest()[:32]
    path = cache_dir / f"features-{feature_set}-{key}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)

    rows = waveforms.select_columns("waveform").with_format("numpy")
    chunks = (rows[start : start + 16]["waveform"] for start in range(0, len(rows), 16))
    described = [np.zeros((0, len(feature_names(feature_set))), np.float32)]
    silent = None if is_main_process() else True
    with tqdm(total=len(rows), desc=f"Extracting {feature_set} features", disable=silent) as progress:
        # Processes of their own rather than forks: PyTorch and TensorFlow do not survive a fork.
        parallel = joblib.Parallel(n_jobs=-1, return_as="generator")
        for part in parallel(joblib.delayed(_extract_chunk)(chunk, feature_set) for chunk in chunks):
            described.append(part)
            progress.update(len(part))
    table = np.concatenate(described)
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    cache_dir.mkdir(parents=True, exist_ok=True)
    write_bytes(path, file.getvalue())
    return table


def _extract_chunk(waveforms: Sequence[np.ndarray], feature_set: str) -> np.ndarray:
    unusable = np.zeros(len(feature_names(feature_set)), np.float32)
    return np.stack([extract(waveform, feature_set) if len(waveform) else unusable for waveform in waveforms])


# --- Contours: a value per frame --------------------------------------------------------------------


def _level(waveform: np.ndarray) -> np.ndarray:
    """Cut silence off both ends (never below `MIN_SECONDS`) and bring the sounding part to an RMS of 1."""
    samples = waveform - waveform.mean(dtype=np.float64)
    samples /= max(np.abs(samples).max(), _TINY)
    energy = uniform_filter1d(samples**2, WINDOW, mode="constant")
    sounding = np.flatnonzero(energy >= energy.max() * 10 ** (-TRIM_DB / 10))
    start, stop = sounding[0], sounding[-1] + 1
    shortest = round(MIN_SECONDS * SAMPLING_RATE)
    if stop - start < shortest:
        start = max(0, min((start + stop - shortest) // 2, len(samples) - shortest))
        stop = start + shortest
    samples = samples[start:stop] / np.sqrt(energy[sounding].mean() + _TINY)
    return np.pad(samples, (0, max(0, shortest - len(samples)))).astype(np.float32)


def _decibel(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, _TINY))


def _contours(samples: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return name -> contour (num_frames,), and which frames are voiced, bool (num_frames,)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(scipy.fft.rfft(frames * _HANN, NUM_FFT, axis=1)) ** 2 / (_HANN**2).sum()
    rms = np.sqrt((frames**2).mean(axis=1))
    hertz, periodicity, voiced = _pitch(power, rms)
    contours = {
        "energy.level": np.maximum(_decibel(rms**2), -FLOOR_DB),
        "spectral.zero_crossings": (np.diff(np.signbit(frames), axis=1) != 0).mean(axis=1),
        "pitch.f0": 12 * np.log2(hertz / 100),  # semitones above 100 Hz
    }
    contours |= _cepstral_contours(power) | _spectral_contours(power)
    contours |= _voice_contours(power, periodicity)
    return contours, voiced


@functools.cache
def _mel_filters() -> np.ndarray:
    return librosa.filters.mel(sr=SAMPLING_RATE, n_fft=NUM_FFT, n_mels=NUM_MELS, fmin=50)


def _cepstral_contours(power: np.ndarray) -> dict[str, np.ndarray]:
    """Log-mel bands (dB), MFCCs (their cosine transform), and how much the mel spectrum moves."""
    mel = power @ _mel_filters().T
    log_mel = _decibel(mel)
    log_mel = np.maximum(log_mel, log_mel.max() - FLOOR_DB)
    mfcc = scipy.fft.dct(log_mel, axis=1, norm="ortho")[:, :NUM_MFCC]
    shape = np.sqrt(mel / (mel.sum(axis=1, keepdims=True) + _TINY))
    flux = np.sqrt((np.diff(shape, axis=0, prepend=shape[:1]) ** 2).sum(axis=1))
    return (
        {f"mfcc.c{k}": mfcc[:, k] for k in range(NUM_MFCC)}
        | {f"logmel.band{k}": log_mel[:, k] for k in range(NUM_MELS)}
        | {"spectral.flux": flux}
    )


def _spectral_contours(power: np.ndarray) -> dict[str, np.ndarray]:
    """Shape of the spectrum: moments and roll-offs (Hz), slopes (dB/kHz), flatness (dB)."""
    share = power / (power.sum(axis=1, keepdims=True) + _TINY)
    centroid = share @ _FREQUENCIES
    log_power = np.maximum(_decibel(power), _decibel(power.max()) - FLOOR_DB - 20)
    below = np.cumsum(share, axis=1)
    contours = {
        "centroid": centroid,
        "bandwidth": np.sqrt(np.maximum(share @ _FREQUENCIES**2 - centroid**2, 0)),
        "flatness": log_power.mean(axis=1) - _decibel(power.mean(axis=1)),
        "entropy": -(share * np.log(share + _TINY)).sum(axis=1),
    }
    for part in (25, 50, 75, 90):
        bins = np.minimum((below < part / 100).sum(axis=1), len(_FREQUENCIES) - 1)
        contours[f"rolloff{part}"] = _FREQUENCIES[bins]
    for name, low, high in (
        ("slope0", 0, 500),
        ("slope500", 500, 1500),
        ("slope1500", 1500, 4000),
        ("tilt", 0, 8000),
    ):
        inside = slice(*np.searchsorted(_FREQUENCIES, (low, high + 1)))
        kilohertz = (_FREQUENCIES[inside] - _FREQUENCIES[inside].mean()) / 1000
        contours[name] = log_power[:, inside] @ kilohertz / (kilohertz**2).sum()
    return {f"spectral.{name}": contour for name, contour in contours.items()}


def _voice_contours(power: np.ndarray, periodicity: np.ndarray) -> dict[str, np.ndarray]:
    """Voice quality (dB), formants and their bandwidths (Hz).

    Harmonics-to-noise ratio after Boersma (1993); alpha ratio (1-5 kHz against 50 Hz-1 kHz) and Hammarberg
    index (strongest bin below against above 2 kHz) as in eGeMAPS (Eyben et al. 2016).
    """

    def band(low: float, high: float) -> np.ndarray:
        return power[:, np.searchsorted(_FREQUENCIES, low) : np.searchsorted(_FREQUENCIES, high)]

    formants, bandwidths = _formants(power)
    return {
        "voice.hnr": 10 * np.log10(periodicity / (1 - periodicity)),
        "voice.alpha_ratio": _decibel(band(1000, 5000).sum(axis=1)) - _decibel(band(50, 1000).sum(axis=1)),
        "voice.hammarberg": _decibel(band(0, 2000).max(axis=1)) - _decibel(band(2000, 5000).max(axis=1)),
        **{f"formant.f{k + 1}": formant for k, formant in enumerate(formants)},
        **{f"formant.b{k + 1}": bandwidth for k, bandwidth in enumerate(bandwidths)},
    }


def _pitch(power: np.ndarray, rms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Track the pitch after Boersma (1993), "Accurate short-term analysis of the fundamental frequency".

    Returns:
        hertz: (num_frames,); between voiced frames interpolated, 100 throughout if none is voiced.
        periodicity: (num_frames,), the autocorrelation at one period, within 0.001 to 0.999.
        voiced: bool (num_frames,).
    """
    window_correlation = scipy.fft.irfft(np.abs(scipy.fft.rfft(_HANN, NUM_FFT)) ** 2)[: NUM_FFT - WINDOW]
    without_offset = np.where(_FREQUENCIES < 40, 0, power)
    correlation = scipy.fft.irfft(without_offset, axis=1)[:, : NUM_FFT - WINDOW]
    correlation /= np.maximum(correlation[:, :1], _TINY) * (window_correlation / window_correlation[0])
    low, high = int(SAMPLING_RATE / MAX_PITCH), int(SAMPLING_RATE / MIN_PITCH) + 1
    left, middle, right = (correlation[:, low + k : high + k] for k in (-1, 0, 1))
    is_peak = (middle > left) & (middle >= right) & (middle > 0)
    octave_bonus = -0.01 * np.log2(MIN_PITCH * np.arange(low, high) / SAMPLING_RATE)
    score = np.where(is_peak, middle + octave_bonus, -9.0)
    best = np.argpartition(-score, 6, axis=1)[:, :6]
    score, left, middle, right = (np.take_along_axis(a, best, axis=1) for a in (score, left, middle, right))
    # The top of the parabola through three points.
    shift = np.clip(0.5 * (left - right) / np.minimum(left - 2 * middle + right, -1e-6), -0.5, 0.5)
    rise = -0.25 * (left - right) * shift
    candidates = SAMPLING_RATE / (low + best + shift)
    unvoiced = 0.45 + np.maximum(0, 2 - rms / max(rms.max(), _TINY) * (1 + 0.45) / 0.03)
    path = _cheapest_path(np.column_stack([unvoiced, score + rise]), np.log2(candidates))

    voiced = path > 0
    rows = np.arange(len(path))
    chosen = np.maximum(path - 1, 0)
    periodicity = np.where(voiced, (middle + rise)[rows, chosen], middle.max(axis=1))
    if not voiced.any():
        return np.full(len(path), 100.0), np.clip(periodicity, 0.001, 0.999), voiced
    hertz = np.interp(rows, rows[voiced], candidates[rows, chosen][voiced])
    return hertz, np.clip(periodicity, 0.001, 0.999), voiced


def _cheapest_path(score: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """Choose a candidate per frame by Viterbi's algorithm; candidate 0 is "unvoiced".

    Args:
        score: (num_frames, 1 + num_candidates).
        octaves: (num_frames, num_candidates), the candidates' log2 of frequency.
    """
    cost = np.full((len(score), score.shape[1], score.shape[1]), 0.14)  # to begin or end voicing
    cost[:, 0, 0] = 0
    cost[1:, 1:, 1:] = 0.35 * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    came_from = np.zeros(score.shape, int)
    total = score[0]
    for t in range(1, len(score)):
        options = total[:, None] - cost[t]
        came_from[t] = options.argmax(axis=0)
        total = options.max(axis=0) + score[t]
    path = np.full(len(score), total.argmax())
    for t in range(len(score) - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path


def _formants(power: np.ndarray, order: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies and bandwidths (Hz), each (3, num_frames); 500, 1500, 2500 and 700 where not found.

    Linear prediction of the pre-emphasised spectrum below `MAX_FORMANT` only (Makhoul 1975, "selective
    linear prediction"), by the Levinson-Durbin recursion over all frames at once.
    """
    num_bins = int(MAX_FORMANT / SAMPLING_RATE * NUM_FFT) + 1
    emphasis = np.abs(1 - 0.97 * np.exp(-2j * np.pi * _FREQUENCIES[:num_bins] / SAMPLING_RATE)) ** 2
    correlation = scipy.fft.irfft((power[:, :num_bins] * emphasis).astype(np.float64), axis=1)
    correlation = correlation[:, : order + 1] / np.maximum(correlation[:, :1], _TINY)
    correlation[:, 0] = 1 + 1e-6  # a little white noise keeps the recursion stable
    predictor = np.zeros_like(correlation)
    predictor[:, 0] = 1
    error = correlation[:, 0].copy()
    for k in range(1, order + 1):
        reflection = -(predictor[:, :k] * correlation[:, k:0:-1]).sum(axis=1) / error
        predictor[:, 1 : k + 1] += reflection[:, None] * predictor[:, k - 1 :: -1]
        error *= 1 - reflection**2
    companion = np.zeros((len(power), order, order))
    companion[:, 0] = -predictor[:, 1:]
    companion[:, np.arange(1, order), np.arange(order - 1)] = 1
    roots = np.linalg.eigvals(companion)
    frequency = np.angle(roots) * MAX_FORMANT / np.pi
    bandwidth = -np.log(np.maximum(np.abs(roots), 1e-6)) * 2 * MAX_FORMANT / np.pi
    resonant = (frequency > 90) & (frequency < MAX_FORMANT - 50) & (bandwidth < 700)
    frequency = np.where(resonant, frequency, np.inf)
    lowest = np.argsort(frequency, axis=1)[:, :3]
    frequency, bandwidth = (np.take_along_axis(a, lowest, axis=1).T for a in (frequency, bandwidth))
    found = np.isfinite(frequency)
    return np.where(found, frequency, [[500], [1500], [2500]]), np.where(found, bandwidth, 700)


# --- Functionals: a value per clip ------------------------------------------------------------------


def _describe(waveform: np.ndarray, feature_set: str) -> dict[str, float]:
    """Return name -> value, so that names and values cannot part."""
    if feature_set == "mfcc":
        means = librosa.feature.mfcc(y=waveform, sr=SAMPLING_RATE, n_mfcc=40).mean(axis=1)
        return {f"mfcc.c{k}.mean": mean for k, mean in enumerate(means)}
    if feature_set != "full":
        raise ValueError(f"feature_set {feature_set!r} is none of {', '.join(FEATURE_SETS)}")
    contours, voiced = _contours(_level(waveform))
    names = list(contours)
    values = np.stack([contours[name] for name in names]).astype(np.float64)
    columns = {f"all.{name}": column for name, column in _summary(values).items()}
    columns |= {f"voiced.{name}": column for name, column in _summary(_frames(values, voiced)).items()}
    unvoiced = _frames(values, ~voiced)
    columns |= {"unvoiced.mean": unvoiced.mean(axis=1), "unvoiced.std": unvoiced.std(axis=1)}
    row = {f"{name}.{kind}": column[k] for kind, column in columns.items() for k, name in enumerate(names)}
    shaped = values[[names.index(name) for name in _SHAPED]]
    log_mel = values[[names.index(f"logmel.band{k}") for k in range(NUM_MELS)]]
    row |= _shapes(shaped) | _correlations(shaped[:NUM_CORRELATED]) | _modulation(log_mel)
    return row | _timing(contours["energy.level"], voiced)


def _frames(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen frames of (num_contours, num_frames), or zeros if they are too few to describe."""
    return values[:, chosen] if chosen.sum() >= MIN_FRAMES else np.zeros((len(values), MIN_FRAMES))


def _delta(values: np.ndarray, width: int) -> np.ndarray:
    """Return the slope of the regression line through each frame and `width` frames on either side."""
    num_frames = values.shape[1]
    padded = np.pad(values, ((0, 0), (width, width)), mode="edge")
    rise = sum(k * padded[:, width + k : width + k + num_frames] for k in range(-width, width + 1))
    return rise / sum(k * k for k in range(-width, width + 1))


def _summary(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return functional -> (num_contours,) of contours (num_contours, num_frames)."""
    p5, p25, p50, p75, p95 = np.percentile(values, [5, 25, 50, 75, 95], axis=1)
    mean, std = values.mean(axis=1), values.std(axis=1)
    step = np.diff(values, axis=1)
    time = np.linspace(-1, 1, values.shape[1])
    levels = {"mean": mean, "std": std, "p5": p5, "p25": p25, "p50": p50, "p75": p75, "p95": p95}
    return levels | {
        "iqr": p75 - p25,
        "range": p95 - p5,
        "skew": (((values - mean[:, None]) / (std[:, None] + 1e-3)) ** 3).mean(axis=1),
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
    return {
        f"modulation.group{k}.from{_MODULATION_EDGES[j]}hz": np.log(amplitude[k, start:stop].mean() + 1e-3)
        for j, (start, stop) in enumerate(itertools.pairwise(edges))
        for k in range(8)
    }


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
