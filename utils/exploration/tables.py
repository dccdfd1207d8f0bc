"""A table of clips and their measures comes in; tables and sentences for people to read go out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.data.table import MAX_LISTED
from utils.exploration import statistics as data_stats
from utils.exploration.plots import emotions_of

LENGTH = {"duration_seconds": "Clip length (s)", "speech_seconds": "Speech part (s)"}
LOUDNESS = {
    "level_dbfs": "Level of the speech (dBFS)",
    "level_range_db": "Loudness range (dB)",
    "sounding_percent": "Frames that sound (%)",
    "peaks_per_second": "Loudness peaks per second",
}
PITCH = {
    "pitch_hz": "Median F0 (Hz)",
    "pitch_relative_semitones": "F0 against own median (semitones)",
    "pitch_range_semitones": "F0 range (semitones)",
    "voiced_percent": "Voiced frames (%)",
}
MEASURES = LENGTH | LOUDNESS | PITCH
"""Column -> its name and unit."""


def shown(frame: pd.DataFrame) -> dict[str, list]:
    """Return a table as the page wants it: `columns`, and `rows` of text, the index first."""
    frame = frame.reset_index()
    return {"columns": [str(name) for name in frame], "rows": frame.astype(str).to_numpy().tolist()}


def overview_table(corpora: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row per corpus: what was used of it."""
    rows = []
    for name, clips in corpora.items():
        speakers = clips.drop_duplicates("speaker")["gender"].value_counts()
        rows.append(
            {
                "corpus": CORPORA[name].title,
                "clips": len(clips),
                "published": CORPORA[name].num_clips,
                "minutes": f"{clips['duration_seconds'].sum() / 60:.1f}",
                "women": speakers.get("female", 0),
                "men": speakers.get("male", 0),
                "emotions": clips["emotion"].nunique(),
                "texts": clips["text"].nunique(),
            }
        )
    return pd.DataFrame(rows).set_index("corpus")


def counts_table(clips: pd.DataFrame, rows: str, columns: str) -> pd.DataFrame:
    """Return clip counts with an `all` row and column; emotions in their usual order."""
    counts = pd.crosstab(clips[rows], clips[columns], margins=True, margins_name="all")
    order = [*emotions_of(clips), "all"]
    counts.columns.name = None
    return counts.reindex(index=order) if rows == "emotion" else counts.reindex(columns=order)


def durations_table(clips: pd.DataFrame) -> pd.DataFrame:
    """Return per emotion the median and the 5th to 95th percentile of both lengths, in words."""
    order = emotions_of(clips)
    described = {}
    for measure, label in LENGTH.items():
        low, middle, high = (
            clips.groupby("emotion")[measure].quantile(share)[order] for share in (0.05, 0.5, 0.95)
        )
        described[label] = [
            f"{b:.2f} ({a:.2f} to {c:.2f})" for a, b, c in zip(low, middle, high, strict=True)
        ]
    return pd.DataFrame(described, pd.Index(order, name="emotion"))


def medians_table(clips: pd.DataFrame) -> pd.DataFrame:
    """Return the median of each loudness and pitch measure per emotion; F0 in Hz per gender."""
    by_emotion = clips.groupby("emotion")[[name for name in LOUDNESS | PITCH if name != "pitch_hz"]].median()
    by_emotion = by_emotion.rename(columns=LOUDNESS | PITCH)
    pitch = clips.pivot_table("pitch_hz", "emotion", "gender", aggfunc="median", dropna=False)
    for place, gender in enumerate(pitch, start=len(LOUDNESS)):
        by_emotion.insert(place, f"{PITCH['pitch_hz']}, {gender}", pitch[gender])
    return by_emotion.loc[emotions_of(clips)].map(lambda value: number(value, 1))


def effects_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Return test statistics and effect sizes of `data_stats.compare_emotions`, in words."""
    columns = {
        "anova_f": ("ANOVA F", 1),
        "kruskal_h": ("Kruskal–Wallis H", 1),
        "eta2": ("η²", 2),
        "omega2": ("ω²", 2),
        "epsilon2": ("ε² (ranks)", 2),
        "partial_eta2": ("partial η² (speaker held)", 2),
    }
    table = pd.DataFrame({"measure": tests["measure"].map(MEASURES), "clips": tests["clips"]})
    for column, (label, digits) in columns.items():
        table[label] = [number(value, digits) for value in tests[column]]
    return table.set_index("measure")


def p_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Return the Holm-corrected p-values of `data_stats.compare_emotions`, in words."""
    labels = {
        "anova_p": "ANOVA",
        "welch_p": "Welch's ANOVA",
        "kruskal_p": "Kruskal–Wallis",
        "speaker_p": "ANOVA, speaker held",
        "means_p": "Means of speakers",
    }
    table = pd.DataFrame({"measure": tests["measure"].map(MEASURES)})
    for column, label in labels.items():
        table[label] = tests[f"{column}_holm"].map(p_text)
    means = [
        f"{row.means_f:.1f} ({row.means_df1:.1f}, {row.means_df2:.1f})" if np.isfinite(row.means_f) else "–"
        for row in tests.itertuples()
    ]
    table.insert(table.shape[1] - 1, "F (df) of the means", means)
    return table.set_index("measure")


def p_text(p: float) -> str:
    """Return a p-value as text: three digits, "< 0.001" below that, a dash for none."""
    if not np.isfinite(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def words_on_tests(tests: pd.DataFrame) -> str:
    """Return in words which measures the emotion changes most, and what could be tested."""
    best = tests.dropna(subset="partial_eta2").nlargest(3, "partial_eta2")
    if best.empty:
        return "Nothing could be tested: there are not two emotions with several clips that differ."
    largest = ", ".join(f"{MEASURES[row.measure]} {row.partial_eta2:.2f}" for row in best.itertuples())
    words = f"Largest within a voice (partial η²): {largest}."
    if tests["means_p"].notna().any():
        return f"{words} The means are those of {tests['means_speakers'].max():.0f} speakers."
    return (
        f"{words} Whether this holds for other voices cannot be tested here: that takes at least "
        f"{data_stats.MIN_SPEAKERS} speakers who have every emotion."
    )


def left_out_words(everything: pd.DataFrame, finding: dict, num_other_emotions: int) -> list[str]:
    """Return in words what of a corpus is not on the page.

    Args:
        everything: the rows of the corpus in `table.read_table`.
        finding: of `table.check_table`.
        num_other_emotions: clips that were not asked for.
    """
    missing = finding["clips_expected"] - finding["clips_found"]
    copies = (everything["num_copies"] - 1).sum()
    lines = []
    if missing > 0:
        lines.append(f"{missing} of {finding['clips_expected']} published clips are missing")
    if missing < 0:
        lines.append(f"there are {-missing} clips more than were published")
    if num_other_emotions:
        lines.append(f"{num_other_emotions} clips of emotions that were not asked for")
    if copies:
        lines.append(f"{copies} further copies of the same files")
    for words, clips in (
        ("byte-identical to another, counted once", finding["identical"]),
        ("unusable", finding["unusable"]),
    ):
        lines += [f"{words}: {clip}" for clip in clips[:MAX_LISTED]]
        if len(clips) > MAX_LISTED:
            lines.append(f"{words}: {len(clips) - MAX_LISTED} more")
    return lines or ["nothing"]


def separation_words(found: dict[str, float] | None, by: str) -> dict[str, str]:
    """Return the cells for what `data_stats.separation_of` found for clips grouped by `by`."""
    found = found or dict.fromkeys(("silhouette", "neighbour", "other_voice", "chance"), data_stats.NAN)
    # Another speaker is never of the same speaker.
    other_voice = data_stats.NAN if by == "speaker" else found["other_voice"]
    return {
        "grouped by": by,
        "silhouette": number(found["silhouette"], 2),
        "nearest clip of the same group": number(100 * found["neighbour"], 0, " %"),
        "nearest among other speakers": number(100 * other_voice, 0, " %"),
        "by chance": number(100 * found["chance"], 0, " %"),
    }


def number(value: float, digits: int, unit: str = "") -> str:
    """Return a number as text; a dash for none."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0:.{digits}f}{unit}" if np.isfinite(value) else "–"
