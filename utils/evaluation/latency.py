"""Time per clip of a classifier."""

import time
from collections.abc import Callable, Sequence

import numpy as np


def measure_latency(
    predict: Callable[[np.ndarray], object],
    waveforms: Sequence[np.ndarray],
    sampling_rate: int,
    num_warm_up: int = 3,
) -> dict[str, float]:
    """Time `predict` on one clip after the other.

    Args:
        predict: takes a waveform (num_samples,) and returns only when the answer is on the CPU.
        waveforms: the clips to time; the first `num_warm_up` run once more, untimed, before.

    Returns:
        `p50_ms` and `p95_ms` per clip, `real_time_factor` (time spent / time spoken), `clips`.
    """
    for waveform in waveforms[:num_warm_up]:
        predict(waveform)
    seconds = []
    for waveform in waveforms:
        start = time.perf_counter()
        predict(waveform)
        seconds.append(time.perf_counter() - start)
    spoken_seconds = sum(map(len, waveforms)) / sampling_rate
    return {
        "p50_ms": float(np.percentile(seconds, 50) * 1000),
        "p95_ms": float(np.percentile(seconds, 95) * 1000),
        "real_time_factor": float(sum(seconds) / spoken_seconds),
        "clips": len(seconds),
    }
