"""How fast functionals are against librosa's functions, called one clip at a time, with the same outputs.

    python -m benchmarks.features --data_dir ~/ravdess

Prints clips per second and ratios, medians of interleaved rounds. librosa has no functions for all that the
full set holds (its pitch trackers and its linear prediction are others): it is asked for what both have, each
feature by a function of its own, as notebooks call them. That the outputs are the same is checked first.
"""

import argparse
import functools
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import librosa
import numpy as np

from utils.data.audio import SAMPLING_RATE, read_waveform
from utils.data.decoding import Waveforms, decode_files, file_digest
from utils.data.download import find_corpora
from utils.features import acoustics, contours
from utils.features import functionals as features
from utils.runtime import describe_device, logger, run_script

NUM_ROUNDS = 5
CHUNK = 16  # clips that a process describes at a time
PERCENTILES = (5, 25, 50, 75, 95)


def with_librosa(waveform: np.ndarray) -> dict[str, np.ndarray]:
    """Return contour -> its mean, deviation and percentiles, each contour by librosa's function for it."""
    samples, _ = acoustics.speech_part(waveform)
    padded = np.pad(
        samples, (acoustics.NUM_FFT - acoustics.WINDOW) // 2
    )  # librosa centres the window in the transform
    frames = {
        "n_fft": acoustics.NUM_FFT,
        "hop_length": acoustics.HOP,
        "win_length": acoustics.WINDOW,
        "center": False,
    }
    frames["window"] = acoustics.HANN / np.sqrt((acoustics.HANN**2).sum())
    rate, mel = {"sr": SAMPLING_RATE}, {"n_mels": contours.NUM_MELS, "fmin": 50}
    feature = librosa.feature

    def power() -> np.ndarray:
        return np.abs(librosa.stft(padded, **frames)) ** 2

    def log_mel() -> np.ndarray:
        energies = feature.melspectrogram(y=padded, **rate, **mel, **frames)
        return librosa.power_to_db(energies, top_db=contours.FLOOR_DB)

    silence = 10 ** (-contours.FLOOR_DB / 20)
    rms = {"frame_length": acoustics.WINDOW, "hop_length": acoustics.HOP, "center": False}
    matrices = {
        "mfcc.c": feature.mfcc(S=log_mel(), n_mfcc=contours.NUM_MFCC),
        "logmel.band": log_mel(),
        "spectral.centroid": feature.spectral_centroid(S=power(), **rate),
        "spectral.bandwidth": feature.spectral_bandwidth(S=power(), **rate),
        "spectral.zero_crossings": feature.zero_crossing_rate(samples, **rms)
        * (
            acoustics.WINDOW / (acoustics.WINDOW - 1)
        ),  # librosa divides by the samples, not by the steps between
        "energy.level": 20 * np.log10(np.maximum(feature.rms(y=samples, **rms), silence)),
    }
    for part in (25, 50, 75, 90):
        matrices[f"spectral.rolloff{part}"] = feature.spectral_rolloff(
            S=power(), **rate, roll_percent=part / 100
        )
    values = {}
    for name, matrix in matrices.items():
        described = np.vstack(
            [matrix.mean(axis=1), matrix.std(axis=1), np.percentile(matrix, PERCENTILES, axis=1)]
        )
        for k, contour in enumerate(described.T):
            values[name if len(matrix) == 1 else f"{name}{k}"] = contour
    return values


def ours(waveform: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same of the same contours, by the functions of `utils.features`, from one spectrum."""
    frames, power, rms = acoustics.spectra(acoustics.speech_part(waveform)[0])
    named = contours.frame_contours(frames, rms) | contours.cepstral_contours(power)
    named |= contours.spectral_contours(power)
    values = features.summary(np.stack(list(named.values())).astype(np.float64))
    table = np.stack([values[name] for name in ("mean", "std", *(f"p{part}" for part in PERCENTILES))])
    return dict(zip(named, table.T, strict=True))


def on_all_cores(pool: joblib.Parallel, describe: Callable, clips) -> None:
    """Describe files, or the rows of a Dataset, which the processes map into their own memory."""
    chunks = [slice(start, start + CHUNK) for start in range(0, len(clips), CHUNK)]
    pool(joblib.delayed(one_chunk)(describe, clips, chunk) for chunk in chunks)


def one_chunk(describe: Callable, clips, chunk: slice) -> None:
    one_by_one(describe, [clips[row] for row in range(len(clips))[chunk]])


def one_by_one(describe: Callable, clips) -> None:
    for clip in clips:
        describe(clip)


def notebook_mfcc(path: Path, sampling_rate: int) -> np.ndarray:
    samples, rate = librosa.load(path, sr=sampling_rate)
    return librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=40).mean(axis=1)


def mfcc_of_file(path: Path) -> np.ndarray:
    return features.extract(read_waveform(path), "mfcc")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS speech")
    parser.add_argument("--clips", type=int, default=192, help="how many of them")
    args = parser.parse_args()
    logger.setLevel(logging.WARNING)
    files = find_corpora(["ravdess"], [Path(folder) for folder in args.data_dir])["ravdess"]
    files = files[:: max(1, len(files) // args.clips)][: args.clips]
    waveforms = [read_waveform(file) for file in files]
    check_outputs(waveforms[:20], files[:20])

    full, mfcc = functools.partial(features.extract), functools.partial(features.extract, feature_set="mfcc")
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with joblib.Parallel(n_jobs=num_cores) as pool, tempfile.TemporaryDirectory() as folder:
        rows = decode_files(files, [file_digest(file) for file in files], Path(folder), "ravdess")
        rows = Waveforms(rows)
        on_all_cores(pool, full, rows)  # its processes have started, and imported what they need
        contests = {
            "spectral functionals that librosa has": {
                "librosa, a function per feature": lambda: one_by_one(with_librosa, waveforms),
                "one spectrum for all, one core": lambda: one_by_one(ours, waveforms),
                "one spectrum for all, all cores": lambda: on_all_cores(pool, ours, rows),
                "all 3075 functionals, all cores": lambda: on_all_cores(pool, full, rows),
            },
            "40 MFCC means": {
                "librosa.load (22,050 Hz) and librosa.feature.mfcc": lambda: [
                    notebook_mfcc(file, 22_050) for file in files
                ],
                "the same at 16,000 Hz": lambda: [notebook_mfcc(file, SAMPLING_RATE) for file in files],
                "from files, all cores": lambda: on_all_cores(pool, mfcc_of_file, files),
                "from decoded clips, all cores": lambda: on_all_cores(pool, mfcc, rows),
            },
        }
        print(f"{describe_device('cpu')}, {len(files)} clips, medians of {NUM_ROUNDS} interleaved rounds\n")
        for title, ways in contests.items():
            seconds = {name: [] for name in ways}
            for _ in range(NUM_ROUNDS):
                for name, way in ways.items():
                    start = time.perf_counter()
                    way()
                    seconds[name].append(time.perf_counter() - start)
            print(f"| {title} | clips per second | times the first |\n|---|---|---|")
            middle = {name: statistics.median(values) for name, values in seconds.items()}
            first = next(iter(middle.values()))
            for name, value in middle.items():
                print(f"| {name} | {len(files) / value:.0f} | {first / value:.1f} |")
            print()


def check_outputs(waveforms: list[np.ndarray], files: list[Path]) -> None:
    """Stop where ours and librosa's differ by more than 1e-4 of how large a feature is over these clips."""
    apart = 0.0
    theirs, own = ([describe(clip) for clip in waveforms] for describe in (with_librosa, ours))
    for name in theirs[0]:
        expected, got = (np.stack([clip[name] for clip in clips]) for clips in (theirs, own))
        size = np.abs(expected).mean(axis=0).clip(1e-9)
        apart = max(apart, (np.abs(got - expected).max(axis=0) / size).max())
    expected = np.stack([notebook_mfcc(file, SAMPLING_RATE) for file in files])
    got = np.stack([mfcc_of_file(file) for file in files])
    means = np.abs(got - expected).max()
    print(f"ours and librosa's differ by up to {apart:.0e} of their size, the MFCC means by {means:.0e}")
    assert apart < 1e-4


if __name__ == "__main__":
    run_script(main)
