"""Contours of the speech part of a waveform: named series with one value per frame.

Nothing is fitted to data."""

import functools

import librosa
import numpy as np
import scipy.fft

from utils.data.audio import SAMPLING_RATE
from utils.data.speech import TINY
from utils.features.acoustics import FREQUENCIES, NUM_FFT, decibel, spectra, track_formants, track_pitch

FLOOR_DB = 70.0
"""Levels further below the loudest one count as noise and are raised to this floor."""

NUM_MELS, NUM_MFCC = 40, 20


def contours(samples: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compute all contours of a clip. New contours can be added here; `functionals` summarises them all.

    Args:
        samples: float32 (num_samples,) at 16 kHz, as returned by `speech.speech_part`.

    Returns:
        named: "<group>.<contour>" -> values, (num_frames,).
        voiced: bool (num_frames,).
    """
    frames, power, rms = spectra(samples)
    hertz, periodicity, voiced = track_pitch(power, rms)
    named = frame_contours(frames, rms) | {"pitch.f0": 12 * np.log2(hertz / 100)}  # semitones above 100 Hz
    named |= cepstral_contours(power) | spectral_contours(power)
    named |= voice_contours(power, periodicity)
    return named, voiced


@functools.cache
def _mel_filters() -> np.ndarray:
    return librosa.filters.mel(sr=SAMPLING_RATE, n_fft=NUM_FFT, n_mels=NUM_MELS, fmin=50)


def frame_contours(frames: np.ndarray, rms: np.ndarray) -> dict[str, np.ndarray]:
    """Return level (dB) and zero-crossing rate (share of the steps between samples)."""
    return {
        "energy.level": np.maximum(decibel(rms**2), -FLOOR_DB),
        "spectral.zero_crossings": (np.diff(np.signbit(frames), axis=1) != 0).mean(axis=1),
    }


def cepstral_contours(power: np.ndarray) -> dict[str, np.ndarray]:
    """Return log-mel bands (dB), mel-frequency cepstral coefficients (MFCCs) and mel spectral flux."""
    mel = power @ _mel_filters().T
    log_mel = decibel(mel)
    log_mel = np.maximum(log_mel, log_mel.max() - FLOOR_DB)
    mfcc = scipy.fft.dct(log_mel, axis=1, norm="ortho")[:, :NUM_MFCC]
    shape = np.sqrt(mel / (mel.sum(axis=1, keepdims=True) + TINY))
    flux = np.sqrt((np.diff(shape, axis=0, prepend=shape[:1]) ** 2).sum(axis=1))
    return (
        {f"mfcc.c{k}": mfcc[:, k] for k in range(NUM_MFCC)}
        | {f"logmel.band{k}": log_mel[:, k] for k in range(NUM_MELS)}
        | {"spectral.flux": flux}
    )


def spectral_contours(power: np.ndarray) -> dict[str, np.ndarray]:
    """Return moments and roll-offs (Hz), slopes (dB/kHz), flatness (dB) and entropy of the spectrum."""
    share = power / (power.sum(axis=1, keepdims=True) + TINY)
    centroid = share @ FREQUENCIES
    log_power = np.maximum(decibel(power), decibel(power.max()) - FLOOR_DB - 20)
    below = np.cumsum(share, axis=1)
    shape = {
        "centroid": centroid,
        "bandwidth": np.sqrt(np.maximum(share @ FREQUENCIES**2 - centroid**2, 0)),
        "flatness": log_power.mean(axis=1) - decibel(power.mean(axis=1)),
        "entropy": -(share * np.log(share + TINY)).sum(axis=1),
    }
    below[:, -1] = 1  # rounding must not keep the cumulative sum below 1
    for part in (25, 50, 75, 90):
        shape[f"rolloff{part}"] = FREQUENCIES[(below >= part / 100).argmax(axis=1)]
    for name, low, high in (
        ("slope0", 0, 500),
        ("slope500", 500, 1500),
        ("slope1500", 1500, 4000),
        ("tilt", 0, 8000),
    ):
        inside = slice(*np.searchsorted(FREQUENCIES, (low, high + 1)))
        kilohertz = (FREQUENCIES[inside] - FREQUENCIES[inside].mean()) / 1000
        shape[name] = log_power[:, inside] @ kilohertz / (kilohertz**2).sum()
    return {f"spectral.{name}": contour for name, contour in shape.items()}


def voice_contours(power: np.ndarray, periodicity: np.ndarray) -> dict[str, np.ndarray]:
    """Return voice quality (dB), and frequencies and bandwidths of the formants (Hz).

    Harmonics-to-noise ratio after Boersma (1993); alpha ratio (power of 1-5 kHz relative to 50 Hz-1 kHz) and
    Hammarberg index (strongest bin below 2 kHz relative to 2-5 kHz) as in eGeMAPS (Eyben et al. 2016).
    """

    def band(low: float, high: float) -> np.ndarray:
        return power[:, np.searchsorted(FREQUENCIES, low) : np.searchsorted(FREQUENCIES, high)]

    formants, bandwidths = track_formants(power)
    return {
        "voice.hnr": 10 * np.log10(periodicity / (1 - periodicity)),
        "voice.alpha_ratio": decibel(band(1000, 5000).sum(axis=1)) - decibel(band(50, 1000).sum(axis=1)),
        "voice.hammarberg": decibel(band(0, 2000).max(axis=1)) - decibel(band(2000, 5000).max(axis=1)),
        **{f"formant.f{k + 1}": formant for k, formant in enumerate(formants)},
        **{f"formant.b{k + 1}": bandwidth for k, bandwidth in enumerate(bandwidths)},
    }
