"""The colours, size and style of all figures, and how one is saved."""

import io
import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from utils.runtime import write_bytes

# Okabe and Ito's colours, which people of any colour vision can tell apart (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#595959"

GENDER_COLORS = {"female": ORANGE, "male": BLUE}

WIDTH = 9.5
"""Inches; what a notebook shows without shrinking."""

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


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG at 150 dpi. The same figure gives the same bytes: no date, no version."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    write_bytes(Path(path), file.getvalue())
