"""Feature sets for comparison: MFCC means, as computed in most notebooks, and those of openSMILE."""

import functools

import librosa
import numpy as np
import scipy.fft
import scipy.signal

from utils.data.audio import SAMPLING_RATE
from utils.features.acoustics import decibel
from utils.runtime import InputError


def mfcc_means(waveform: np.ndarray) -> dict[str, float]:
    """Return the means over time of 40 mel-frequency cepstral coefficients (MFCCs).

    The result equals `librosa.feature.mfcc(y=waveform, sr=16_000, n_mfcc=40).mean(axis=1)`. The cosine
    transform is linear, so it is applied once, to the mean.
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
    """Return a feature set of openSMILE as name -> value.

    Args:
        feature_set: "compare", the 6373 functionals of ComParE 2016, or "egemaps", the 88 of eGeMAPS v02.
        waveform: float32 (num_samples,) at 16 kHz.

    Raises:
        InputError: openSMILE is not installed.
    """
    smile = _open_smile(feature_set)
    values = np.nan_to_num(smile.process_signal(waveform, SAMPLING_RATE).to_numpy()[0])
    return dict(zip(smile.feature_names, values, strict=True))


@functools.cache
def _open_smile(feature_set: str):
    """Return the extractor of openSMILE (Eyben et al. 2010), an optional package without commercial use."""
    try:
        import opensmile
    except ImportError:
        raise InputError(
            f"--features {feature_set}: needs openSMILE, free for research: pip install opensmile; "
            "--features full needs no further package"
        ) from None
    sets = {"compare": opensmile.FeatureSet.ComParE_2016, "egemaps": opensmile.FeatureSet.eGeMAPSv02}
    return opensmile.Smile(sets[feature_set], opensmile.FeatureLevel.Functionals)
