"""Write the exploration page: one HTML file with figures and tables of the corpora and of the tests.

The text of the page is in the template explore.html.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from sklearn.preprocessing import StandardScaler

from utils.data.audio import SAMPLING_RATE
from utils.data.corpora import CORPORA
from utils.data.decoding import Waveforms
from utils.data.speech import TRIM_DB
from utils.exploration import plots
from utils.exploration.map_plots import plot_map
from utils.exploration.statistics import MIN_SPEAKERS, compare_emotions, map_clips, measure_separation
from utils.exploration.tables import (
    LOUDNESS,
    MEASURES,
    PITCH,
    counts_table,
    describe_tests,
    durations_table,
    effects_table,
    medians_table,
    overview_table,
    p_table,
    separation_row,
    to_text_table,
)
from utils.report.audio_plots import plot_waveforms
from utils.report.predictions import example_clips
from utils.report.style import save_figure
from utils.runtime import logger, package_versions, write_text

if TYPE_CHECKING:
    from datasets import Dataset

GENERATOR = '<meta name="generator" content="utils.explore of this speech-emotion kit">'
"""Marks the pages of this module, so that no other file is replaced."""

PACKAGES = ("numpy", "scipy", "statsmodels", "scikit-learn", "librosa", "matplotlib")


@dataclass(frozen=True)
class MeasuredCorpora:
    """Corpora that were read and measured.

    Attributes:
        corpora: corpus name -> its clips with `MEASURES`; the index points into `mfcc` and `waveforms`.
        left_out: corpus name -> a line per reason why clips are left out.
        mfcc: means of 40 MFCCs, float32 (num_rows, 40).
        waveforms: Dataset with a `waveform` per row.
    """

    corpora: dict[str, pd.DataFrame]
    left_out: dict[str, list[str]]
    mfcc: np.ndarray
    waveforms: "Dataset"


def is_page(folder: Path) -> bool:
    """Whether a folder contains a page that this module wrote."""
    page = folder / "index.html"
    return page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")


def embed_figure(figure: Figure, folder: Path, name: str, alt: str) -> dict[str, str]:
    """Save a figure as `folder/figures/<name>.png`; return its `src` (a data URL) and `alt` text."""
    path = folder / "figures" / f"{name}.png"
    save_figure(figure, path)
    return {"src": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", "alt": alt}


def draw_examples(clips: pd.DataFrame, waveforms: "Dataset") -> tuple[Figure, str]:
    """Draw waveform and spectrogram of one clip per emotion; return the figure and a caption."""
    emotions = plots.present_emotions(clips)
    chosen = example_clips(clips.assign(label=clips["emotion"].map(emotions.index)))
    rows = clips.iloc[list(chosen.values())]
    audio = Waveforms(waveforms)
    examples = {row.emotion: audio[row.Index] for row in rows.itertuples()}
    if rows["speaker"].nunique() == rows["text"].nunique() == 1:
        caption = f"All by {rows['speaker'].iloc[0]}: “{rows['text'].iloc[0]}”."
    else:
        sources = [f"{row.emotion} by {row.speaker}, “{row.text}”" for row in rows.itertuples()]
        caption = f"No speaker has all emotions with one text: {'; '.join(sources)}."
    return plot_waveforms(examples, SAMPLING_RATE, "One clip per emotion"), caption


def describe_corpus(name: str, data: MeasuredCorpora, tests: pd.DataFrame, folder: Path) -> dict:
    """Return the template variables of one corpus, and write its figures."""
    clips, title = data.corpora[name], CORPORA[name].title
    logger.info("Drawing %s", title)
    examples, examples_caption = draw_examples(clips, data.waveforms)
    figures = {
        "speakers": (plots.plot_speakers(clips), "Bars: clips per speaker, stacked by emotion"),
        "durations": (plots.plot_durations(clips), "Box plots: clip length and speech part per emotion"),
        "loudness": (plots.plot_measures(clips, LOUDNESS), "Box plots: measures of loudness per emotion"),
        "pitch": (plots.plot_measures(clips, PITCH), "Box plots: measures of pitch per emotion"),
        "examples": (examples, "Waveform and spectrogram of one clip per emotion"),
    }
    unmeasured = clips[list(MEASURES)].isna().sum()
    return {
        "title": title,
        "facts": CORPORA[name],
        "left_out": data.left_out[name],
        "figures": {
            kind: embed_figure(figure, folder, f"{name}_{kind}", f"{alt}, {title}")
            for kind, (figure, alt) in figures.items()
        },
        "tables": {
            "emotions": to_text_table(counts_table(clips, "emotion", "gender")),
            "speakers": to_text_table(counts_table(clips, "speaker", "emotion")),
            "durations": to_text_table(durations_table(clips)),
            "medians": to_text_table(medians_table(clips)),
            "effects": to_text_table(effects_table(tests)),
            "p_values": to_text_table(p_table(tests)),
        },
        "intensities": clips["intensity"].nunique(),
        "not_measurable": [f"{MEASURES[name]}: {count} clips" for name, count in unmeasured.items() if count],
        "examples_caption": examples_caption,
        "tests_summary": describe_tests(tests),
    }


def describe_maps(data: MeasuredCorpora, seed: int, folder: Path) -> tuple[list[dict], pd.DataFrame]:
    """Return the maps of each corpus and of all together, and the table of the separations."""
    views = [(CORPORA[name].title, name, clips, "speaker") for name, clips in data.corpora.items()]
    if len(views) > 1:
        views.append(("All corpora together", "all", pd.concat(data.corpora.values()), "corpus"))
    maps, rows = [], []
    for title, name, clips, by in views:
        logger.info("Computing the map of %d clips: %s", len(clips), title)
        features = StandardScaler().fit_transform(data.mfcc[clips.index].astype(np.float64))
        positions = map_clips(features, seed)
        picture = None
        if positions is not None:
            alt = f"Map of the clips, coloured by emotion and by {by}, {title}"
            picture = embed_figure(plot_map(positions, clips, by), folder, f"{name}_map", alt)
        maps.append({"title": title, "figure": picture})
        for grouping in ("emotion", by):
            groups, speakers = (clips[column].to_numpy(dtype=str) for column in (grouping, "speaker"))
            separation = measure_separation(features, groups, speakers)
            rows.append({"clips": title} | separation_row(separation, grouping))
    return maps, pd.DataFrame(rows).set_index("clips")


def render(variables: dict) -> str:
    """Return the page as HTML. Values are escaped; a missing variable is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = Path(__file__).with_name("explore.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(generator=Markup(GENERATOR), **variables)


def write_page(data: MeasuredCorpora, folder: Path, seed: int) -> Path:
    """Write index.html, its figures, clips.csv and tests.csv.

    Args:
        data: the corpora.
        folder: folder of the page; an earlier page in it is removed first.
        seed: of the maps.

    Returns:
        path of index.html, which is written last.
    """
    if is_page(folder):
        for old in (folder / "index.html", *folder.glob("figures/*.png")):
            old.unlink()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    tests = {name: compare_emotions(rows, list(MEASURES)) for name, rows in data.corpora.items()}
    _write_csv(data, tests, folder)

    titles = {name: CORPORA[name].title for name in data.corpora}
    counts = plots.plot_emotions({titles[name]: rows for name, rows in data.corpora.items()})
    effects = plots.plot_effects({titles[name]: rows for name, rows in tests.items()}, MEASURES)
    maps, separation = describe_maps(data, seed, folder)
    variables = {
        "title": f"Data exploration: {' + '.join(titles.values())}",
        "demo": "demo" in titles,
        "overview": to_text_table(overview_table(data.corpora)),
        "emotions_figure": embed_figure(counts, folder, "emotions", "Bars: clips per emotion and gender"),
        "effects_figure": embed_figure(effects, folder, "effects", "Bars: variance explained by the emotion"),
        "corpora": [describe_corpus(name, data, tests[name], folder) for name in data.corpora],
        "maps": maps,
        "separation": to_text_table(separation),
        "trim_db": f"{TRIM_DB:g}",
        "num_measures": len(MEASURES),
        "min_speakers": MIN_SPEAKERS,
        "seed": seed,
        "versions": package_versions(PACKAGES),
    }
    write_text(folder / "index.html", render(variables))
    return folder / "index.html"


def _write_csv(data: MeasuredCorpora, tests: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write clips.csv, a row per clip with its measures, and tests.csv, a row per corpus and measure."""
    clips = pd.concat(data.corpora.values())
    columns = ["clip", "corpus", "speaker", "gender", "emotion", "intensity", "text", *MEASURES]
    write_text(folder / "clips.csv", clips[columns].to_csv(index=False, float_format="%.6g"))
    all_tests = pd.concat(tests, names=["corpus"]).reset_index("corpus")
    write_text(folder / "tests.csv", all_tests.to_csv(index=False, float_format="%.6g"))
