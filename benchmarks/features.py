"""Speed of the acoustic functionals, compared with the functions of librosa, clip by clip, for equal outputs.

    python -m benchmarks.features --data_dir ~/ravdess

Prints clips per second and ratios, medians over interleaved rounds. librosa has no functions for some
features of the full set (its pitch trackers and linear prediction are different), so only the common features
are compared. librosa computes each of them with a function of its own, as most notebooks do. First the
outputs are checked for equality.
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
from utils.data.speech import WINDOW, speech_part
from utils.features import acoustics, contours
from utils.features.extraction import extract
from utils.features.functionals import summary
from utils.runtime import describe_device, logger, run_script

NUM_ROUNDS = 5
CHUNK = 16  # clips per task of a process
PERCENTILES = (5, 25, 50, 75, 95)


def functionals_by_librosa(waveform: np.ndarray) -> dict[str, np.ndarray]:
    """Return contour -> its mean, standard deviation and percentiles; one call of librosa per contour."""
    samples, _ = speech_part(waveform)
    # librosa centres the window in the frame of the Fourier transform.
    padded = np.pad(samples, (acoustics.NUM_FFT - WINDOW) // 2)
    frames = {"n_fft": acoustics.NUM_FFT, "hop_length": acoustics.HOP, "win_length": WINDOW, "center": False}
    frames["window"] = acoustics.HANN / np.sqrt((acoustics.HANN**2).sum())
    rate, mel = {"sr": SAMPLING_RATE}, {"n_mels": contours.NUM_MELS, "fmin": 50}
    feature = librosa.feature

    def power() -> np.ndarray:
        return np.abs(librosa.stft(padded, **frames)) ** 2

    def log_mel() -> np.ndarray:
        energies = feature.melspectrogram(y=padded, **rate, **mel, **frames)
        return librosa.power_to_db(energies, top_db=contours.FLOOR_DB)

    silence = 10 ** (-contours.FLOOR_DB / 20)
    rms = {"frame_length": WINDOW, "hop_length": acoustics.HOP, "center": False}
    # librosa divides the zero crossings by the number of samples, not of steps between samples.
    per_step = WINDOW / (WINDOW - 1)
    matrices = {
        "mfcc.c": feature.mfcc(S=log_mel(), n_mfcc=contours.NUM_MFCC),
        "logmel.band": log_mel(),
        "spectral.centroid": feature.spectral_centroid(S=power(), **rate),
        "spectral.bandwidth": feature.spectral_bandwidth(S=power(), **rate),
        "spectral.zero_crossings": feature.zero_crossing_rate(samples, **rms) * per_step,
        "energy.level": 20 * np.log10(np.maximum(feature.rms(y=samples, **rms), silence)),
    }
    for percent in (25, 50, 75, 90):
        matrices[f"spectral.rolloff{percent}"] = feature.spectral_rolloff(
            S=power(), **rate, roll_percent=percent / 100
        )
    functionals = {}
    for name, matrix in matrices.items():
        values = np.vstack(
            [matrix.mean(axis=1), matrix.std(axis=1), np.percentile(matrix, PERCENTILES, axis=1)]
        )
        for k, contour in enumerate(values.T):
            functionals[name if len(matrix) == 1 else f"{name}{k}"] = contour
    return functionals


def functionals_by_kit(waveform: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same with the functions of `utils.features`, from one spectrum per clip."""
    frames, power, rms = acoustics.spectra(speech_part(waveform)[0])
    named = contours.frame_contours(frames, rms) | contours.cepstral_contours(power)
    named |= contours.spectral_contours(power)
    values = summary(np.stack(list(named.values())).astype(np.float64))
    table = np.stack([values[name] for name in ("mean", "std", *(f"p{part}" for part in PERCENTILES))])
    return dict(zip(named, table.T, strict=True))


def notebook_mfcc(path: Path, sampling_rate: int) -> np.ndarray:
    """Return 40 MFCC means as computed in most notebooks."""
    samples, rate = librosa.load(path, sr=sampling_rate)
    return librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=40).mean(axis=1)


def mfcc_of_file(path: Path) -> np.ndarray:
    """Return the same with the functions of `utils`."""
    return extract(read_waveform(path), "mfcc")


def run_on_all_cores(pool: joblib.Parallel, function: Callable, clips) -> None:
    """Apply a function to files, or to the rows of a memory-mapped Dataset, in several processes."""
    chunks = [slice(start, start + CHUNK) for start in range(0, len(clips), CHUNK)]
    pool(joblib.delayed(run_chunk)(function, clips, chunk) for chunk in chunks)


def run_chunk(function: Callable, clips, chunk: slice) -> None:
    run_in_turn(function, [clips[row] for row in range(len(clips))[chunk]])


def run_in_turn(function: Callable, clips) -> None:
    for clip in clips:
        function(clip)


def check_outputs(waveforms: list[np.ndarray], files: list[Path]) -> None:
    """Stop if the outputs differ by more than 1e-4 of the mean size of a feature over these clips."""
    largest = 0.0
    by_librosa, by_kit = (
        [function(clip) for clip in waveforms] for function in (functionals_by_librosa, functionals_by_kit)
    )
    for name in by_librosa[0]:
        expected, values = (np.stack([clip[name] for clip in clips]) for clips in (by_librosa, by_kit))
        size = np.abs(expected).mean(axis=0).clip(1e-9)
        largest = max(largest, (np.abs(values - expected).max(axis=0) / size).max())
    expected = np.stack([notebook_mfcc(file, SAMPLING_RATE) for file in files])
    difference = np.abs(np.stack([mfcc_of_file(file) for file in files]) - expected).max()
    print(f"largest relative difference from librosa: {largest:.0e}; of the MFCC means: {difference:.0e}")
    assert largest < 1e-4


def comparisons(
    pool: joblib.Parallel, files: list[Path], waveforms: list[np.ndarray], rows: Waveforms
) -> dict[str, dict[str, Callable]]:
    """Return title of a table -> method -> function to time."""
    full, mfcc = functools.partial(extract), functools.partial(extract, feature_set="mfcc")
    return {
        "spectral functionals that librosa has": {
            "librosa, a function per feature": lambda: run_in_turn(functionals_by_librosa, waveforms),
            "one spectrum for all, one core": lambda: run_in_turn(functionals_by_kit, waveforms),
            "one spectrum for all, all cores": lambda: run_on_all_cores(pool, functionals_by_kit, rows),
            "all 3075 functionals, all cores": lambda: run_on_all_cores(pool, full, rows),
        },
        "40 MFCC means": {
            "librosa.load (22,050 Hz) and librosa.feature.mfcc": lambda: [
                notebook_mfcc(file, 22_050) for file in files
            ],
            "the same at 16,000 Hz": lambda: [notebook_mfcc(file, SAMPLING_RATE) for file in files],
            "from files, all cores": lambda: run_on_all_cores(pool, mfcc_of_file, files),
            "from decoded clips, all cores": lambda: run_on_all_cores(pool, mfcc, rows),
        },
    }


def print_comparison(title: str, methods: dict[str, Callable], num_clips: int) -> None:
    """Time the methods in turns and print a table."""
    seconds = {name: [] for name in methods}
    for _ in range(NUM_ROUNDS):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    print(f"| {title} | clips per second | times the first |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {num_clips / value:.0f} | {first / value:.1f} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", nargs="+", default=[], help="folders or zips with RAVDESS speech")
    parser.add_argument("--clips", type=int, default=192, help="number of clips")
    args = parser.parse_args()
    logger.setLevel(logging.WARNING)
    files = find_corpora(["ravdess"], [Path(folder) for folder in args.data_dir])["ravdess"]
    files = files[:: max(1, len(files) // args.clips)][: args.clips]
    waveforms = [read_waveform(file) for file in files]
    check_outputs(waveforms[:20], files[:20])

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with joblib.Parallel(n_jobs=num_cores) as pool, tempfile.TemporaryDirectory() as folder:
        rows = Waveforms(decode_files(files, [file_digest(file) for file in files], Path(folder), "ravdess"))
        run_on_all_cores(pool, extract, rows)  # warm-up: starts the processes and imports the packages
        print(f"{describe_device('cpu')}, {len(files)} clips, medians of {NUM_ROUNDS} interleaved rounds\n")
        for title, methods in comparisons(pool, files, waveforms, rows).items():
            print_comparison(title, methods, len(files))


if __name__ == "__main__":
    run_script(main)
