"""The commands in README and docs/ are valid, the Python code of the README runs, and its figures agree.

Run: python -m pytest tests/test_readme.py
"""

import ast
import functools
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import librosa
import pytest
from conftest import PROJECT
from scripts import SCRIPTS
from transformers import pipeline

from utils.data import demo

README = (PROJECT / "README.md").read_text(encoding="utf-8")
RESULTS = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((PROJECT / "docs").glob("*.md")))]
BLOCKS = [
    block for page in PAGES for block in re.findall(r"^```(\w*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
]


def commands() -> list[str]:
    """Return the Python commands of README and docs/, without `!` and with the values of shell variables."""
    found, variables = [], {}
    for _, block in BLOCKS:
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.fullmatch(r'([A-Z]+)="(.*)"', line.strip()):
                variables[match[1]] = match[2]
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            line = line.split("  #")[0].strip().removeprefix("!")
            for command in line.split(" && "):
                if re.match(r"(accelerate launch|python )", command) and "-m venv" not in command:
                    found.append(command.strip())
    return found


@functools.cache
def help_of(module: str) -> str:
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_commands():
    assert len(commands()) > 30


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_each_command_is_valid(command, monkeypatch):
    words = shlex.split(command)
    at = next(place for place, word in enumerate(words) if word.endswith(".py") or word == "-m")
    options = words[at + 1 :]
    if words[at] == "-m":
        module, options = options[0], options[1:]
        if module == "pytest":
            return
        for option in [word for word in options if word.startswith("--")]:
            assert option in help_of(module), f"{module} has no {option}"
        return
    script = PROJECT / words[at]
    assert script.exists(), script
    if script.parent != PROJECT or (options and options[0].endswith(".yaml")):
        return
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    importlib.import_module(script.stem).parse_arguments(options)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory, finished_runs) -> Path:
    """The run of the demo command in the README, in a folder with the name of the full run."""
    command = next(command for command in commands() if command.endswith("--demo"))
    assert shlex.split(command)[1:] == SCRIPTS["demo/wav2vec2"][:2]
    run = tmp_path_factory.mktemp("reader") / "runs" / "wav2vec2"
    shutil.copytree(finished_runs / "demo/wav2vec2", run)
    return run


def test_the_demo_has_the_uar_of_the_readme(demo_run):
    """Processors round differently, which changes some of 120 predictions, but no more of them."""
    expected = float(re.search(r"with a test UAR of ([\d.]+) %", README)[1])
    found = json.loads((demo_run / "metrics.json").read_text(encoding="utf-8"))["test"]["uar"]
    assert 100 * found == pytest.approx(expected, abs=2.5)


def test_the_python_code_runs(demo_run):
    """The code that loads a model, with the model of the demo instead of that of the full run."""
    [snippet] = [block for language, block in BLOCKS if language == "python" and "pipeline(" in block]
    folder = demo_run.parents[1]
    speech = next(Path(demo.make_demo_corpus(folder / "demo", num_speakers=2)).rglob("*.wav"))
    (folder / "speech.wav").write_bytes(speech.read_bytes())
    done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    top = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    waveform, _ = librosa.load(folder / "speech.wav", sr=16_000)
    scores = pipeline("audio-classification", model=str(demo_run))(waveform, top_k=None)
    emotions = json.loads((demo_run / "metrics.json").read_text(encoding="utf-8"))["emotions"]
    assert {score["label"] for score in scores} == set(emotions)
    assert sum(score["score"] for score in scores) == pytest.approx(1, abs=1e-5)
    assert [score["label"] for score in top] == [score["label"] for score in scores[:3]]
    for got, expected in zip(top, scores[:3], strict=True):
        assert got["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_the_inflation_is_that_of_the_generated_tables():
    table = re.search(r"<!-- leak -->\n(.*?)<!-- /leak -->", README, re.DOTALL)[1]
    rows = re.findall(r"^\| (TESS|RAVDESS), .* \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    assert len(rows) == 4
    for corpus, at_random, independent in rows:
        row = rf"^\| {corpus.lower()}_mfcc_random/\w+ \| {at_random} \| {independent} \| "
        assert re.search(row, RESULTS, re.MULTILINE), f"{corpus}: no run has {at_random} and {independent}"
