"""Colours, size and style shared by all figures, and `save_figure`, which writes a figure as PNG."""

import io
import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from utils.runtime import write_bytes

# Colours of Okabe and Ito that are distinguishable with colour vision deficiency (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#595959"

GENDER_COLORS = {"female": ORANGE, "male": BLUE}

EMOTION_COLORS = {
    "neutral": "#808080",  # instead of black, which would dominate
    "calm": "#56B4E9",
    "happy": ORANGE,
    "sad": BLUE,
    "angry": "#D55E00",
    "fearful": "#CC79A7",
    "disgust": GREEN,
    "surprised": "#F0E442",
}
"""Emotion -> colour, the same in all figures and on all pages."""

WIDTH = 9.5
"""Width of a figure in inches; a notebook shows it without shrinking."""

STYLE = matplotlib.rc_context(
    {
        "font.size": 10,
        "axes.titlesize": 11,
        "figure.titlesize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)
"""Decorator that draws a figure with these settings and restores the previous ones."""


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG at 150 dpi.

    The same figure always gives the same bytes, because no date and no version is written.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    write_bytes(Path(path), file.getvalue())
