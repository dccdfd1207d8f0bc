"""Synthesise the demo voices with a source-filter synthesiser (NumPy).

A voice source and frication noise pass through a vocal tract of seven formants. Each emotion changes the
prosody: pitch, tempo, level, voice quality. No person spoke.
"""

from dataclasses import astuple, dataclass

import numpy as np

from utils.data.corpora import CORPORA
from utils.data.corpora.ravdess import EMOTIONS as RAVDESS_EMOTIONS

SAMPLING_RATE = CORPORA["demo"].sampling_rate
FRAME_SECONDS = 0.01
HOP = int(SAMPLING_RATE * FRAME_SECONDS)
SPEECH_SECONDS = (0.85, 1.85)  # bounds on the sentence, without the silence around it
HIGHER_FORMANTS_HZ = (3500, 4500, 5500, 6500)  # male formants 4 to 7, equal in all phones
FORMANT_WIDTHS_HZ = (200, 250, 350, 450, 80, 100, 130)  # bandwidths of formants 4 to 7, then 1 to 3
STRENGTH = {"01": 1.0, "02": 1.5}  # intensity code -> factor on the deviations from neutral


@dataclass(frozen=True)
class Prosody:
    """Effect of an emotion on the voice, as deviations from neutral at normal intensity."""

    pitch_semitones: float = 0.0
    pitch_range_percent: float = 0.0
    ending_semitones: float = 0.0  # pitch change at the end of the sentence
    rate_percent: float = 0.0
    pause_seconds: float = 0.0
    level_db: float = 0.0
    brightness_db: float = 0.0  # spectral tilt: gain at 3 kHz
    breath_db: float = 0.0
    jitter_percent: float = 0.0
    tremor_semitones: float = 0.0
    onset_seconds: float = 0.0  # additional duration of voice onsets
    f1_percent: float = 0.0  # first formant: a wider or narrower mouth


# The directions follow Juslin & Laukka (2003, Psychol. Bull. 129:770; calm as their tenderness), Banse &
# Scherer (1996, J. Pers. Soc. Psychol. 70:614; disgust) and Scherer (2003, Speech Commun. 40:227). The
# magnitudes are our choice, and so is surprise as a high voice with a final rise.
# Columns: pitch, range, ending | rate, pause | level, brightness, breath | jitter, tremor, onset, F1.
PROSODY = {
    "neutral": Prosody(),
    "calm": Prosody(-1.2, -20, -0.5, -10, 0.02, -3.5, -3.5, 6.0, -0.2, 0.0, 0.010, 0.0),
    "happy": Prosody(4.0, 50, 1.0, 6, 0.00, 3.0, 4.5, 0.0, 0.0, 0.0, -0.003, 8.0),
    "sad": Prosody(-1.2, -40, -1.5, -16, 0.06, -5.0, -6.5, 3.0, 0.8, 0.2, 0.015, -8.0),
    "angry": Prosody(2.5, 20, -2.5, 8, 0.00, 6.5, 8.0, -4.0, 1.0, 0.0, -0.006, 8.0),
    "fearful": Prosody(5.0, -30, 1.0, 16, 0.02, 0.5, 2.5, 5.0, 1.0, 0.6, 0.000, -4.0),
    "disgust": Prosody(-2.0, 10, -2.0, -10, 0.03, 0.5, 2.5, -2.0, 2.0, 0.0, 0.006, -6.0),
    "surprised": Prosody(5.0, 70, 6.0, 0, 0.00, 2.5, 1.5, 3.0, 0.0, 0.0, -0.004, 5.0),
}

# Phone -> duration (s), formants F1, F2, F3 (Hz, male; vowels after Peterson & Barney 1952), level of
# voicing, level of frication, centre frequency of frication (Hz). "_" and "." are the closures of voiceless
# and voiced stops, "," is the place of the pause, and ' marks an accented phone.
PHONES = {
    "ih": (0.062, 390, 1990, 2550, 1.0, 0.0, 3000),
    "aa": (0.080, 730, 1090, 2440, 1.0, 0.0, 3000),
    "ao": (0.088, 570, 840, 2410, 1.0, 0.0, 3000),
    "ax": (0.042, 500, 1400, 2450, 0.8, 0.0, 3000),
    "r": (0.050, 420, 1300, 1650, 0.7, 0.0, 3000),
    "ng": (0.054, 280, 2150, 2750, 0.35, 0.0, 3000),
    "dh": (0.034, 300, 1350, 2550, 0.35, 0.06, 5000),
    "z": (0.058, 280, 1650, 2550, 0.25, 0.30, 6000),
    "s": (0.080, 300, 1650, 2550, 0.0, 0.45, 6000),
    ",": (0.005, 300, 1700, 2500, 0.0, 0.0, 3000),
    "_": (0.042, 300, 1700, 2500, 0.0, 0.0, 3000),
    ".": (0.034, 220, 1500, 2500, 0.12, 0.0, 3000),
    "k": (0.030, 300, 1900, 2400, 0.0, 0.40, 2000),
    "t": (0.030, 350, 1750, 2650, 0.0, 0.40, 4500),
    "b": (0.012, 250, 900, 2300, 0.4, 0.20, 900),
    "d": (0.014, 300, 1700, 2600, 0.4, 0.25, 4000),
    "g": (0.016, 280, 1800, 2300, 0.4, 0.25, 1900),
}
SENTENCES = {
    "01": "_ k 'ih . d z aa r _ t 'ao _ k ih ng , . b aa ih dh ax . d 'ao r",
    "02": ". d 'ao . g z aa r s 'ih _ t ih ng , . b aa ih dh ax . d 'ao r",
}


def synthesise(seed: int, emotion: str, intensity: str, sentence: str, actor: str) -> np.ndarray:
    """Return the clip with these codes of a RAVDESS name: float64 (num_samples,) at 16 kHz, peak below 1."""
    # Parameters of the speaker. Speakers vary enough that no single measure reveals the emotion.
    female = int(actor) % 2 == 0
    speaker_rng = np.random.default_rng([seed, int(actor)])
    speaker = speaker_rng.normal(size=5) * (2.0, 0.07, 2.5, 1.5, 1.5)
    tract_length, expressiveness, noise_db = speaker_rng.uniform((0.95, 0.8, -75), (1.05, 1.2, -65))
    tract_length *= 0.86 if female else 1.0  # relative to a male vocal tract

    # Parameters of the clip: the speaker's, with random variation from clip to clip.
    rng = np.random.default_rng([seed, int(emotion), int(intensity), int(sentence), int(actor)])
    pitch, tempo, level_db, tilt_db, breath_db = speaker + rng.normal(size=5) * (0.8, 0.05, 1.2, 1.0, 1.0)
    strength = STRENGTH[intensity] * expressiveness * rng.uniform(0.8, 1.2)
    prosody = Prosody(*(strength * value for value in astuple(PROSODY[RAVDESS_EMOTIONS[emotion]])))
    melody, formants, voicing, frication, frication_hz = _articulate(SENTENCES[sentence], prosody, tempo, rng)

    # The two sources, at twice the sampling rate.
    frame = np.arange(2 * HOP * len(melody)) / (2 * HOP)
    melody, voicing, frication = (
        np.interp(frame, np.arange(len(melody)), track) for track in (melody, voicing, frication)
    )
    f0 = (200 if female else 115) * 2 ** ((pitch + prosody.pitch_semitones + melody) / 12)
    breath = 10 ** ((breath_db + prosody.breath_db - 20) / 20)
    voicing *= _glottal_flow(f0, breath, 0.005 + prosody.jitter_percent / 100, rng)
    frication *= rng.normal(size=len(frication))

    # The filter, then level and background noise.
    formants *= np.array([1 + prosody.f1_percent / 100, 1, 1]) / tract_length
    higher = np.array(HIGHER_FORMANTS_HZ) / tract_length
    tilt_db += prosody.brightness_db - 4
    waveform = _filter_vocal_tract(voicing, frication, formants, higher, frication_hz, tilt_db)
    waveform *= 10 ** ((level_db + prosody.level_db - 34) / 20) / waveform.std()
    waveform += 10 ** (noise_db / 20) * rng.normal(size=len(waveform))
    return waveform * min(1.0, 0.95 / np.abs(waveform).max())


def _articulate(sentence: str, prosody: Prosody, tempo: float, rng) -> tuple[np.ndarray, ...]:
    """Return the synthesis parameters of a sentence, one value per frame of `FRAME_SECONDS`, float64.

    Args:
        sentence: phones of `PHONES`, separated by spaces.
        prosody: deviations from neutral of this clip.
        tempo: relative deviation of the speaker's tempo.
        rng: NumPy random generator.

    Returns:
        melody: pitch contour in semitones, (num_frames,).
        formants: in Hz, (num_frames, 3).
        voicing, frication: amplitudes of the two sources, (num_frames,).
        frication_hz: centre frequency of the frication noise, (num_frames,).
    """
    tokens = sentence.split()
    accented = np.array([token.startswith("'") for token in tokens])
    seconds, *targets = np.array([PHONES[token.strip("'")] for token in tokens], dtype=float).T
    seconds = seconds * (1 + 0.3 * accented) * rng.uniform(0.88, 1.12, len(tokens))
    seconds[-2:] *= 1.35  # phrase-final lengthening
    seconds /= np.clip((1.05 + tempo) * (1 + prosody.rate_percent / 100), 0.6, 1.6)
    seconds[tokens.index(",")] += prosody.pause_seconds
    seconds *= np.clip(seconds.sum(), *SPEECH_SECONDS) / seconds.sum()

    before, after = rng.uniform((0.08, 0.10), (0.14, 0.18))
    starts = before + np.cumsum(seconds) - seconds
    end = before + seconds.sum()
    times = np.arange(round((end + after) / FRAME_SECONDS)) * FRAME_SECONDS

    def glide(track: np.ndarray, arrive, leave) -> np.ndarray:
        """Interpolate linearly between targets, each held from `arrive` to `leave` seconds into its phone."""
        knots = np.stack([starts + arrive, starts + leave], axis=1).ravel()
        return np.interp(times, knots, np.repeat(track, 2))

    formants = np.stack([glide(track, 0.3 * seconds, 0.7 * seconds) for track in targets[:3]], axis=1)
    onset = np.clip(0.012 + prosody.onset_seconds, 0.004, seconds / 2.1)
    voicing, frication, frication_hz = (glide(track, onset, 0.9 * seconds) for track in targets[3:])
    envelope = np.clip((times - before) / 0.02, 0, 1) * np.clip((end - times) / 0.06, 0, 1)

    position = np.clip((times - before) / (end - before), 0, 1)
    from_accent = times[:, None] - (starts + seconds / 2)[accented]
    accents = (rng.uniform(2, 4, accented.sum()) * np.exp(-((from_accent / 0.07) ** 2))).sum(axis=1)
    melody = (accents + 1.5 - 4 * position) * max(0.2, 1 + prosody.pitch_range_percent / 100)
    melody += prosody.ending_semitones * np.clip((position - 0.7) / 0.3, 0, 1)
    melody += prosody.tremor_semitones * np.sin(2 * np.pi * (rng.uniform(5, 7) * times + rng.uniform()))
    return melody, formants, voicing * envelope, frication * envelope, frication_hz


def _glottal_flow(f0: np.ndarray, breath: float, jitter: float, rng) -> np.ndarray:
    """Return the voice source: the derivative of the glottal flow, with breath noise.

    The pulse is that of Klatt & Klatt (1990), open for 60 % of a cycle.

    Args:
        f0: fundamental frequency in Hz, at twice the sampling rate.
        breath: amplitude of the noise.
        jitter: relative standard deviation of the cycle length; the amplitude varies three times as much.
        rng: NumPy random generator.

    Returns:
        float64, as long as `f0`.
    """
    step = f0 / (2 * SAMPLING_RATE)
    irregular = rng.normal(size=(2, int(1.5 * step.sum()) + 10))  # per cycle: deviation of length, amplitude
    cycle = np.cumsum(step).astype(int)
    phase = np.cumsum(step * (1 + max(0.002, jitter) * irregular[0, cycle]))
    cycle, phase = phase.astype(int), phase % 1
    is_open = phase < 0.6
    flow = (2 * phase / 0.6 - 3 * (phase / 0.6) ** 2) * is_open
    flow *= 1 + 3 * max(0.002, jitter) * irregular[1, cycle]
    return flow + breath * (0.3 + is_open) * rng.normal(size=len(flow))


def _filter_vocal_tract(voicing, frication, formants, higher, frication_hz, tilt_db: float) -> np.ndarray:
    """Filter both sources frame by frame (overlap-add).

    The upper half of the spectra of the sources is dropped, since abrupt glottal closures would alias.

    Args:
        voicing, frication: the sources, at twice the sampling rate.
        formants: formants 1 to 3 in Hz, (num_frames, 3).
        higher: formants 4 to 7 in Hz.
        frication_hz: centre frequency of the frication noise, (num_frames,).
        tilt_db: spectral tilt, gain at 3 kHz relative to 500 Hz.

    Returns:
        float64 (HOP * num_frames,) at the sampling rate.
    """
    hertz = np.fft.rfftfreq(4 * HOP, 1 / SAMPLING_RATE)
    response = 10 ** (tilt_db / 20 * np.log2(np.maximum(hertz, 500) / 500) / np.log2(3000 / 500))
    delay = np.exp(-2j * np.pi * hertz / SAMPLING_RATE)
    for centre_hz, width_hz in zip((*higher, *formants.T[..., None]), FORMANT_WIDTHS_HZ, strict=True):
        radius = np.exp(-np.pi * width_hz / SAMPLING_RATE)
        first = 2 * radius * np.cos(2 * np.pi * centre_hz / SAMPLING_RATE)
        response = response * ((1 - first + radius**2) / (1 - first * delay + radius**2 * delay**2))
    noise_band = np.exp(-(((hertz - frication_hz[:, None]) / (0.3 * frication_hz[:, None] + 300)) ** 2))

    window = np.hanning(4 * HOP + 1)[:-1]
    spectrum = 0
    for source, gain in ((voicing, response), (frication, noise_band)):
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(source, 2 * HOP), 4 * HOP)[:: 2 * HOP]
        spectrum = spectrum + gain * np.fft.rfft(frames[: len(gain)] * window, 8 * HOP)[:, : len(hertz)]
    pieces = np.fft.irfft(spectrum, 4 * HOP).reshape(-1, 4, HOP)
    waveform = np.zeros((len(pieces) + 3, HOP))
    for part in range(4):
        waveform[part : part + len(pieces)] += pieces[:, part]
    return waveform[1 : 1 + len(pieces)].ravel()
