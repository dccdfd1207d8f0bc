"""Tables and sentences of the exploration page, from the clips, their measures and the tests."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from utils.data.corpora import CORPORA
from utils.data.table import MAX_LISTED
from utils.exploration.plots import present_emotions
from utils.exploration.statistics import MIN_SPEAKERS, NAN

LENGTH = {"duration_seconds": "Clip length (s)", "speech_seconds": "Speech part (s)"}
LOUDNESS = {
    "level_dbfs": "Level of the speech (dBFS)",
    "level_range_db": "Loudness range (dB)",
    "sounding_percent": "Non-silent frames (%)",
    "peaks_per_second": "Loudness peaks per second",
}
PITCH = {
    "pitch_hz": "Median F0 (Hz)",
    "pitch_relative_semitones": "F0 relative to speaker (semitones)",
    "pitch_range_semitones": "F0 range (semitones)",
    "voiced_percent": "Voiced frames (%)",
}
MEASURES = LENGTH | LOUDNESS | PITCH
"""Column -> name and unit of the measure. F0 is the fundamental frequency."""


def to_text_table(frame: pd.DataFrame) -> dict[str, list]:
    """Return a table for the page template: `columns`, and `rows` of strings that start with the index."""
    frame = frame.reset_index()
    return {"columns": [str(name) for name in frame], "rows": frame.astype(str).to_numpy().tolist()}


def overview_table(corpora: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row per corpus with the numbers of clips, speakers, emotions and texts that are used."""
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
    """Return the number of clips per value of two columns, with an `all` row and column.

    Args:
        clips: of one corpus.
        rows, columns: names of columns; one of them is `emotion`.
    """
    counts = pd.crosstab(clips[rows], clips[columns], margins=True, margins_name="all")
    order = [*present_emotions(clips), "all"]
    counts.columns.name = None
    return counts.reindex(index=order) if rows == "emotion" else counts.reindex(columns=order)


def durations_table(clips: pd.DataFrame) -> pd.DataFrame:
    """Return per emotion the median and the 5th to 95th percentile of both lengths, as text."""
    order = present_emotions(clips)
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
    for position, gender in enumerate(pitch, start=len(LOUDNESS)):
        by_emotion.insert(position, f"{PITCH['pitch_hz']}, {gender}", pitch[gender])
    return by_emotion.loc[present_emotions(clips)].map(lambda value: format_number(value, 1))


def effects_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Return test statistics and effect sizes of `statistics.compare_emotions`, as text."""
    columns = {
        "anova_f": ("ANOVA F", 1),
        "kruskal_h": ("Kruskal–Wallis H", 1),
        "eta2": ("η²", 2),
        "omega2": ("ω²", 2),
        "epsilon2": ("ε² (ranks)", 2),
        "partial_eta2": ("partial η² (speaker as factor)", 2),
    }
    table = pd.DataFrame({"measure": tests["measure"].map(MEASURES), "clips": tests["clips"]})
    for column, (label, digits) in columns.items():
        table[label] = [format_number(value, digits) for value in tests[column]]
    return table.set_index("measure")


def p_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Return the Holm-corrected p-values of `statistics.compare_emotions`, as text."""
    labels = {
        "anova_p": "ANOVA",
        "welch_p": "Welch's ANOVA",
        "kruskal_p": "Kruskal–Wallis",
        "speaker_p": "ANOVA, speaker as factor",
        "means_p": "Speaker means",
    }
    table = pd.DataFrame({"measure": tests["measure"].map(MEASURES)})
    for column, label in labels.items():
        table[label] = tests[f"{column}_holm"].map(format_p)
    means = [
        f"{row.means_f:.1f} ({row.means_df1:.1f}, {row.means_df2:.1f})" if np.isfinite(row.means_f) else "–"
        for row in tests.itertuples()
    ]
    table.insert(table.shape[1] - 1, "F (df) of the speaker means", means)
    return table.set_index("measure")


def format_p(p: float) -> str:
    """Return a p-value as text: three digits, "< 0.001" below 0.001, a dash for NaN."""
    if not np.isfinite(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def describe_tests(tests: pd.DataFrame) -> str:
    """Return sentences about the largest effects, and whether the speaker means could be tested."""
    best = tests.dropna(subset="partial_eta2").nlargest(3, "partial_eta2")
    if best.empty:
        return "No test was possible: that needs two emotions with several clips of different values."
    largest = ", ".join(f"{MEASURES[row.measure]} {row.partial_eta2:.2f}" for row in best.itertuples())
    sentence = f"Largest effects within speakers (partial η²): {largest}."
    if tests["means_p"].notna().any():
        return f"{sentence} The speaker means are those of {tests['means_speakers'].max():.0f} speakers."
    return (
        f"{sentence} Whether the effects generalise to other speakers cannot be tested here: that needs at "
        f"least {MIN_SPEAKERS} speakers with clips of every emotion."
    )


def describe_exclusions(everything: pd.DataFrame, finding: dict, num_other_emotions: int) -> list[str]:
    """Return a line per reason why clips of a corpus are not on the page.

    Args:
        everything: the rows of the corpus from `table.read_table`.
        finding: the finding for the corpus from `table.check_table`.
        num_other_emotions: number of clips of emotions that were not requested.
    """
    missing = finding["clips_expected"] - finding["clips_found"]
    copies = (everything["num_copies"] - 1).sum()
    lines = []
    if missing > 0:
        lines.append(f"{missing} of {finding['clips_expected']} published clips are missing")
    if missing < 0:
        lines.append(f"{-missing} clips more than were published")
    if num_other_emotions:
        lines.append(f"{num_other_emotions} clips of emotions that were not requested")
    if copies:
        lines.append(f"{copies} further copies of the same files")
    for reason, clips in (
        ("byte-identical to another, counted once", finding["identical"]),
        ("unusable", finding["unusable"]),
    ):
        lines += [f"{reason}: {clip}" for clip in clips[:MAX_LISTED]]
        if len(clips) > MAX_LISTED:
            lines.append(f"{reason}: {len(clips) - MAX_LISTED} more")
    return lines or ["nothing"]


def separation_row(separation: dict[str, float] | None, by: str) -> dict[str, str]:
    """Return a row with the result of `statistics.measure_separation` for clips grouped by a column."""
    values = separation or dict.fromkeys(("silhouette", "neighbour", "other_speaker", "chance"), NAN)
    # A neighbour by another speaker is never in the group of the same speaker.
    other_speaker = NAN if by == "speaker" else values["other_speaker"]
    return {
        "grouped by": by,
        "silhouette": format_number(values["silhouette"], 2),
        "nearest neighbour in the same group": format_number(100 * values["neighbour"], 0, " %"),
        "nearest by another speaker": format_number(100 * other_speaker, 0, " %"),
        "chance": format_number(100 * values["chance"], 0, " %"),
    }


def format_number(value: float, digits: int, unit: str = "") -> str:
    """Return a number as text; a dash for NaN."""
    # Adding 0 converts -0.0 to 0.0.
    return f"{round(value, digits) + 0:.{digits}f}{unit}" if np.isfinite(value) else "–"
