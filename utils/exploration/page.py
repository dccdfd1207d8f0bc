"""Corpora that were read and measured come in; the page that shows them goes out, with figures and tables.

The words of the page are in explore.html.
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
from utils.exploration import plots as data_plots
from utils.exploration.statistics import MIN_SPEAKERS, compare_emotions, map_clips, separation_of
from utils.exploration.tables import (
    LOUDNESS,
    MEASURES,
    PITCH,
    counts_table,
    durations_table,
    effects_table,
    medians_table,
    overview_table,
    p_table,
    separation_words,
    shown,
    words_on_tests,
)
from utils.report.audio_plots import plot_waveforms
from utils.report.predictions import example_clips
from utils.report.style import save_figure
from utils.runtime import logger, package_versions, write_text

if TYPE_CHECKING:
    from datasets import Dataset

GENERATOR = '<meta name="generator" content="utils.explore of this speech-emotion kit">'
"""Tells a page of ours from whatever else may be in a folder."""

PACKAGES = ("numpy", "scipy", "statsmodels", "scikit-learn", "librosa", "matplotlib")


@dataclass(frozen=True)
class Data:
    """What was read: corpus name -> its clips with their measures, the index pointing into `mfcc` (float32,
    (num_rows, 40)) and `waveforms`; per corpus in words what was left out."""

    corpora: dict[str, pd.DataFrame]
    left_out: dict[str, list[str]]
    mfcc: np.ndarray
    waveforms: "Dataset"


def is_page(folder: Path) -> bool:
    """Say whether a folder holds a page of ours."""
    page = folder / "index.html"
    return page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")


def embed(figure: Figure, folder: Path, name: str, alt: str) -> dict[str, str]:
    """Save a figure as `folder/figures/<name>.png`; return it as the page wants it: `src` and `alt`."""
    path = folder / "figures" / f"{name}.png"
    save_figure(figure, path)
    return {"src": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", "alt": alt}


def draw_examples(clips: pd.DataFrame, waveforms: "Dataset") -> tuple[Figure, str]:
    """Return waveforms and spectrograms of one clip per emotion, and in words whose they are."""
    emotions = data_plots.emotions_of(clips)
    chosen = example_clips(clips.assign(label=clips["emotion"].map(emotions.index)))
    rows = clips.iloc[list(chosen.values())]
    heard = Waveforms(waveforms)
    sounds = {row.emotion: heard[row.Index] for row in rows.itertuples()}
    if rows["speaker"].nunique() == rows["text"].nunique() == 1:
        words = f"All by {rows['speaker'].iloc[0]}: “{rows['text'].iloc[0]}”."
    else:
        each = [f"{row.emotion} by {row.speaker}, “{row.text}”" for row in rows.itertuples()]
        words = f"No speaker has them all in one text: {'; '.join(each)}."
    return plot_waveforms(sounds, SAMPLING_RATE, "One clip per emotion"), words


def describe_corpus(name: str, data: Data, tests: pd.DataFrame, folder: Path) -> dict:
    """Return what the page says of one corpus; write its figures."""
    clips, title = data.corpora[name], CORPORA[name].title
    logger.info("Drawing %s", title)
    examples, examples_words = draw_examples(clips, data.waveforms)
    figures = {
        "speakers": (data_plots.plot_speakers(clips), "Bars: clips per speaker, stacked by emotion"),
        "durations": (data_plots.plot_durations(clips), "Boxes: clip length and speech part per emotion"),
        "loudness": (data_plots.plot_measures(clips, LOUDNESS), "Boxes: measures of loudness per emotion"),
        "pitch": (data_plots.plot_measures(clips, PITCH), "Boxes: measures of pitch per emotion"),
        "examples": (examples, "Waveform and spectrogram of one clip per emotion"),
    }
    unmeasured = clips[list(MEASURES)].isna().sum()
    return {
        "title": title,
        "facts": CORPORA[name],
        "left_out": data.left_out[name],
        "figures": {
            kind: embed(figure, folder, f"{name}_{kind}", f"{alt}, {title}")
            for kind, (figure, alt) in figures.items()
        },
        "tables": {
            "emotions": shown(counts_table(clips, "emotion", "gender")),
            "speakers": shown(counts_table(clips, "speaker", "emotion")),
            "durations": shown(durations_table(clips)),
            "medians": shown(medians_table(clips)),
            "effects": shown(effects_table(tests)),
            "p_values": shown(p_table(tests)),
        },
        "intensities": clips["intensity"].nunique(),
        "not_measurable": [f"{MEASURES[name]}: {count} clips" for name, count in unmeasured.items() if count],
        "examples": examples_words,
        "tests_words": words_on_tests(tests),
    }


def describe_maps(data: Data, seed: int, folder: Path) -> tuple[list[dict], pd.DataFrame]:
    """Return a map of each corpus, and of all together if there are several, and their separation."""
    views = [(CORPORA[name].title, name, clips, "speaker") for name, clips in data.corpora.items()]
    if len(views) > 1:
        views.append(("All corpora together", "all", pd.concat(data.corpora.values()), "corpus"))
    maps, rows = [], []
    for title, name, clips, by in views:
        logger.info("Map of %d clips: %s", len(clips), title)
        features = StandardScaler().fit_transform(data.mfcc[clips.index].astype(np.float64))
        positions = map_clips(features, seed)
        picture = None
        if positions is not None:
            drawn = data_plots.plot_map(positions, clips, by)
            alt = f"Map of the clips, coloured by emotion and by {by}, {title}"
            picture = embed(drawn, folder, f"{name}_map", alt)
        maps.append({"title": title, "figure": picture})
        for label in ("emotion", by):
            names, speakers = (clips[column].to_numpy(dtype=str) for column in (label, "speaker"))
            found = separation_of(features, names, speakers)
            rows.append({"clips": title} | separation_words(found, label))
    return maps, pd.DataFrame(rows).set_index("clips")


def render(page: dict) -> str:
    """Return the page as HTML. Whatever comes from files is escaped; what is missing is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = Path(__file__).with_name("explore.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(generator=Markup(GENERATOR), **page)


def write_page(data: Data, folder: Path, seed: int) -> Path:
    """Write the page, and what stands beside it, and return the page's path; it is written last.

    Args:
        folder: of the page; an earlier page in it is taken away first.
        seed: of the maps.
    """
    if is_page(folder):
        for old in (folder / "index.html", *folder.glob("figures/*.png")):
            old.unlink()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    clips = pd.concat(data.corpora.values())
    columns = ["clip", "corpus", "speaker", "gender", "emotion", "intensity", "text", *MEASURES]
    write_text(folder / "clips.csv", clips[columns].to_csv(index=False, float_format="%.6g"))
    tests = {name: compare_emotions(rows, list(MEASURES)) for name, rows in data.corpora.items()}
    everything = pd.concat(tests, names=["corpus"]).reset_index("corpus")
    write_text(folder / "tests.csv", everything.to_csv(index=False, float_format="%.6g"))

    titles = {name: CORPORA[name].title for name in data.corpora}
    counts = data_plots.plot_emotions({titles[name]: rows for name, rows in data.corpora.items()})
    effects = data_plots.plot_effects({titles[name]: rows for name, rows in tests.items()}, MEASURES)
    maps, separation = describe_maps(data, seed, folder)
    page = {
        "title": f"What is in the data: {' + '.join(titles.values())}",
        "demo": "demo" in titles,
        "overview": shown(overview_table(data.corpora)),
        "emotions_figure": embed(counts, folder, "emotions", "Bars: clips per emotion and gender"),
        "effects_figure": embed(effects, folder, "effects", "Bars: variance that the emotion explains"),
        "corpora": [describe_corpus(name, data, tests[name], folder) for name in data.corpora],
        "maps": maps,
        "separation": shown(separation),
        "trim_db": f"{TRIM_DB:g}",
        "num_measures": len(MEASURES),
        "min_speakers": MIN_SPEAKERS,
        "seed": seed,
        "versions": package_versions(PACKAGES),
    }
    write_text(folder / "index.html", render(page))
    return folder / "index.html"
