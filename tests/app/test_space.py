"""The page in a real browser shows the predictions of the model and stores nothing.

Run: python -m pytest tests/app/test_space.py

Separate processes serve the pages; the browser is Debian's `chromium`; the Hub is `hub_server.py`.
"""

import base64
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from conftest import PROJECT
from hub_server import environment
from playwright.sync_api import expect, sync_playwright
from scripts import FinishedRuns

from utils.app import predictor
from utils.app.descriptions import (
    default_threshold,
    describe_calibration,
    emotion_segments,
    format_percent,
    read_test_confidences,
)
from utils.app.handlers import PageModel
from utils.app.loading import load_model
from utils.data.audio import SAMPLING_RATE, AudioError, read_waveform
from utils.runtime import InputError

TOKEN = "hf_write"

IS_GRADIO_5 = metadata.version("gradio").startswith("5.")
# Gradio 5 loads this script, which fits a page into the frame of a Space; Gradio 6 does not.
FOREIGN = ["https://cdnjs.cloudflare.com/ajax/libs/iframe-resizer/"] if IS_GRADIO_5 else []

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def clips(finished_runs) -> list[Path]:
    """Test clips; the first ones have different predictions."""
    table = pd.read_csv(finished_runs / "wav2vec2" / "predictions.csv")
    table = pd.concat([table.drop_duplicates("predicted"), table[::6]])
    paths = [PROJECT / "data" / "demo" / f"Actor_{name[-2:]}" / f"{name}.wav" for name in table["clip"]]
    return paths


@pytest.fixture(scope="module")
def start_browser():
    path = shutil.which("chromium")
    assert path, "these tests drive Debian's package `chromium`: apt-get install chromium"
    with sync_playwright() as playwright, contextlib.ExitStack() as stack:

        def start(*flags: str):
            browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
            stack.callback(browser.close)
            return browser

        yield start


@pytest.fixture(scope="module")
def browser(start_browser):
    return start_browser()


@contextlib.contextmanager
def serving(folder: Path, command: list, cwd: Path, variables: dict):
    """Yield the address of a served page, the folder of its files, and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files, log = folder / "gradio", folder / "log"
    variables = {name: value for name, value in variables.items() if name != "PYTHONPATH"}
    variables |= {"GRADIO_TEMP_DIR": str(files), "GRADIO_SERVER_PORT": str(port), "NO_PROXY": "127.0.0.1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=cwd, env=variables, stdout=output, stderr=output
        )
    try:
        address, end = f"http://127.0.0.1:{port}/", time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=5).close()
                break
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        yield address, files, log
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def served(finished_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, ["-m", "space.app", finished_runs / "wav2vec2"], PROJECT, dict(os.environ)) as page:
        yield page


@contextlib.contextmanager
def opened(browser, served, width: int = 1280):
    """Yield the open page, then check that it used its own server only, kept no file and had no errors."""
    address, files, _ = served
    page = browser.new_page(viewport={"width": width, "height": 900})
    requested, errors = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    page.close()
    assert len(requested) > 3 and not errors
    allowed = (address, "data:", "blob:", *FOREIGN)
    assert not [url for url in requested if not url.startswith(allowed)]
    assert files.is_dir() and not left_in(files)


def left_in(files: Path) -> list[Path]:
    return [path for path in files.rglob("*") if path.name != "vibe_edit_history"]  # Gradio's, empty


def send(page, path: Path) -> None:
    page.locator("#file input[type=file]").set_input_files(path)


def prediction(page) -> str:
    expect(page.locator("#prediction .prediction")).to_be_visible(timeout=60_000)
    return page.inner_text("#prediction .prediction")


def set_threshold(page, percents: int, number: int = 0) -> None:
    field = page.locator(".threshold input[type=number]").nth(number)
    field.fill(str(percents))
    field.press("Enter")


@pytest.fixture(scope="module")
def model(finished_runs):
    """The prediction of the model of a run for a file, by the public API."""

    def predict(name: str, path: Path) -> dict[str, float]:
        run = json.loads((finished_runs / name / "metrics.json").read_text())
        if name not in loaded:
            loaded[name] = load_model(finished_runs / name, run)
        probabilities = loaded[name]([read_waveform(path)])
        return dict(zip(run["emotions"], probabilities[0].tolist(), strict=True))

    loaded = {}
    return predict


def bars(page) -> dict[str, int]:
    rows = page.locator("#prediction .bars tr").all()
    return {row.locator("th").inner_text(): int(row.inner_text().split()[-2].strip("<>")) for row in rows}


# ---------------------------------------------------------------------------------------------------
# One clip


def test_the_page_shows_the_predictions_of_the_model(browser, served, clips, model):
    predictions = set()
    with opened(browser, served) as page:
        set_threshold(page, 0)
        for clip in clips[:3]:
            expected = model("wav2vec2", clip)
            first = max(expected, key=expected.get)
            send(page, clip)
            expect(page.locator("#prediction .prediction")).to_have_text(
                f"{first}, {format_percent(expected[first])}", timeout=60_000
            )
            assert bars(page).keys() == expected.keys()
            for emotion, percents in bars(page).items():
                assert percents == pytest.approx(100 * expected[emotion], abs=1)
            assert next(iter(bars(page))) == first, "the most probable one is first"
            predictions.add(first)
            assert not left_in(served[1])
    assert len(predictions) > 1


def test_it_shows_the_clip_and_the_predictions_over_time(browser, served, clips, model, tmp_path):
    two = tmp_path / "two.wav"
    waveforms = [read_waveform(clip) for clip in clips]
    soundfile.write(two, np.concatenate(waveforms)[: 8 * SAMPLING_RATE], SAMPLING_RATE)
    with opened(browser, served) as page:
        send(page, two)
        prediction(page)
        # 8 s: (8 - 1.5) / 0.25 + 1 windows; segments end halfway between window centres.
        words = page.inner_text("#timeline .note")
        assert "windows of 1.5 s, one every 0.25 s" in words
        found = re.findall(r"(\w+) from ([\d.]+) to ([\d.]+) s", words)
        assert found[0][1] == "0.0" and found[-1][2] == "8.0"
        assert all(one[2] == after[1] for one, after in itertools.pairwise(found))
        assert {emotion for emotion, _, _ in found} <= {"sad", "angry", "happy"}
        image = page.locator("#timeline img")
        assert image.evaluate("image => image.naturalWidth") > 1000
        assert words in image.get_attribute("alt")
        sound = page.locator("#timeline audio").get_attribute("src").split(",")[1]
        played, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
        np.testing.assert_allclose(played, read_waveform(two), atol=1e-4)
        assert rate == SAMPLING_RATE


def test_predictions_below_the_threshold_are_uncertain_and_its_coverage_is_shown(
    browser, served, clips, finished_runs
):
    test = pd.read_csv(finished_runs / "wav2vec2" / "predictions.csv")
    confidence = test[["p_sad", "p_angry", "p_happy"]].max(axis=1)
    run = json.loads((finished_runs / "wav2vec2" / "metrics.json").read_text())
    with opened(browser, served) as page:
        start = int(page.locator(".threshold input[type=number]").first.input_value())
        assert 0.75 <= (confidence >= start / 100).mean() <= 0.9, "four fifths reach the default threshold"
        assert start == int(100 * run["calibration"]["after"]["coverage_table"][2]["confidence"])
        send(page, clips[0])
        prediction(page)
        set_threshold(page, 100)
        expect(page.locator("#prediction .prediction")).to_have_text(
            re.compile(r"^Uncertain: \w+ >?\d+ %, \w+ <?\d+ %$")
        )
        expect(page.locator(".coverage").first).to_contain_text(f"None of the {len(test)} test clips reached")
        set_threshold(page, 60)
        confident = confidence >= 0.6
        correct = (test["emotion"] == test["predicted"])[confident].mean()
        expect(page.locator(".coverage").first).to_contain_text(
            f"{100 * confident.mean():.0f} % of the {len(test)} test clips reached this probability; "
            f"{100 * correct:.0f} % of these were correct"
        )
        set_threshold(page, 0)
        expect(page.locator("#prediction .prediction")).to_have_text(re.compile(r"^\w+, >?\d+ %$"))


@pytest.mark.slow
def test_a_recording_is_classified_and_not_kept(start_browser, served, clips, tmp_path):
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, np.tile(read_waveform(clips[0]), 5), SAMPLING_RATE, subtype="PCM_16")
    browser = start_browser(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={voice}",
    )
    with opened(browser, served) as page:
        page.locator("#recording").get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(2500)
        page.locator("#recording").get_by_role("button", name="Stop", exact=True).click()
        assert re.fullmatch(r"(Uncertain: )?(sad|angry|happy)\W.*%", prediction(page))
        sound = page.locator("#timeline audio").get_attribute("src").split(",")[1]
        played, _ = soundfile.read(io.BytesIO(base64.b64decode(sound)))
        assert 1 < len(played) / SAMPLING_RATE < 6 and np.abs(played).max() > 0.01
        assert not left_in(served[1])


def invalid_files(folder: Path) -> dict[str, Path]:
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLING_RATE).astype(np.float32)
    (folder / "text.wav").write_text("This is no audio. " * 100)
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "silence.wav", np.zeros(SAMPLING_RATE), SAMPLING_RATE)
    soundfile.write(folder / "long.wav", np.tile(noise, 61), SAMPLING_RATE)
    noise[100] = np.nan
    soundfile.write(folder / "nan.wav", noise, SAMPLING_RATE, subtype="FLOAT")
    soundfile.write(folder / "short.wav", noise[200:300], SAMPLING_RATE)
    return {path.name: path for path in folder.iterdir()}


def test_an_invalid_file_gives_an_error_message(browser, served, clips, tmp_path):
    with opened(browser, served) as page:
        send(page, clips[0])
        prediction(page)
        for name, path in invalid_files(tmp_path).items():
            with pytest.raises(AudioError) as error:
                read_waveform(path)
            send(page, path)
            expect(page.locator("#prediction [role=alert]")).to_have_text(
                f"{name}: {error.value}", timeout=30_000
            )
            assert (
                not page.locator("#prediction .prediction").count()
                and not page.locator("#timeline img").count()
            )
            assert not left_in(served[1])
        send(page, clips[0])
        prediction(page)
        assert not page.locator("#prediction [role=alert]").count()
        assert "Traceback" not in page.content()


# ---------------------------------------------------------------------------------------------------
# Several files, limitations, narrow screens


@pytest.mark.slow
def test_several_files_become_a_table_to_download(browser, served, clips, model, tmp_path):
    bad = tmp_path / "text, bad.wav"
    bad.write_text("no sound")
    sent = [clips[0], bad, clips[1], clips[2]]
    with opened(browser, served) as page:
        page.get_by_role("tab", name="Several files").click()
        page.locator("#files input[type=file]").set_input_files(sent)
        expect(page.locator("#table tbody tr")).to_have_count(4, timeout=60_000)
        assert not left_in(served[1])
        tables = {}
        for percents in (100, 0):
            set_threshold(page, percents, 1)
            uncertain = page.locator("#table tbody tr", has_text="uncertain: ")
            expect(uncertain).to_have_count(3 if percents else 0)  # not those of the threshold before
            with page.expect_download() as download:
                page.get_by_text("Download as CSV").click()
            assert download.value.suggested_filename == "emotions.csv"
            tables[percents] = pd.read_csv(download.value.path())
        assert "not readable as audio" in page.inner_text("#table tbody tr:nth-child(2)")
    table = tables[0]
    assert table["file"].tolist() == [path.name for path in sent]
    assert table["confident"].fillna("").tolist() == ["yes", "", "yes", "yes"]
    assert tables[100]["confident"].fillna("").tolist() == ["no", "", "no", "no"]
    assert table["problem"].notna().tolist() == [False, True, False, False]
    for row, path in ((table.iloc[number], sent[number]) for number in (0, 2, 3)):
        expected = model("wav2vec2", path)
        assert row["prediction"] == max(expected, key=expected.get)
        for emotion, probability in expected.items():
            assert row[f"p_{emotion}"] == pytest.approx(probability, abs=1e-4)


def test_test_results_and_limitations_are_shown(browser, served, finished_runs):
    run = json.loads((finished_runs / "wav2vec2" / "metrics.json").read_text())
    low, high = (f"{100 * bound:.1f}" for bound in run["test"]["intervals"]["uar"])
    figures = (
        f"{100 * run['test']['uar']:.1f} % (95 % interval over speakers {low} to {high}); chance is 33.3 %"
    )
    with opened(browser, served) as page:
        expect(page.locator("#intro")).to_contain_text("Not a real model.")
        expect(page.locator(".note", has_text=figures)).to_be_visible()
        page.get_by_role("tab", name="Limits").click()
        expect(page.locator("#limitations")).to_contain_text("Out-of-scope use")
        limitations = page.inner_text("#limitations")
        assert figures in limitations
        assert "It always predicts one of its 3 emotions" in limitations


@pytest.mark.slow
def test_narrow_screens_need_no_horizontal_scrolling(browser, served, clips):
    with opened(browser, served, width=390) as page:
        send(page, clips[0])
        prediction(page)
        expect(page.locator("#timeline img")).to_be_visible()
        narrow = page.locator("#timeline img").evaluate("image => image.currentSrc.length")
        assert narrow != page.locator("#timeline img").evaluate("image => image.src.length"), (
            "a separate figure"
        )
        for tab in ("One clip", "Several files", "Limits"):
            page.get_by_role("tab", name=tab).click()
            if tab == "Several files":
                page.locator("#files input[type=file]").set_input_files(clips[:2])
                expect(page.locator("#table tbody tr")).to_have_count(2, timeout=60_000)
            assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_it_offers_no_api_and_no_history(served):
    with urllib.request.urlopen(f"{served[0]}gradio_api/info") as response:
        assert json.load(response)["named_endpoints"] == {}
    with urllib.request.urlopen(f"{served[0]}config") as response:
        config = json.load(response)
    assert config["analytics_enabled"] is False
    assert IS_GRADIO_5 or config["run_history"] is False  # Gradio 5 has none


# ---------------------------------------------------------------------------------------------------
# Parts of the page


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "0 %"),
        (1e-9, "<1 %"),
        (0.0051, "1 %"),
        (0.83, "83 %"),
        (0.994, "99 %"),
        (0.9951, ">99 %"),
        (1, "100 %"),
    ],
)
def test_0_and_100_percent_are_exact(share, words):
    assert format_percent(share) == words


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.3, 1), (1.5, 1), (1.51, 2), (2, 3), (4, 11), (16.25, 60), (60, 60)]
)
def test_windows_cover_a_clip_evenly_and_their_number_is_limited(seconds, expected):
    num_samples = round(seconds * SAMPLING_RATE)
    windows = predictor.window_slices(num_samples)
    assert len(windows) == expected and windows[0].start == 0 and windows[-1].stop == num_samples
    assert {part.stop - part.start for part in windows} == {min(num_samples, 24_000)}
    hops = np.diff([part.start for part in windows])
    assert not len(hops) or hops.max() - hops.min() <= 1
    assert (hops <= 24_000).all(), "the windows overlap or adjoin"


@pytest.mark.parametrize(("window_seconds", "noted"), [(4, False), (3, True), (None, False)])
def test_the_page_says_that_a_clip_is_longer_than_the_window_of_the_model(window_seconds, noted, tmp_path):
    class Model(PageModel):
        def __init__(self):
            self.run = {"model": {"window_seconds": window_seconds}}
            self.emotions = ["sad", "angry"]
            self.predict_proba = lambda clips: np.array([[0.2, 0.8]] * len(clips))

    clip = tmp_path / "clip" / "clip.wav"
    clip.parent.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, round(3.5 * SAMPLING_RATE)).astype(np.float32)
    soundfile.write(clip, noise, SAMPLING_RATE)
    *_, words = Model().predict_clip(str(clip), 50)
    assert ("its prediction is for the first 3 s of the clip" in words) == noted


def test_silent_windows_have_no_prediction():
    waveform = np.random.default_rng(0).normal(0, 0.1, 6 * SAMPLING_RATE).astype(np.float32)
    waveform[2 * SAMPLING_RATE : 4 * SAMPLING_RATE] = 0
    _, times, probabilities = predictor.predict_over_time(
        lambda clips: np.array([[0.2, 0.8]] * len(clips)), waveform
    )
    silent = (times >= 2.75) & (times <= 3.25)
    np.testing.assert_array_equal(np.isnan(probabilities).all(axis=1), silent)
    assert 0 < silent.sum() < len(silent)
    assert [name for name, _, _ in emotion_segments(probabilities, ["a", "b"])] == ["b", "silence", "b"]


def test_predictions_of_each_kind_of_model_are_calibrated(finished_runs, clips, model):
    for name in ("cnn", "baselines/lda", "wav2vec2"):
        run = predictor.read_run(finished_runs / name)
        probabilities, _, window_probabilities = predictor.predict_over_time(
            predictor.load_predictor(finished_runs / name, run), read_waveform(clips[0])
        )
        np.testing.assert_allclose(probabilities, list(model(name, clips[0]).values()), atol=1e-5)
        np.testing.assert_allclose(window_probabilities.sum(axis=1), 1, atol=1e-5)
        confidence = read_test_confidences(finished_runs / name, run)["confidence"]
        points = run["calibration"]["after"]["coverage_table"]
        for point in points:
            assert (confidence >= point["confidence"] - 1e-9).mean() == pytest.approx(point["coverage"])
        assert "are calibrated on validation clips" in describe_calibration(run)
    run["calibration"]["temperature"] = 1
    assert "not scaled" in describe_calibration(run)
    del run["calibration"]["after"]["coverage_table"]
    assert default_threshold(run) == 0.5


def test_a_missing_or_unsuitable_model_is_a_one_line_error(finished_runs, tmp_path, capsys):
    from space.app import find_model

    with pytest.raises(SystemExit) as end:
        find_model("me/missing")
    line = capsys.readouterr().err
    assert end.value.code == 2 and len(line.splitlines()) == 1
    assert line.startswith("error: me/missing: no run folder, and no model on the Hub that can be downloaded")
    with pytest.raises(InputError, match="expected the folder of a finished run"):
        predictor.read_run(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "space.app", speaker_normalised_run(finished_runs, tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "it needs many clips of a speaker" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def speaker_normalised_run(finished_runs: FinishedRuns, folder: Path) -> Path:
    """Return a copy of a run, marked as trained with features standardised over the clips of each speaker."""
    shutil.copytree(finished_runs / "baselines/lda", folder / "normalised")
    path = folder / "normalised" / "metrics.json"
    run = json.loads(path.read_text())
    run["model"]["speaker_normalization"] = True
    path.write_text(json.dumps(run))
    return path.parent


# ---------------------------------------------------------------------------------------------------
# A Space


def publish(hub, home: Path, *options, expect=0, token=TOKEN) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "utils.publish", *map(str, options)],
        cwd=PROJECT,
        env=environment(hub, token, home),
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert done.returncode == expect, output[-3000:]
    assert "hf_" not in output and "Traceback" not in output
    return output


def pins(*packages: str) -> set[str]:
    """Requirements for the installed versions, with which the runs were made."""
    return {f"{package}=={metadata.version(package).split('+')[0]}" for package in packages}


@pytest.mark.slow
def test_a_published_space_runs_without_the_kit(finished_runs, hub, browser, clips, model, tmp_path):
    output = publish(
        hub, tmp_path, finished_runs / "baselines/lda", "--hub_model_id=me/voice", "--space=me/demo"
    )
    assert f"Published: {hub.endpoint}/spaces/me/demo\n" in output
    files = hub.files("me/demo", repo_type="space")
    assert files.keys() == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    assert len(hub.commits("me/demo", repo_type="space")) == 2
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    pinned = (PROJECT / "constraints.txt").read_text()
    assert front["sdk"] == hub.repos["space", "me/demo"].sdk == "gradio"
    assert f"\ngradio=={front['sdk_version']}\n" in pinned and front["app_file"] == "app.py"
    assert front["models"] == ["me/voice"] and front["python_version"] == f"3.{sys.version_info.minor}"
    requirements = files["requirements.txt"].decode().split()
    assert pins("scikit-learn", "skops") <= set(requirements)
    assert not re.search("torch|tensorflow|keras|opensmile", files["requirements.txt"].decode())

    # A machine with the Space and without the kit: the model and its code come from the Hub.
    space = tmp_path / "space"
    space.mkdir()
    for name, content in files.items():
        (space / name).write_bytes(content)
    hub.requests.clear()
    variables = environment(hub, None, tmp_path / "another home")
    with serving(tmp_path, ["app.py"], space, variables) as served:
        fetched = [path for _, path, _ in hub.requests if path.startswith("/me/voice/resolve/")]
        assert [path for path in fetched if path.endswith("/model.skops")]
        assert [path for path in fetched if path.endswith("/utils/app/predictor.py")]
        with opened(browser, served) as page:
            for clip in clips[:2]:
                page.reload()  # removes the prediction of the previous clip
                expect(page.locator("#intro b")).to_have_text("voice")
                set_threshold(page, 0)
                expected = model("baselines/lda", clip)
                first = max(expected, key=expected.get)
                send(page, clip)
                expect(page.locator("#prediction .prediction")).to_have_text(
                    f"{first}, {format_percent(expected[first])}", timeout=60_000
                )


@pytest.mark.slow
def test_a_private_model_has_a_private_space_after_a_retry_too(finished_runs, hub, tmp_path):
    hub.fail("POST", "/api/spaces/me/demo/commit/main", status=403)
    options = ["--hub_model_id=me/secret", "--space=demo", "--hub_private_repo"]
    line = (
        publish(hub, tmp_path, finished_runs / "baselines/lda", *options, expect=2).strip().splitlines()[-1]
    )
    assert "is published, its page is not" in line and "model.skops" in hub.files("me/secret")
    assert "app.py" not in hub.files("me/demo", repo_type="space")
    output = publish(hub, tmp_path, *line.split("python -m utils.publish ")[1].split())
    assert "app.py" in hub.files("me/demo", repo_type="space")
    assert hub.is_private("me/secret") and hub.is_private("me/demo", repo_type="space")
    assert f"add a secret HF_TOKEN with read access to its page, at {hub.endpoint}/spaces/me/demo" in output


def test_an_impossible_space_is_a_one_line_error_and_nothing_is_published(finished_runs, hub, tmp_path):
    options = [finished_runs / "baselines/lda", "--hub_model_id=me/voice", "--space=somebody/demo"]
    output = publish(hub, tmp_path, *options, expect=2)
    assert len(output.strip().splitlines()) == 1
    assert "--space somebody/demo: the token of me may not write there" in output
    assert [len(repo.all_commits) for repo in hub.repos.values()] == [1], "the empty one of the model"
    hub.requests.clear()
    output = publish(
        hub, tmp_path, speaker_normalised_run(finished_runs, tmp_path), "--space=me/demo", expect=2
    )
    assert "needs many clips of a speaker" in output and not hub.requests


def test_a_space_requires_the_library_of_its_model(finished_runs):
    from utils.hub.space import space_files

    for name, needed, others in (
        ("wav2vec2", pins("torch", "transformers"), "tensorflow|keras|skops|opensmile"),
        ("cnn", pins("tensorflow", "keras"), "torch|transformers|skops|opensmile"),
    ):
        text = space_files(predictor.read_run(finished_runs / name), "me/voice")["requirements.txt"].decode()
        assert needed <= set(text.split()) and not re.search(others, text)
    run = predictor.read_run(finished_runs / "baselines/lda")
    run["model"]["feature_set"] = "egemaps"
    assert "opensmile" in space_files(run, "me/voice")["requirements.txt"].decode()
