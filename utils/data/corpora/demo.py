"""The synthetic voices of `--demo`, named as in RAVDESS with the vocal channel 03, unused in RAVDESS."""

from utils.data.corpora.base import Corpus, speaker_ids
from utils.data.corpora.ravdess import EMOTIONS, parse_name

DEMO = Corpus(
    name="demo",
    title="synthetic demo voices",
    emotions=tuple(EMOTIONS.values()),
    num_clips=480,  # 16 speakers x 2 sentences x (neutral once, 7 emotions at 2 intensities)
    num_speakers=16,
    sampling_rate=16_000,
    license="apache-2.0",
    license_url="https://www.apache.org/licenses/LICENSE-2.0",
    citation="Synthesised by utils/data/synthesis.py of this kit. No person spoke.",
    homepage="",
    validation_speakers=speaker_ids("demo", (11, 12)),
    test_speakers=speaker_ids("demo", (13, 14, 15, 16)),
    folds=tuple(speaker_ids("demo", range(first, first + 4)) for first in (1, 5, 9, 13)),
    parse=lambda stem: parse_name(stem, "03", "demo", "demo"),
)
