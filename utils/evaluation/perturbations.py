"""A waveform comes in; what a microphone, a room, a line or an editor could have made of it goes out.

`PERTURBATIONS` is the table of a robustness test. No change clips unless that is its subject: samples may
leave -1 to 1, for a model must not be blamed for an overload that its condition does not name.
"""

import functools
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, correlate, fftconvolve, sosfilt

from utils.data.audio import SAMPLING_RATE
from utils.data.speech import speech_part

NUM_VOICES = 5
"""Of a babble; audEERING's tests mix four to seven."""

MAINS_HERTZ = (50, 60)
NUM_HARMONICS = 20  # of hum, falling by 6 dB per octave

RT60_SECONDS = 0.6
"""In which the sound of the room falls by 60 dB: a large living room, a small classroom."""

DIRECT_TO_REVERBERANT_DB = 0.0
"""As at the room's critical distance, a metre or two from the speaker."""

TELEPHONE_HERTZ = (300, 3400)

NOMINAL_LEVEL_DB = -26.0
"""Level of speech at which codecs are tested, below full scale (ITU-T G.191, P.56). Clips are brought to it
before a codec and back after, or the codec would meet some of them far too quiet."""

CLIPPED_SHARE = 0.003
"""Of the samples, as in audEERING's tests at most; hardly heard."""

CLIPPED_LEVEL = 0.25
"""Of the clip's peak: an overdriven microphone."""

SILENCE_SECONDS = 1.0
SILENCE_DB = -60.0
"""Silence is white noise so far below the speech: about the pauses of RAVDESS, which lie 47 to 114 dB below.
Digital zero comes from editors, not from microphones, and its logarithm stands apart from anything heard."""

Change = Callable[[np.ndarray, np.random.Generator, Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Perturbation:
    """One change.

    Attributes:
        group: its kind. A clip meets the same noise and room in all conditions of a group.
        words: what is done, with units, to stand after "with".
        mark: which of the marks of `stress.THRESHOLDS` it is measured by; None, where no test is published.
        change: (waveform, generator, voices) -> changed waveform.
    """

    group: str
    words: str
    mark: str | None
    change: Change


def apply(name: str, waveform: np.ndarray, clip: str, seed: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Return what the condition `name` makes of a clip.

    Args:
        waveform: float32 (num_samples,) at 16 kHz.
        clip: the clip's name. What is random follows from it, the seed and the condition's group alone, not
            from the order of the clips nor from their number.
        voices: waveforms of other clips, at least one, for babble; the other conditions ignore them.

    Returns:
        float32 (num_changed_samples,), finite if the waveform is.
    """
    condition = PERTURBATIONS[name]
    digest = hashlib.sha256(f"{seed}/{condition.group}/{clip}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16]))
    changed = condition.change(np.asarray(waveform, np.float32), generator, voices)
    return np.ascontiguousarray(changed, np.float32)


def left_out() -> dict[str, str]:
    """Return condition -> why this machine cannot make it."""
    return {
        name: f"this libsndfile ({soundfile.__libsndfile_version__}) does not write and read it"
        for name, codec in _CODECS.items()
        if codec_delay(*codec) is None
    }


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Return waveform + noise; the ratio is that of the RMS of the clip's speech to the RMS of all the noise.

    The speech are all moments within 35 dB of the loudest 40 ms (`voice.speech_part`): silence around it
    does not count, for else the same words in a longer file would stand in louder noise.
    """
    rms = np.sqrt(np.mean(noise**2, dtype=np.float64))
    return waveform + noise * (speech_part(waveform)[1] * 10 ** (-snr_db / 20) / max(rms, 1e-10))


def _white_noise(snr_db: float) -> Change:
    def change(waveform, generator, voices):
        return add_noise(waveform, generator.standard_normal(len(waveform), np.float32), snr_db)

    return change


def _babble(snr_db: float) -> Change:
    """Add `NUM_VOICES` voices, all equally loud, each begun somewhere and repeated to the clip's end."""

    def change(waveform, generator, voices):
        babble = np.zeros(len(waveform), np.float32)
        for voice in voices:
            speech = speech_part(voice)[0]
            babble += np.resize(np.roll(speech, -int(generator.integers(len(speech)))), len(waveform))
        return add_noise(waveform, babble, snr_db)

    return change


def _hum(snr_db: float) -> Change:
    def change(waveform, generator, voices):
        fundamental = generator.choice(MAINS_HERTZ)
        phases = generator.uniform(0, 2 * np.pi, NUM_HARMONICS)
        seconds = np.arange(SAMPLING_RATE // 10) / SAMPLING_RATE  # whole periods: five of 50 Hz, six of 60
        periods = sum(
            np.sin(2 * np.pi * fundamental * number * seconds + phase) / number
            for number, phase in enumerate(phases, start=1)
        )
        return add_noise(waveform, np.resize(periods, len(waveform)), snr_db)

    return change


def _room(waveform, generator, voices):
    """Reverberate by noise that decays exponentially (Polack 1988), as loud as before; the end rings on."""
    num_samples = round(RT60_SECONDS * SAMPLING_RATE)
    tail = generator.standard_normal(num_samples) * 10 ** (-3 * np.arange(num_samples) / num_samples)
    tail *= 10 ** (-DIRECT_TO_REVERBERANT_DB / 20) / np.linalg.norm(tail)
    tail[0] = 1  # the direct path
    return _as_loud_as(fftconvolve(waveform, tail), waveform)


def _telephone(waveform, generator, voices):
    band = butter(6, TELEPHONE_HERTZ, "bandpass", fs=SAMPLING_RATE, output="sos")
    return _as_loud_as(sosfilt(band, waveform), waveform)


def _mu_law(waveform, generator, voices):
    """Send through ITU-T G.711: 8 kHz, 8 bits of µ-law."""
    narrow = soxr.resample(waveform, SAMPLING_RATE, 8_000)
    decoded = soxr.resample(_round_trip(narrow, 8_000, "WAV", "ULAW"), 8_000, SAMPLING_RATE)
    return _fit(decoded, len(waveform))


def _codec(file_format: str, subtype: str) -> Change:
    def change(waveform, generator, voices):
        decoded = _round_trip(waveform, SAMPLING_RATE, file_format, subtype)
        return _fit(decoded[codec_delay(file_format, subtype) or 0 :], len(waveform))

    return change


@functools.cache
def codec_delay(file_format: str, subtype: str) -> int | None:
    """Return by how many samples a round trip delays; None if libsndfile or soundfile cannot make it."""
    sound = 0.1 * np.random.default_rng(0).standard_normal(SAMPLING_RATE).astype(np.float32)
    sound = sosfilt(butter(2, 2_000, fs=SAMPLING_RATE, output="sos"), sound).astype(np.float32)
    try:
        decoded = _round_trip(sound, SAMPLING_RATE, file_format, subtype)
    except (RuntimeError, ValueError):  # refused by libsndfile; a format that soundfile does not know
        return None
    delay = int(correlate(decoded, sound, method="fft").argmax()) - (len(sound) - 1)
    return max(delay, 0)


def _round_trip(waveform: np.ndarray, sampling_rate: int, file_format: str, subtype: str) -> np.ndarray:
    """Write and read a file in memory, at `NOMINAL_LEVEL_DB`; return it as loud as it came."""
    loudest = np.abs(waveform).max()
    factor = 10 ** (NOMINAL_LEVEL_DB / 20) / max(speech_part(waveform)[1], 1e-10)
    factor = min(factor, 0.9 / max(loudest, 1e-10))  # a codec's integers end at 1
    file = io.BytesIO()
    soundfile.write(file, waveform * np.float32(factor), sampling_rate, format=file_format, subtype=subtype)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return decoded / np.float32(factor)


def _gain(gain_db: float) -> Change:
    return lambda waveform, generator, voices: waveform * 10 ** (gain_db / 20)


def _clip_share(waveform, generator, voices):
    limit = np.quantile(np.abs(waveform), 1 - CLIPPED_SHARE)
    return np.clip(waveform, -limit, limit)


def _clip_level(waveform, generator, voices):
    limit = CLIPPED_LEVEL * np.abs(waveform).max()
    return np.clip(waveform, -limit, limit)


def _speed(factor: float) -> Change:
    return lambda waveform, generator, voices: soxr.resample(waveform, SAMPLING_RATE * factor, SAMPLING_RATE)


def _pitch(semitones: float) -> Change:
    def change(waveform, generator, voices):
        import librosa

        # Windows of 64 ms: those of 128, librosa's own choice, smear what is spoken.
        changed = librosa.effects.pitch_shift(waveform, sr=SAMPLING_RATE, n_steps=semitones, n_fft=1024)
        return _as_loud_as(changed, waveform)  # the phase vocoder makes it quieter

    return change


def _crop(seconds: float) -> Change:
    """Keep the part of so many seconds that has the most energy; a shorter clip stays whole."""

    def change(waveform, generator, voices):
        num_samples = round(seconds * SAMPLING_RATE)
        if len(waveform) <= num_samples:
            return waveform.copy()
        energy = np.concatenate([[0], np.cumsum(waveform.astype(np.float64) ** 2)])
        start = int((energy[num_samples:] - energy[:-num_samples]).argmax())
        return waveform[start : start + num_samples]

    return change


def _silence(before: bool) -> Change:
    def change(waveform, generator, voices):
        noise = generator.standard_normal(round(SILENCE_SECONDS * SAMPLING_RATE), np.float32)
        silence = waveform.mean() + noise * speech_part(waveform)[1] * 10 ** (SILENCE_DB / 20)
        return np.concatenate([silence, waveform] if before else [waveform, silence])

    return change


def _as_loud_as(changed: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """Give the speech in `changed` the RMS that it has in `waveform`."""
    return changed * (speech_part(waveform)[1] / max(speech_part(changed)[1], 1e-10))


def _fit(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))


_CODECS = {"MP3": ("MP3", "MPEG_LAYER_III"), "Opus": ("OGG", "OPUS")}

_NOISES = {"white noise": _white_noise, "babble": _babble, "hum": _hum}
_NOISE_WORDS = {"white noise": "white noise", "babble": "babble noise", "hum": "mains hum"}

PERTURBATIONS = {
    f"{noise}, {snr_db} dB": Perturbation(
        noise, f"{_NOISE_WORDS[noise]} at {snr_db} dB SNR", "noise", change(float(snr_db))
    )
    for noise, change in _NOISES.items()
    for snr_db in (20, 10, 0)
} | {
    "room": Perturbation("room", f"room reverberation (RT60 {RT60_SECONDS} s)", "room", _room),
    "telephone band": Perturbation(
        "telephone", "the band of a telephone, {} to {} Hz".format(*TELEPHONE_HERTZ), "telephone", _telephone
    ),
    "µ-law, 8 kHz": Perturbation("telephone", "an 8 kHz µ-law codec", "telephone", _mu_law),
    # At libsndfile's default quality, variable in bit rate.
    "MP3": Perturbation(
        "codec", "a round trip through MP3, about 40 kbit/s", "small", _codec(*_CODECS["MP3"])
    ),
    "Opus": Perturbation(
        "codec", "a round trip through Opus, about 30 kbit/s", "small", _codec(*_CODECS["Opus"])
    ),
    "gain +12 dB": Perturbation("gain", "a gain of +12 dB", "small", _gain(12)),
    "gain -12 dB": Perturbation("gain", "a gain of -12 dB", "small", _gain(-12)),
    "clipping, light": Perturbation(
        "clipping", f"{100 * CLIPPED_SHARE:.1f} % of the samples clipped", "small", _clip_share
    ),
    "clipping, hard": Perturbation("clipping", f"clipping at {CLIPPED_LEVEL} of the peak", None, _clip_level),
    "speed +10 %": Perturbation("speed", "a speed of 110 %, pitch with it", None, _speed(1.1)),
    "speed -10 %": Perturbation("speed", "a speed of 90 %, pitch with it", None, _speed(0.9)),
    "pitch +2": Perturbation("pitch", "the pitch 2 semitones up", None, _pitch(2)),
    "pitch -2": Perturbation("pitch", "the pitch 2 semitones down", None, _pitch(-2)),
    "loudest 3 s": Perturbation("crop", "the loudest 3 s alone", None, _crop(3)),
    "loudest 2 s": Perturbation("crop", "the loudest 2 s alone", None, _crop(2)),
    "loudest 1 s": Perturbation("crop", "the loudest 1 s alone", None, _crop(1)),
    "silence before": Perturbation(
        "silence", f"{SILENCE_SECONDS:.0f} s of silence before the clip", "small", _silence(before=True)
    ),
    "silence after": Perturbation(
        "silence", f"{SILENCE_SECONDS:.0f} s of silence after the clip", "small", _silence(before=False)
    ),
}
