"""Functionals of a waveform: statistics over time of its contours, one named feature vector per clip.

Silence at both ends is trimmed and the level is normalised first. Nothing is fitted to data.
"""

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.signal
from scipy.ndimage import uniform_filter1d

from utils.data.audio import SAMPLING_RATE
from utils.data.speech import speech_part
from utils.features.acoustics import HOP
from utils.features.contours import NUM_MELS, contours

NUM_CORRELATED = 15
MIN_FRAMES = 4  # with fewer voiced (unvoiced) frames, the functionals of voiced (unvoiced) frames are 0
_MODULATION_EDGES = (0.5, 2, 4, 6, 8, 12, 16, 25, 40)  # Hz
_SHAPED = (
    *(f"mfcc.c{k}" for k in range(13)),
    *("pitch.f0", "energy.level", "voice.hnr", "voice.alpha_ratio", "formant.f1", "formant.f2"),
    *("spectral.centroid", "spectral.flux", "spectral.flatness", "spectral.slope0"),
)
"""Contours whose shape over the clip is described; correlations are computed of the first
`NUM_CORRELATED`."""


def voice_functionals(waveform: np.ndarray) -> dict[str, float]:
    """Return the feature set "full".

    It has statistics of all contours over all, voiced and unvoiced frames, shapes, correlations, modulation
    spectra and timing.

    Args:
        waveform: float32 (num_samples,) at 16 kHz.

    Returns:
        feature name -> value. A gain or a constant offset of the waveform changes no feature.
    """
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


def _frames(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen frames of (num_contours, num_frames), or zeros for fewer than `MIN_FRAMES`."""
    return values[:, chosen] if chosen.sum() >= MIN_FRAMES else np.zeros((len(values), MIN_FRAMES))


def _delta(values: np.ndarray, width: int) -> np.ndarray:
    """Return the slope of the regression line over each frame and `width` frames on either side."""
    num_frames = values.shape[1]
    padded = np.pad(values, ((0, 0), (width, width)), mode="edge")
    rise = sum(k * padded[:, width + k : width + k + num_frames] for k in range(-width, width + 1))
    return rise / sum(k * k for k in range(-width, width + 1))


def _percentiles(values: np.ndarray, percents: Sequence[float]) -> np.ndarray:
    """Return `np.percentile` over the frames, (len(percents), num_contours), with a single sort."""
    ordered = np.sort(values, axis=1)
    position = np.asarray(percents) / 100 * (values.shape[1] - 1)
    below = position.astype(int)
    above = np.minimum(below + 1, values.shape[1] - 1)
    return (ordered[:, below] + (position - below) * (ordered[:, above] - ordered[:, below])).T


def summary(values: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the functionals of several contours.

    Args:
        values: (num_contours, num_frames).

    Returns:
        functional -> values, (num_contours,).
    """
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
    """Return coefficients 1 to 8 of the discrete cosine transform of each contour, resampled to 64 points."""
    times = np.linspace(0, values.shape[1] - 1, 64)
    resampled = np.stack([np.interp(times, np.arange(values.shape[1]), contour) for contour in values])
    cosines = scipy.fft.dct(resampled, axis=1, norm="ortho")
    return {f"{name}.shape{k}": cosines[i, k] for i, name in enumerate(_SHAPED) for k in range(1, 9)}


def _correlations(values: np.ndarray) -> dict[str, float]:
    """Return the correlation over time of each pair of contours and their slopes."""
    short = [name.partition(".")[2] for name in _SHAPED[: len(values)]]
    short += [f"d_{name}" for name in short]
    covariance = np.cov(np.concatenate([values, _delta(values, 2)]))
    scale = np.sqrt(np.diag(covariance) + 1e-3)
    correlation = covariance / np.outer(scale, scale)
    pairs = zip(*np.triu_indices(len(short), 1), strict=True)
    return {f"correlation.{short[i]}~{short[j]}": correlation[i, j] for i, j in pairs}


def _modulation(log_mel: np.ndarray) -> dict[str, float]:
    """Return the modulation spectrum (log amplitude per modulation band) of 8 groups of mel bands."""
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
    """Return durations (s) of the clip, its voiced segments and the gaps between them, and rates (1/s)."""
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
