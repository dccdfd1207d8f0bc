"""Write the demo corpus: synthetic emotional "speech", for runs without a network or a corpus.

File names follow RAVDESS, and a seed determines every byte. No person spoke, and results on these clips are
not real results.
"""

import io
import json
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from utils.data.corpora import CORPORA
from utils.data.corpora.ravdess import EMOTIONS as RAVDESS_EMOTIONS
from utils.data.synthesis import SAMPLING_RATE, SENTENCES, STRENGTH, synthesise
from utils.runtime import write_bytes, write_text

GENERATOR_VERSION = 1  # increase it with any change to the sound: folders of other versions are replaced
MARKER = "demo_corpus.json"  # written last: a folder that contains it is complete
MAX_SPEAKERS = 24  # file names of RAVDESS allow actor numbers up to 24


def make_demo_corpus(folder: Path, seed: int = 0, num_speakers: int = CORPORA["demo"].num_speakers) -> Path:
    """Write 30 clips per speaker as `folder/Actor_NN/03-03-EE-II-SS-01-NN.wav` (16 kHz, 16-bit PCM).

    A complete folder of the same seed and size is left unchanged; any other is replaced, clip by clip. The
    same seed gives the same bytes, so several processes may write at the same time.

    Args:
        folder: where the clips go; created if it does not exist.
        seed: of all random parameters.
        num_speakers: 1 to `MAX_SPEAKERS`; odd numbers are male, even ones female voices.

    Returns:
        `folder`.

    Raises:
        ValueError: `num_speakers` is out of range.
    """
    if not 1 <= num_speakers <= MAX_SPEAKERS:
        raise ValueError(f"num_speakers: expected 1 to {MAX_SPEAKERS}, got {num_speakers}")
    folder = Path(folder)
    marker = folder / MARKER
    settings = json.dumps(
        {"generator_version": GENERATOR_VERSION, "seed": seed, "num_speakers": num_speakers}
    )
    actors = [f"{actor:02d}" for actor in range(1, num_speakers + 1)]
    clips = {}  # path -> codes
    for emotion, intensity, sentence, actor in product(RAVDESS_EMOTIONS, STRENGTH, SENTENCES, actors):
        if RAVDESS_EMOTIONS[emotion] != "neutral" or intensity == "01":
            name = f"03-03-{emotion}-{intensity}-{sentence}-01-{actor}.wav"
            clips[folder / f"Actor_{actor}" / name] = (emotion, intensity, sentence, actor)
    if marker.is_file() and marker.read_text() == settings and all(path.is_file() for path in clips):
        return folder
    marker.unlink(missing_ok=True)
    for stale in set(folder.glob("Actor_*/03-03-*.wav")) - set(clips):  # from a call with more speakers
        stale.unlink(missing_ok=True)
    for path, codes in tqdm(clips.items(), desc="Synthesising demo voices", unit="clip", disable=None):
        pcm = np.round(32767 * synthesise(seed, *codes)).astype(np.int16)
        wav = io.BytesIO()
        soundfile.write(wav, pcm, SAMPLING_RATE, subtype="PCM_16", format="WAV")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, wav.getvalue())
    write_text(marker, settings)
    return folder
