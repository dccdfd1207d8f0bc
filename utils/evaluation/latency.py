"""Inference time per clip of a classifier.

`measure_latency` takes a prediction function and waveforms, and returns percentiles and the real-time factor.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np


def measure_latency(
    predict: Callable[[np.ndarray], object],
    waveforms: Sequence[np.ndarray],
    sampling_rate: int,
    num_warm_up: int = 3,
) -> dict[str, float]:
    """Measure the time that `predict` takes for one clip at a time.

    Args:
        predict: takes a waveform (num_samples,) and returns once the result is available on the CPU.
        waveforms: clips to measure.
        sampling_rate: of the waveforms, in Hz.
        num_warm_up: the first `num_warm_up` clips are predicted once before the measurement, untimed.

    Returns:
        `p50_ms` and `p95_ms` per clip, `real_time_factor` (processing time / duration of the clips), and
        `clips` (number of clips).
    """
    for waveform in waveforms[:num_warm_up]:
        predict(waveform)
    seconds = []
    for waveform in waveforms:
        start = time.perf_counter()
        predict(waveform)
        seconds.append(time.perf_counter() - start)
    audio_seconds = sum(map(len, waveforms)) / sampling_rate
    return {
        "p50_ms": float(np.percentile(seconds, 50) * 1000),
        "p95_ms": float(np.percentile(seconds, 95) * 1000),
        "real_time_factor": float(sum(seconds) / audio_seconds),
        "clips": len(seconds),
    }
