"""The perturbations of the robustness test: noise, reverberation, codecs, gain, clipping and others.

`PERTURBATIONS` is the table of all of them; `apply_perturbation` takes a waveform and returns it perturbed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.evaluation import perturbation_functions as functions
from utils.evaluation.codec_simulation import CODECS, unavailable_codecs


@dataclass(frozen=True)
class Perturbation:
    """One perturbation.

    Attributes:
        group: kind of perturbation. A clip gets the same random numbers in all perturbations of a group.
        description: what is changed, with units; it completes a sentence that begins with "With".
        threshold: key of `robustness_assessment.THRESHOLDS`, None where no threshold is published.
        function: (waveform, generator, other_waveforms) -> perturbed waveform.
    """

    group: str
    description: str
    threshold: str | None
    function: functions.PerturbationFunction


def apply_perturbation(
    name: str, waveform: np.ndarray, clip: str, seed: int, other_waveforms: Sequence[np.ndarray]
) -> np.ndarray:
    """Return a perturbed clip.

    Args:
        name: key of `PERTURBATIONS`.
        waveform: float32 (num_samples,) at 16 kHz.
        clip: name of the clip. Random numbers depend on it, the seed and the group of the perturbation only,
            not on the order or the number of clips.
        seed: of the random numbers.
        other_waveforms: waveforms of other clips for babble noise, at least one; ignored otherwise.

    Returns:
        float32 (num_perturbed_samples,), finite if the waveform is finite.
    """
    perturbation = PERTURBATIONS[name]
    digest = hashlib.sha256(f"{seed}/{perturbation.group}/{clip}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16]))
    perturbed = perturbation.function(np.asarray(waveform, np.float32), generator, other_waveforms)
    return np.ascontiguousarray(perturbed, np.float32)


def unavailable_perturbations() -> dict[str, str]:
    """Return perturbation -> reason why it cannot be made on this machine."""
    return unavailable_codecs()  # the perturbations have the names of the codecs


_NOISES = {
    "white noise": ("white noise", functions.white_noise),
    "babble": ("babble noise", functions.babble_noise),
    "hum": ("mains hum", functions.mains_hum),
}

PERTURBATIONS = {
    f"{group}, {snr_db} dB": Perturbation(
        group, f"{words} at {snr_db} dB SNR", "noise", function(float(snr_db))
    )
    for group, (words, function) in _NOISES.items()
    for snr_db in (20, 10, 0)
} | {
    "room": Perturbation(
        "room", f"room reverberation (RT60 {functions.RT60_SECONDS} s)", "room", functions.reverberate
    ),
    "telephone band": Perturbation(
        "telephone",
        "telephone bandwidth ({} to {} Hz)".format(*functions.TELEPHONE_HERTZ),
        "telephone",
        functions.telephone_band,
    ),
    "µ-law, 8 kHz": Perturbation("telephone", "an 8 kHz µ-law codec", "telephone", functions.mu_law),
    "MP3": Perturbation("codec", "MP3 coding at about 40 kbit/s", "small", functions.codec(*CODECS["MP3"])),
    "Opus": Perturbation(
        "codec", "Opus coding at about 30 kbit/s", "small", functions.codec(*CODECS["Opus"])
    ),
    "gain +12 dB": Perturbation("gain", "a gain of +12 dB", "small", functions.gain(12)),
    "gain -12 dB": Perturbation("gain", "a gain of -12 dB", "small", functions.gain(-12)),
    "clipping, light": Perturbation(
        "clipping",
        f"{100 * functions.CLIPPED_SHARE:.1f} % of the samples clipped",
        "small",
        functions.clip_share,
    ),
    "clipping, hard": Perturbation(
        "clipping", f"clipping at {functions.CLIPPED_LEVEL} of the peak", None, functions.clip_level
    ),
    "speed +10 %": Perturbation("speed", "speed and pitch raised by 10 %", None, functions.speed(1.1)),
    "speed -10 %": Perturbation("speed", "speed and pitch lowered by 10 %", None, functions.speed(0.9)),
    "pitch +2": Perturbation("pitch", "the pitch raised by 2 semitones", None, functions.pitch(2)),
    "pitch -2": Perturbation("pitch", "the pitch lowered by 2 semitones", None, functions.pitch(-2)),
    "loudest 3 s": Perturbation("crop", "only the loudest 3 s", None, functions.crop(3)),
    "loudest 2 s": Perturbation("crop", "only the loudest 2 s", None, functions.crop(2)),
    "loudest 1 s": Perturbation("crop", "only the loudest 1 s", None, functions.crop(1)),
    "silence before": Perturbation(
        "silence",
        f"{functions.SILENCE_SECONDS:.0f} s of silence before the clip",
        "small",
        functions.add_silence(before=True),
    ),
    "silence after": Perturbation(
        "silence",
        f"{functions.SILENCE_SECONDS:.0f} s of silence after the clip",
        "small",
        functions.add_silence(before=False),
    ),
}
