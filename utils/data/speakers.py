"""Which corpora have common speakers."""

from collections.abc import Sequence

import numpy as np


def join_corpora(corpora: Sequence[str], speakers: Sequence[str]) -> np.ndarray:
    """Return the corpus of each clip, where corpora with common speakers are one, under the first's name.

    Args:
        corpora, speakers: of each clip, (num_clips,).
    """
    order = list(dict.fromkeys(corpora))
    joined, first_corpus = dict(zip(order, order, strict=True)), {}
    for corpus, speaker in dict.fromkeys(zip(corpora, speakers, strict=True)):
        pair = joined[corpus], joined[first_corpus.setdefault(speaker, corpus)]
        first = min(pair, key=order.index)
        joined = {name: first if root in pair else root for name, root in joined.items()}
    return np.array([joined[corpus] for corpus in corpora])
