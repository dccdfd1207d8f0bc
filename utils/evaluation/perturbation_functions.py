"""Signal processing of the perturbations: noise, reverberation, codecs, gain, clipping, speed, pitch, cuts.

Each `PerturbationFunction` takes a waveform, float32 (num_samples,) at 16 kHz, a random generator, and the
waveforms of other clips (used for babble noise only), and returns the perturbed waveform. Samples may leave
-1..1: no perturbation clips unless clipping is its subject.
"""

from collections.abc import Callable, Sequence

import numpy as np
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from utils.data.audio import SAMPLING_RATE
from utils.data.speech import speech_part
from utils.evaluation.codec_simulation import encode_and_decode, mu_law_8khz

NUM_BABBLE_SPEAKERS = 5
"""Clips mixed to babble noise; audEERING's tests mix four to seven."""

MAINS_HERTZ = (50, 60)
NUM_HARMONICS = 20  # of mains hum, falling by 6 dB per octave

RT60_SECONDS = 0.6
"""Reverberation time, in which the sound decays by 60 dB: a large living room or a small classroom."""

DIRECT_TO_REVERBERANT_DB = 0.0
"""Ratio at the critical distance of the room, one or two metres from the speaker."""

TELEPHONE_HERTZ = (300, 3400)

CLIPPED_SHARE = 0.003
"""Share of clipped samples in light clipping, the maximum in audEERING's tests; hardly audible."""

CLIPPED_LEVEL = 0.25
"""Clipping level relative to the peak of the clip, in hard clipping: an overdriven microphone."""

SILENCE_SECONDS = 1.0
SILENCE_DB = -60.0
"""Added silence is white noise at this level relative to the speech, about that of the pauses of RAVDESS (47
to 114 dB below the speech). Digital silence comes from editors, not from microphones, and its logarithm lies
far outside the range of recorded audio."""

PerturbationFunction = Callable[[np.ndarray, np.random.Generator, Sequence[np.ndarray]], np.ndarray]


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Return waveform + noise at a given signal-to-noise ratio (SNR).

    The ratio is that of the root mean square (RMS) of the speech to the RMS of the whole noise. Speech is
    every moment within 35 dB of the loudest 40 ms (`speech.speech_part`): silence around it does not count,
    so the same words in a longer file get the same noise.

    Args:
        waveform: float32 (num_samples,).
        noise: float array (num_samples,), at any level.
        snr_db: signal-to-noise ratio in dB.
    """
    noise_rms = np.sqrt(np.mean(noise**2, dtype=np.float64))
    return waveform + noise * (speech_part(waveform)[1] * 10 ** (-snr_db / 20) / max(noise_rms, 1e-10))


def white_noise(snr_db: float) -> PerturbationFunction:
    def perturb(waveform, generator, other_waveforms):
        return add_noise(waveform, generator.standard_normal(len(waveform), np.float32), snr_db)

    return perturb


def babble_noise(snr_db: float) -> PerturbationFunction:
    """Add the speech of other clips at equal levels, each from a random start and repeated as needed."""

    def perturb(waveform, generator, other_waveforms):
        babble = np.zeros(len(waveform), np.float32)
        for other in other_waveforms:
            speech = speech_part(other)[0]
            babble += np.resize(np.roll(speech, -int(generator.integers(len(speech)))), len(waveform))
        return add_noise(waveform, babble, snr_db)

    return perturb


def mains_hum(snr_db: float) -> PerturbationFunction:
    def perturb(waveform, generator, other_waveforms):
        fundamental = generator.choice(MAINS_HERTZ)
        phases = generator.uniform(0, 2 * np.pi, NUM_HARMONICS)
        seconds = np.arange(SAMPLING_RATE // 10) / SAMPLING_RATE  # 5 whole periods of 50 Hz, 6 of 60 Hz
        hum = sum(
            np.sin(2 * np.pi * fundamental * number * seconds + phase) / number
            for number, phase in enumerate(phases, start=1)
        )
        return add_noise(waveform, np.resize(hum, len(waveform)), snr_db)

    return perturb


def reverberate(waveform, generator, other_waveforms):
    """Convolve with exponentially decaying noise (Polack 1988) at equal level; the tail is kept."""
    num_samples = round(RT60_SECONDS * SAMPLING_RATE)
    response = generator.standard_normal(num_samples) * 10 ** (-3 * np.arange(num_samples) / num_samples)
    response *= 10 ** (-DIRECT_TO_REVERBERANT_DB / 20) / np.linalg.norm(response)
    response[0] = 1  # the direct path
    return _match_level(fftconvolve(waveform, response), waveform)


def telephone_band(waveform, generator, other_waveforms):
    band = butter(6, TELEPHONE_HERTZ, "bandpass", fs=SAMPLING_RATE, output="sos")
    return _match_level(sosfilt(band, waveform), waveform)


def mu_law(waveform, generator, other_waveforms):
    return mu_law_8khz(waveform)


def codec(file_format: str, subtype: str) -> PerturbationFunction:
    return lambda waveform, generator, other_waveforms: encode_and_decode(waveform, file_format, subtype)


def gain(gain_db: float) -> PerturbationFunction:
    return lambda waveform, generator, other_waveforms: waveform * 10 ** (gain_db / 20)


def clip_share(waveform, generator, other_waveforms):
    limit = np.quantile(np.abs(waveform), 1 - CLIPPED_SHARE)
    return np.clip(waveform, -limit, limit)


def clip_level(waveform, generator, other_waveforms):
    limit = CLIPPED_LEVEL * np.abs(waveform).max()
    return np.clip(waveform, -limit, limit)


def speed(factor: float) -> PerturbationFunction:
    """Change speed and pitch together by resampling."""
    return lambda waveform, generator, other_waveforms: soxr.resample(
        waveform, SAMPLING_RATE * factor, SAMPLING_RATE
    )


def pitch(semitones: float) -> PerturbationFunction:
    """Shift the pitch at constant speed with a phase vocoder."""

    def perturb(waveform, generator, other_waveforms):
        import librosa

        # Windows of 64 ms: librosa's default of 128 ms smears speech.
        shifted = librosa.effects.pitch_shift(waveform, sr=SAMPLING_RATE, n_steps=semitones, n_fft=1024)
        return _match_level(shifted, waveform)  # the phase vocoder lowers the level

    return perturb


def crop(seconds: float) -> PerturbationFunction:
    """Keep the part of the given length with the highest energy; a shorter clip is kept whole."""

    def perturb(waveform, generator, other_waveforms):
        num_samples = round(seconds * SAMPLING_RATE)
        if len(waveform) <= num_samples:
            return waveform.copy()
        energy = np.concatenate([[0], np.cumsum(waveform.astype(np.float64) ** 2)])
        start = int((energy[num_samples:] - energy[:-num_samples]).argmax())
        return waveform[start : start + num_samples]

    return perturb


def add_silence(before: bool) -> PerturbationFunction:
    """Add `SILENCE_SECONDS` of silence before or after the clip."""

    def perturb(waveform, generator, other_waveforms):
        noise = generator.standard_normal(round(SILENCE_SECONDS * SAMPLING_RATE), np.float32)
        silence = waveform.mean() + noise * speech_part(waveform)[1] * 10 ** (SILENCE_DB / 20)
        return np.concatenate([silence, waveform] if before else [waveform, silence])

    return perturb


def _match_level(perturbed: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """Scale `perturbed` so that its speech has the same RMS as that of `waveform`."""
    return perturbed * (speech_part(waveform)[1] / max(speech_part(perturbed)[1], 1e-10))
