"""The exploration page is complete, correct and reproducible.

Measures and tests agree with independent computations, find the effects that the demo voices contain, and
find none in shuffled labels.

Run: python -m pytest tests/exploration/test_explore.py
"""

import base64
import dataclasses
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import PROJECT
from scipy import stats

from utils import explore
from utils.data.decoding import Waveforms
from utils.data.download import find_corpora
from utils.data.labels import EMOTIONS
from utils.exploration import page as page_module
from utils.exploration.map_plots import plot_map
from utils.exploration.page import MeasuredCorpora, is_page, write_page
from utils.exploration.plots import plot_effects, plot_emotions, plot_measures, plot_speakers
from utils.exploration.statistics import compare_emotions, map_clips, measure_separation, speaker_means_test
from utils.exploration.tables import (
    LOUDNESS,
    MEASURES,
    PITCH,
    describe_exclusions,
    describe_tests,
    format_number,
    format_p,
)
from utils.explore import check_folder, read_data
from utils.features.extraction import extract_table, feature_names
from utils.features.prosody import PROSODY, prosody
from utils.report.style import EMOTION_COLORS
from utils.runtime import InputError, run_script

RATE = 16_000


class Page(HTMLParser):
    """A parsed page: its tags, pictures, text, and tables by caption."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.pictures, self.anchors, self.text = set(), [], {"id": set(), "href": set()}, ""
        self.tables, self.row, self.inside = [], [], ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.inside = tag
        attributes = dict(attributes)
        for name, found in self.anchors.items():
            found |= {attributes[name]} if name in attributes else set()
        if tag == "img":
            self.pictures.append(attributes)
        elif tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        self.text += data
        if self.inside == "caption":
            self.tables[-1] = (data, self.tables[-1][1])
        elif self.inside in ("th", "td"):
            self.tables[-1][1][-1].append(data)

    def table(self, caption: str, number: int = 0) -> pd.DataFrame:
        header, *rows = [rows for words, rows in self.tables if words == caption][number]
        return pd.DataFrame(rows, columns=header).set_index(header[0])


def read(corpora: list[str], folder: Path, cache: Path, emotions=None) -> MeasuredCorpora:
    return read_data(find_corpora(corpora, [folder]), cache, emotions, allow_partial=True)


@pytest.fixture(scope="module")
def demo(demo_folder, tmp_path_factory) -> MeasuredCorpora:
    return read(["demo"], demo_folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def page(demo, tmp_path_factory) -> Path:
    return write_page(demo, tmp_path_factory.mktemp("page"), seed=1)


@pytest.fixture
def small_figures(monkeypatch):
    """Figures of low resolution, for tests of the text: a fifth of the time."""
    monkeypatch.setattr(page_module, "save_figure", lambda figure, path: figure.savefig(path, dpi=20))


# --- The page -----------------------------------------------------------------------------------------


def test_the_page_is_self_contained(page, demo_folder):
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "video", "audio"} & parsed.tags
    assert "@import" not in parsed.html and "url(" not in parsed.html
    files = {path.read_bytes() for path in page.parent.glob("figures/*.png")}
    embedded = set()
    for picture in parsed.pictures:
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/png;base64"
        embedded.add(base64.b64decode(data))
        assert len(picture["alt"]) > 10
    assert embedded == files and len(files) == 8
    assert len({picture["alt"] for picture in parsed.pictures}) == 8
    inside = {link[1:] for link in parsed.anchors["href"] if link.startswith("#")}
    assert inside and inside <= parsed.anchors["id"]
    for place in (demo_folder, page.parent, PROJECT):
        assert str(place) not in parsed.html
    assert "Synthetic voices." in parsed.text and "No person spoke." in parsed.text


def test_counts_equal_those_of_the_table(page, demo):
    parsed, clips = Page(page), demo.corpora["demo"]
    counts = parsed.table("Clips per emotion and gender").astype(int)
    assert counts.index.tolist() == [*EMOTIONS, "all"]
    for (emotion, gender), expected in clips.groupby(["emotion", "gender"]).size().items():
        assert counts.loc[emotion, gender] == expected
    assert counts.loc["neutral"].tolist() == [4, 4, 8] and counts.loc["all"].tolist() == [60, 60, 120]
    speakers = parsed.table("Clips per speaker and emotion").astype(int)
    assert speakers["all"].to_dict() == {f"demo-0{k}": 30 for k in range(1, 5)} | {"all": 120}
    assert speakers.columns.tolist() == [*EMOTIONS, "all"]
    assert parsed.table("The corpora").loc["synthetic demo voices", ["clips", "women", "men"]].tolist() == [
        "120", "2", "2",
    ]  # fmt: skip
    assert "360 of 480 published clips are missing" in parsed.text
    csv = pd.read_csv(page.parent / "clips.csv")
    assert csv["clip"].tolist() == clips["clip"].tolist() and list(csv)[-len(MEASURES) :] == list(MEASURES)
    medians = parsed.table("Medians")
    for emotion, rows in csv.groupby("emotion"):
        level = float(medians.loc[emotion, LOUDNESS["level_dbfs"]])
        assert level == pytest.approx(rows["level_dbfs"].median(), abs=0.051)


def test_statistics_on_the_page_equal_those_in_tests_csv(page):
    parsed, tests = Page(page), pd.read_csv(page.parent / "tests.csv")
    assert tests["measure"].tolist() == list(MEASURES) and set(tests["corpus"]) == {"demo"}
    effects = parsed.table("Effect of the emotion on each measure")
    p_values = parsed.table("p-values, corrected after Holm")
    for row in tests.itertuples():
        label = MEASURES[row.measure]
        assert float(effects.loc[label, "η²"]) == pytest.approx(row.eta2, abs=0.0051)
        assert p_values.loc[label, "Speaker means"] == format_p(row.means_p_holm)
    assert "The speaker means are those of 4 speakers" in parsed.text


def test_same_clips_and_seed_give_the_same_bytes_and_replace_an_earlier_page(page, demo_folder, tmp_path):
    (tmp_path / "page" / "figures").mkdir(parents=True)
    shutil.copy(page, tmp_path / "page")
    (tmp_path / "page" / "figures" / "tess_map.png").write_bytes(b"of a corpus that is no longer requested")
    again = write_page(read(["demo"], demo_folder, tmp_path / "cache"), tmp_path / "page", seed=1)
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (page.parent, again.parent)
    ]
    assert contents[0] == contents[1]


def copy_clips(source: Path, folder: Path, names: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for clip, name in names.items():
        shutil.copyfile(source / f"Actor_{clip[-2:]}" / f"{clip}.wav", folder / f"{name}.wav")


def test_unusable_files_are_listed_and_names_are_escaped(demo_folder, small_figures, tmp_path):
    names = {
        f"03-03-0{emotion}-01-0{text}-01-0{actor}": ""
        for emotion in range(1, 9)
        for text in (1, 2)
        for actor in (1, 2)
    }
    odd = tmp_path / "<b>odd & 'quoted'"
    copy_clips(demo_folder, odd, {name: name for name in names})
    (odd / "03-03-03-02-01-01-01.wav").write_bytes(b"")
    soundfile.write(odd / "03-03-04-02-01-01-01.wav", np.zeros(RATE), RATE)
    data = read(["demo"], odd, tmp_path / "cache")
    clips = data.corpora["demo"]
    clips["speaker"] = clips["speaker"].str.replace("demo-", "demo-<b>")
    clips["text"] = "<script>alert(1)</script>"
    data = dataclasses.replace(data, left_out={"demo": [*data.left_out["demo"], "<i>late</i>"]})
    parsed = Page(write_page(data, tmp_path / "page", seed=1))
    assert "unusable: 03-03-03-02-01-01-01: empty file" in parsed.text
    assert "unusable: 03-03-04-02-01-01-01: silent" in parsed.text
    assert "demo-<b>01" in parsed.text and "demo-&lt;b&gt;01" in parsed.html and "<b>01" not in parsed.html
    assert (
        "<script>alert(1)</script>" in parsed.text and "script" not in parsed.tags and "i" not in parsed.tags
    )


def test_two_corpora_have_separate_sections_and_a_common_map(demo_folder, small_figures, tmp_path):
    words = {"01": "back", "02": "bar"}
    codes = {"01": "neutral", "03": "happy", "04": "sad", "05": "angry"}
    ravdess = {
        f"03-03-{code}-01-{text}-01-{actor}": f"03-01-{code}-01-{text}-01-{actor}"
        for code in (*codes, "02") for text in words for actor in ("01", "02")
    }  # fmt: skip
    tess = {
        f"03-03-{code}-01-{text}-01-{actor}": f"{speaker}_{words[text]}_{emotion}"
        for code, emotion in codes.items() for text in words
        for actor, speaker in (("03", "OAF"), ("04", "YAF"))
    }  # fmt: skip
    copy_clips(demo_folder, tmp_path / "clips", ravdess | tess)
    data = read(
        ["ravdess", "tess"], tmp_path / "clips", tmp_path / "cache", ["calm", "sad", "angry", "happy"]
    )
    path = write_page(data, tmp_path / "page", seed=1)
    parsed = Page(path)
    assert parsed.table("The corpora")["clips"].tolist() == ["16", "12"]
    assert parsed.table("Clips per emotion and gender", 0).index.tolist() == [
        "calm",
        "happy",
        "sad",
        "angry",
        "all",
    ]
    assert parsed.table("Clips per emotion and gender", 1).index.tolist() == ["happy", "sad", "angry", "all"]
    assert parsed.text.count("4 clips of emotions that were not requested") == 2
    assert (path.parent / "figures" / "all_map.png").exists()
    separation = parsed.table("Separation of the groups in the 40 features")
    assert separation["grouped by"].tolist() == ["emotion", "speaker"] * 2 + ["emotion", "corpus"]
    assert parsed.text.count("Whether the effects generalise to other speakers cannot be tested here") == 2
    assert (
        "CC-BY-NC-ND-4.0" in parsed.text
        and "Livingstone" in parsed.text
        and "Synthetic voices" not in parsed.text
    )


def test_clips_without_pitch_or_speaker_pairs_give_dashes(small_figures, tmp_path):
    generator = np.random.default_rng(0)
    names = [f"03-03-0{emotion}-01-0{text}-01-01" for emotion in (1, 3) for text in (1, 2)]
    for name in (*names, "OAF_back_sad", "OAF_bar_sad"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "clips" / f"{name}.wav", 0.1 * generator.standard_normal(RATE), RATE)
    data = read(["demo", "tess"], tmp_path / "clips", tmp_path / "cache")
    parsed = Page(write_page(data, tmp_path / "page", seed=1))
    assert f"Not measurable: {PITCH['pitch_hz']}: 4 clips" in parsed.text
    assert f"Not measurable: {PITCH['pitch_hz']}: 2 clips" in parsed.text
    assert parsed.text.count("Too few clips for a map.") == 3
    assert "No test was possible" in parsed.text
    assert "nan" not in parsed.text.lower()


# --- The measures -------------------------------------------------------------------------------------


def voice(hertz: float, seconds: float = 1.0, octaves: float = 0.0) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(hertz * 2 ** (octaves * (times / seconds - 0.5))) / RATE
    buzz = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (0.2 * buzz / np.abs(buzz).max()).astype(np.float32)


def test_prosody_of_a_synthetic_voice_has_the_expected_values():
    quiet = np.zeros(RATE // 2, np.float32)
    clip = np.concatenate([quiet, voice(200, 1.5), quiet])
    found = prosody(clip)
    assert found["speech_seconds"] == pytest.approx(1.5, abs=0.05)
    assert found["level_dbfs"] == pytest.approx(10 * np.log10((voice(200, 1.5) ** 2).mean()), abs=0.2)
    assert found["pitch_hz"] == pytest.approx(200, rel=0.01)
    assert found["pitch_range_semitones"] < 0.2 and found["voiced_percent"] > 95
    assert prosody(voice(200, octaves=1))["pitch_range_semitones"] == pytest.approx(0.9 * 12, rel=0.05)
    softer = prosody(clip * np.float32(0.1))
    assert softer.pop("level_dbfs") == pytest.approx(found.pop("level_dbfs") - 20, abs=0.01)
    assert softer == pytest.approx(found, rel=1e-3)


def test_level_peaks_are_counted_and_pauses_are_silent():
    bursts = np.concatenate([np.concatenate([voice(150, 0.15), np.zeros(RATE // 10, np.float32)])] * 8)
    found = prosody(bursts)
    assert found["peaks_per_second"] == pytest.approx(8 / (8 * 0.25 - 0.1), rel=0.05)
    assert 50 < found["sounding_percent"] < 90
    steps = np.concatenate([voice(150, 0.5), voice(150, 0.5) * np.float32(0.1)])
    assert prosody(steps)["level_range_db"] == pytest.approx(20, abs=0.5)


def test_unmeasurable_values_are_nan():
    noise = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    found = prosody(noise)
    assert np.isnan(found["pitch_hz"]) and np.isnan(found["pitch_range_semitones"])
    assert np.isfinite(found["level_dbfs"]) and found["voiced_percent"] == 0
    assert all(np.isnan(value) for value in prosody(np.zeros(RATE, np.float32)).values())
    assert set(feature_names(PROSODY)) == set(found)


def test_each_clip_has_the_measures_of_its_waveform(demo, tmp_path):
    clips = demo.corpora["demo"]
    waveforms = Waveforms(demo.waveforms)
    for row in clips.iloc[[0, 57, 119]].itertuples():
        expected = prosody(waveforms[row.Index])
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, rel=1e-4, abs=1e-4)
    medians = clips.groupby("speaker")["pitch_relative_semitones"].median()
    assert medians.abs().max() < 0.2
    cached = extract_table(demo.waveforms.select(range(3)), ["a", "b", "c"], tmp_path, PROSODY)
    np.testing.assert_allclose(cached, clips[list(feature_names(PROSODY))].iloc[:3], rtol=1e-4)


def test_effects_built_into_the_demo_voices_are_detected(demo):
    clips = demo.corpora["demo"]
    level = clips.pivot_table(index="speaker", columns="emotion", values="level_dbfs")
    assert (level["angry"] - level["neutral"] > 4).all() and (level["sad"] < level["neutral"]).all()
    pitch = clips.groupby("gender")["pitch_hz"].median()
    assert 1.4 < pitch["female"] / pitch["male"] < 2.2
    relative = clips.groupby("emotion")["pitch_relative_semitones"].median()
    assert relative["fearful"] - relative["calm"] > 4
    tests = compare_emotions(clips, list(MEASURES)).set_index("measure")
    for measure in ("level_dbfs", "pitch_hz", "pitch_relative_semitones"):
        assert tests.loc[measure, "partial_eta2"] > 0.6 and tests.loc[measure, "means_p_holm"] < 0.05
    # In hertz, the difference between female and male speakers masks the emotion unless the speaker is a
    # factor.
    assert tests.loc["pitch_hz", "partial_eta2"] > tests.loc["pitch_hz", "eta2"] + 0.2


def test_no_effect_is_detected_in_shuffled_labels(demo):
    clips = demo.corpora["demo"].copy()
    generator = np.random.default_rng(7)
    clips["emotion"] = clips.groupby("speaker")["emotion"].transform(generator.permutation)
    tests = compare_emotions(clips, list(MEASURES))
    for column in ("anova", "welch", "kruskal", "speaker", "means"):
        assert (tests[f"{column}_p_holm"] > 0.05).all(), column
    assert tests["omega2"].mean() < 0.03 and tests["partial_eta2"].max() < 0.2


# --- The statistics -----------------------------------------------------------------------------------


def made_clips(num_speakers=6, repeats=3, effect=1.0, seed=0) -> pd.DataFrame:
    """Balanced clips of three emotions: `x` depends on emotion and speaker, `y` on neither."""
    generator = np.random.default_rng(seed)
    clips = pd.DataFrame(
        [
            (f"{speaker}-{emotion}-{repeat}", f"s{speaker}", emotion)
            for speaker in range(num_speakers)
            for emotion in ("sad", "angry", "happy")
            for repeat in range(repeats)
        ],
        columns=["clip", "speaker", "emotion"],
    )
    shift = clips["emotion"].map({"sad": -effect, "angry": effect, "happy": 0})
    voices = clips["speaker"].str[1:].astype(int)
    clips["x"] = shift + 2.0 * voices + generator.normal(size=len(clips))
    clips["y"] = generator.normal(size=len(clips))
    return clips


def groups_of(clips: pd.DataFrame, column: str) -> list[np.ndarray]:
    return [rows.to_numpy() for _, rows in clips.groupby("emotion")[column]]


def test_one_way_tests_agree_with_scipy_and_the_formulas():
    clips = made_clips()
    tests = compare_emotions(clips, ["x", "y"]).set_index("measure")
    for column in ("x", "y"):
        row, groups, values = tests.loc[column], groups_of(clips, column), clips[column].to_numpy()
        anova, ranks = stats.f_oneway(*groups), stats.kruskal(*groups)
        assert (row.anova_f, row.anova_p) == pytest.approx((anova.statistic, anova.pvalue))
        assert (row.kruskal_h, row.kruskal_p) == pytest.approx((ranks.statistic, ranks.pvalue))
        total = ((values - values.mean()) ** 2).sum()
        within = sum(((group - group.mean()) ** 2).sum() for group in groups)
        n, k = len(values), len(groups)
        mean_square = within / (n - k)
        assert row.eta2 == pytest.approx(1 - within / total)
        assert row.omega2 == pytest.approx((total - within - (k - 1) * mean_square) / (total + mean_square))
        assert row.epsilon2 == pytest.approx(ranks.statistic * (n + 1) / (n**2 - 1))
    two = clips[clips["emotion"] != "happy"]
    welch = stats.ttest_ind(*groups_of(two, "x"), equal_var=False)  # the same test for two groups
    assert compare_emotions(two, ["x"])["welch_p"][0] == pytest.approx(welch.pvalue)


def test_speaker_factor_equals_subtracting_speaker_means_for_balanced_data():
    clips = made_clips()
    centred = clips["x"] - clips.groupby("speaker")["x"].transform("mean")
    groups = [rows.to_numpy() for _, rows in centred.groupby(clips["emotion"])]
    between = sum(len(group) * group.mean() ** 2 for group in groups)
    rest = (centred**2).sum() - between
    row = compare_emotions(clips, ["x"]).iloc[0]
    assert row.partial_eta2 == pytest.approx(between / (between + rest))
    df = len(clips) - 6 - 2  # the speaker means use degrees of freedom too
    assert row.speaker_f == pytest.approx(between / 2 / (rest / df))
    assert row.partial_eta2 > row.eta2 + 0.2


def test_speaker_means_test_agrees_with_the_formulas():
    clips = made_clips(num_speakers=7, seed=3)
    found = speaker_means_test(*(clips[name].to_numpy() for name in ("x", "emotion", "speaker")))
    means = clips.pivot_table(index="speaker", columns="emotion", values="x").to_numpy()
    n, k = means.shape
    rest = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    between = n * ((means.mean(0) - means.mean()) ** 2).sum() / (k - 1)
    assert found["means_f"] == pytest.approx(between / ((rest**2).sum() / ((k - 1) * (n - 1))))
    # The formula of Greenhouse and Geisser, without centring matrices.
    s = np.cov(means.T)
    top = k**2 * (np.diag(s).mean() - s.mean()) ** 2
    bottom = (k - 1) * ((s**2).sum() - 2 * k * (s.mean(1) ** 2).sum() + k**2 * s.mean() ** 2)
    assert found["means_sphericity"] == pytest.approx(top / bottom)
    degrees = (k - 1) * top / bottom, (k - 1) * (n - 1) * top / bottom
    assert (found["means_df1"], found["means_df2"]) == pytest.approx(degrees)
    assert found["means_p"] == pytest.approx(stats.f.sf(found["means_f"], *degrees))


def test_speaker_means_test_of_two_emotions_equals_the_paired_t_test():
    clips = made_clips(effect=0.3)
    clips = clips[clips["emotion"] != "happy"]
    row = compare_emotions(clips, ["x"]).iloc[0]
    means = clips.pivot_table(index="speaker", columns="emotion", values="x")
    paired = stats.ttest_rel(means["angry"], means["sad"])
    assert row.means_f == pytest.approx(paired.statistic**2) and row.means_p == pytest.approx(paired.pvalue)
    assert row.means_sphericity == pytest.approx(1)


def test_holm_multiplies_the_smallest_p_by_the_number_of_measures():
    clips = made_clips(effect=0.4)
    clips["z"] = clips["y"] + 0.7 * (clips["emotion"] == "sad")
    tests = compare_emotions(clips, ["x", "y", "z"])
    small, middle, large = sorted(tests["speaker_p"])
    expected = np.maximum.accumulate([3 * small, 2 * middle, large])
    assert middle < 0.3 and sorted(tests["speaker_p_holm"]) == pytest.approx(expected)


def test_impossible_tests_are_nan_and_described():
    two = compare_emotions(made_clips(num_speakers=2), ["x"])
    assert two["means_speakers"][0] == 2 and two["means_p"].isna().all() and two["eta2"][0] > 0
    two["measure"] = "level_dbfs"
    assert "cannot be tested here: that needs at least 3 speakers" in describe_tests(two)
    one = compare_emotions(made_clips(num_speakers=1), ["x"])
    assert one["partial_eta2"][0] == pytest.approx(one["eta2"][0])

    clips = made_clips()
    clips["constant"] = 1.0
    clips["missing"] = np.nan
    clips["holes"] = clips["x"].where(~((clips["speaker"] == "s0") & (clips["emotion"] == "sad")))
    tests = compare_emotions(clips, ["constant", "missing", "holes"]).set_index("measure")
    assert tests.loc[["constant", "missing"], ["eta2", "means_p", "anova_p_holm"]].isna().all(axis=None)
    assert tests["not_measurable"].tolist() == [0, 54, 3] and tests["clips"].tolist() == [54, 0, 51]
    assert tests.loc["holes", "means_speakers"] == 5


def test_separation_of_distant_and_of_crossed_groups():
    generator = np.random.default_rng(0)
    emotions = np.repeat(["sad", "angry"], 20)
    speakers = np.tile(["a", "b"], 20)
    place = np.where(emotions == "sad", 0, 100)[:, None]
    separation = measure_separation(place + generator.normal(size=(40, 3)), emotions, speakers)
    assert separation["silhouette"] > 0.95 and separation["neighbour"] == separation["other_speaker"] == 1
    assert separation["chance"] == pytest.approx(19 / 39)
    # The clips of an emotion coincide with those of the other emotion by the other speaker.
    crossed = (emotions == "sad") ^ (speakers == "a")
    leak = measure_separation(
        100 * crossed[:, None] + 10 * (speakers == "a")[:, None] + generator.normal(size=(40, 3)),
        emotions,
        speakers,
    )
    assert leak["neighbour"] == 1 and leak["other_speaker"] == 0
    assert measure_separation(np.zeros((4, 2)), np.array(["sad"] * 4), speakers[:4]) is None
    assert map_clips(np.zeros((9, 2)), seed=0) is None


# --- Figures and texts --------------------------------------------------------------------------------


def test_every_emotion_has_a_colour_of_its_own():
    assert list(EMOTION_COLORS) == list(EMOTIONS)
    assert len(set(EMOTION_COLORS.values())) == len(EMOTIONS)


def test_bars_and_boxes_show_the_data():
    clips = made_clips()
    clips["gender"] = np.where(clips["speaker"] < "s3", "female", "male")
    (axes,) = plot_emotions({"made": clips}).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["happy", "sad", "angry"]
    assert [text.get_text() for text in axes.texts] == ["18", "18", "18"]
    assert [bar.get_height() for bar in axes.patches] == [9] * 6
    (axes,) = plot_speakers(clips).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"s{k}" for k in range(6)]
    assert {bar.get_width() for bar in axes.patches} == {3}

    panels = plot_measures(clips, {"x": "x (units)", "y": "y (units)"}).axes
    assert [axes.get_ylabel() for axes in panels] == ["x (units)", "y (units)"]
    medians = [line.get_ydata()[0] for line in panels[0].lines if len(set(line.get_ydata())) == 1]
    for gender in ("female", "male"):
        for emotion in ("happy", "sad", "angry"):
            rows = clips[(clips["gender"] == gender) & (clips["emotion"] == emotion)]
            assert np.isclose(medians, rows["x"].median()).any()
    clips["gender"] = "unknown"
    assert [len(axes.patches) for axes in plot_measures(clips, {"x": "x", "y": "y"}).axes] == [
        3,
        3,
    ]
    tests = compare_emotions(clips, ["x", "y"])
    (axes,) = plot_effects({"made": tests}, {"x": "X", "y": "Y"}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["X", "Y"]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([*(100 * tests["eta2"]), *(100 * tests["partial_eta2"])])


def test_labels_of_many_speakers_do_not_overlap_on_the_map():
    generator = np.random.default_rng(1)
    speakers = np.repeat([f"ravdess-{number:02d}" for number in range(1, 25)], 30)
    clips = pd.DataFrame({"speaker": speakers, "emotion": np.tile(["sad", "angry"], 360)})
    clips["gender"] = np.where(clips["speaker"].str[-2:].astype(int) % 2, "male", "female")
    positions = 8 * generator.normal(size=(24, 2)).repeat(30, axis=0) + 4 * generator.normal(size=(720, 2))
    figure = plot_map(positions.astype(np.float32), clips, "speaker")
    left, right = figure.axes
    assert left.get_legend() is not None and right.get_legend() is None
    assert sorted(text.get_text() for text in right.texts) == [f"{number:02d}" for number in range(1, 25)]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in right.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert len({tuple(color) for color in right.collections[0].get_facecolors()}) == 24


def test_texts_for_numbers_and_exclusions():
    assert [format_p(p) for p in (0.0, 0.00099, 0.001, 0.5, float("nan"))] == [
        "< 0.001", "< 0.001", "0.001", "0.500", "–",
    ]  # fmt: skip
    assert [format_number(-0.004, 2), format_number(69.4, 0, " %"), format_number(float("nan"), 1)] == [
        "0.00",
        "69 %",
        "–",
    ]
    finding = {"clips_expected": 10, "clips_found": 10, "identical": [], "unusable": []}
    everything = pd.DataFrame({"num_copies": [1, 1]})
    assert describe_exclusions(everything, finding, 0) == ["nothing"]
    many = {"clips_found": 12, "unusable": [f"clip-{k}: silent" for k in range(25)]}
    lines = describe_exclusions(everything + 1, finding | many, 3)
    assert lines[:3] == [
        "2 clips more than were published",
        "3 clips of emotions that were not requested",
        "2 further copies of the same files",
    ]
    assert len(lines) == 3 + 20 + 1 and lines[-1] == "unusable: 5 more"


# --- The command --------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_rejected(page, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("<html>my own page</html>")
    assert is_page(page.parent) and not is_page(other)
    with pytest.raises(InputError, match="is not empty and contains no page"):
        check_folder(other, overwrite=False)
    with pytest.raises(InputError, match="is a file"):
        check_folder(other / "index.html", overwrite=True)
    check_folder(other, overwrite=True)
    check_folder(page.parent, overwrite=False)
    check_folder(tmp_path / "new", overwrite=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--corpora=ravdes"], "ravdes"),
        (["--seed=-1"], "--seed -1: expected a number from 0"),
        (["--data_dir=nowhere", "--corpora=tess"], "--data_dir nowhere: expected a folder"),
        (["--colour"], "--help lists the options"),
    ],
)
def test_invalid_options_are_rejected(options, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["explore", *options, f"--output_dir={tmp_path / 'page'}"])
    with pytest.raises(InputError, match=expected):
        explore.main()
    assert not (tmp_path / "page").exists()


def test_missing_clips_and_emotions_are_rejected(demo_folder, tmp_path):
    files = find_corpora(["demo"], [demo_folder])
    with pytest.raises(InputError, match="only 120 of 480 clips"):
        read_data(files, tmp_path, None, allow_partial=False)
    with pytest.raises(InputError, match="did you mean 'happy'"):
        read_data(files, tmp_path, ["hapy", "sad"], allow_partial=True)
    copy_clips(demo_folder, tmp_path / "tess", {"03-03-04-01-01-01-01": "OAF_back_sad"})
    both = files | find_corpora(["tess"], [tmp_path / "tess"])
    with pytest.raises(InputError, match="TESS: no usable clip of happy angry; leave this corpus out"):
        read_data(both, tmp_path, ["happy", "angry"], allow_partial=True)


def test_an_input_error_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["explore", "--demo", f"--output_dir={tmp_path}"])
    with pytest.raises(SystemExit) as stopped:
        run_script(explore.main)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: --output_dir {tmp_path}: is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_the_demo_writes_a_page(tmp_path):
    options = ["--demo", f"--output_dir={tmp_path / 'page'}", f"--cache_dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "utils.explore", *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    parsed = Page(tmp_path / "page" / "index.html")
    assert parsed.table("The corpora").loc["synthetic demo voices", "clips"] == "480"
    assert "Left out or missing:\n\nnothing" in parsed.text
    assert {path.name for path in (tmp_path / "page").iterdir()} == {
        "index.html", "clips.csv", "tests.csv", "figures",
    }  # fmt: skip
