"""Selection of test clips for the robustness test, and their perturbed waveforms.

The functions take the table of test clips and the dataset of their waveforms; `perturb_clips` yields the
waveforms of the selected clips, first unchanged, then under each perturbation.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.decoding import Waveforms
from utils.evaluation.perturbation_functions import NUM_BABBLE_SPEAKERS
from utils.evaluation.perturbations import PERTURBATIONS, apply_perturbation, unavailable_perturbations

if TYPE_CHECKING:
    from datasets import Dataset

CLEAN = "clean"
"""Name of the unchanged clips among the perturbations."""

SHARE = 0.4
"""Share of the test clips that is used: with the signal processing, each perturbation takes about half as
long as the evaluation of the whole test split."""

MIN_CLIPS, MAX_CLIPS = 40, 300
"""A small test split is used whole; the maximum keeps the test within minutes on a T4 GPU."""


def draw_clips(clips: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return a balanced random selection of the clips, in their original order.

    It has `SHARE` of the clips, within `MIN_CLIPS` and `MAX_CLIPS`, and, as far as `MAX_CLIPS` allows, each
    emotion of each speaker at least once. Clips are drawn in turn from each combination of speaker and
    emotion, so that both are as balanced as the clips allow. The selection depends on the seed and the names
    of the clips only.

    Args:
        clips: table of the test split with `clip`, `corpus`, `speaker`, `emotion`; clip names are unique
            within a corpus.
        seed: of the selection.
    """
    cells = ["corpus", "speaker", "emotion"]
    num_wanted = max(MIN_CLIPS, clips.groupby(cells).ngroups, round(SHARE * len(clips)))
    order = [_digest(seed, *names) for names in clips[["corpus", "clip"]].itertuples(index=False)]
    shuffled = clips.assign(order=order).sort_values("order")
    shuffled["turn"] = shuffled.groupby(cells).cumcount()
    drawn = shuffled.sort_values(["turn", "order"]).head(min(num_wanted, MAX_CLIPS)).index
    return clips[clips.index.isin(drawn)]


def perturb_clips(
    drawn: pd.DataFrame, waveforms: "Dataset", seed: int
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the name of each perturbation, `CLEAN` first, and the waveforms of the drawn clips under it.

    Args:
        drawn: as returned by `draw_clips`.
        waveforms: Dataset with a `waveform` column, float32 at 16 kHz; the index of `drawn` are its rows.
        seed: of the random numbers of the perturbations.
    """
    audio = Waveforms(waveforms)
    clean = {row: audio[row] for row in drawn.index}
    names = dict(zip(drawn.index, drawn["corpus"] + "/" + drawn["clip"], strict=True))
    yield CLEAN, list(clean.values())
    babble = {
        row: [clean[other] for other in _babble_rows(row, names, drawn["speaker"], seed)] for row in clean
    }
    skipped = skipped_perturbations(drawn)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # codecs release the global lock
        for perturbation in PERTURBATIONS:
            if perturbation in skipped:
                continue

            def perturb(row: int, perturbation: str = perturbation) -> np.ndarray:
                return apply_perturbation(perturbation, clean[row], names[row], seed, babble[row])

            yield perturbation, list(threads.map(perturb, clean))


def skipped_perturbations(drawn: pd.DataFrame) -> dict[str, str]:
    """Return perturbation -> reason why it cannot be made of these clips or on this machine."""
    babble = [name for name, perturbation in PERTURBATIONS.items() if perturbation.group == "babble"]
    without_others = babble if len(drawn) < 2 else []
    return unavailable_perturbations() | dict.fromkeys(without_others, "there is no other test clip")


def _babble_rows(row: int, names: dict[int, str], speakers: pd.Series, seed: int) -> list[int]:
    """Return the rows of the clips that make the babble noise for a clip.

    They are of other speakers, if there are any, and of as many different ones as possible. Ranks are drawn
    for each pair of clips, so that adding or removing a clip changes few choices.
    """
    others = speakers[speakers != speakers[row]]
    if others.empty:
        others = speakers.drop(row)
    order = [_digest(seed, names[row], names[other]) for other in others.index]
    ranked = pd.DataFrame({"speaker": others, "order": order})
    ranked["turn"] = ranked.sort_values("order").groupby("speaker").cumcount()
    return ranked.sort_values(["turn", "order"]).index[:NUM_BABBLE_SPEAKERS].tolist()


def _digest(seed: int, *names: str) -> bytes:
    return hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
