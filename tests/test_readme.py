"""What the README tells people to type is taken by the programs, and its Python runs.

Run: python -m pytest tests/test_readme.py
"""

import ast
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from utils import demo

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the Python commands of the README, with what shell variables and `!` stand for."""
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


def test_there_are_commands_to_check():
    assert len(commands()) > 30


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_each_command_is_understood(command, monkeypatch):
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


def test_its_python_runs(tmp_path):
    """The snippet that uses a model, on a demo run in the place of the real one."""
    [snippet] = [block for language, block in BLOCKS if language == "python" and "pipeline(" in block]
    run = tmp_path / "runs" / "wav2vec2"
    options = ["--demo", "--emotions", "sad", "angry", "--num_train_epochs=0", f"--output_dir={run}"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache")}
    for command, folder in ((["train_wav2vec2.py", *options], PROJECT), (["-c", snippet], tmp_path)):
        if folder == tmp_path:
            speech = next(Path(demo.make_demo_corpus(tmp_path / "demo", num_speakers=2)).rglob("*.wav"))
            (tmp_path / "speech.wav").write_bytes(speech.read_bytes())
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    answers = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert {answer["label"] for answer in answers} == {"sad", "angry"}
    assert sum(answer["score"] for answer in answers) == pytest.approx(1, abs=1e-5)


def test_the_leak_is_that_of_the_generated_tables():
    leak = re.search(r"<!-- leak -->\n(.*?)<!-- /leak -->", README, re.DOTALL)[1]
    rows = re.findall(r"^\| (TESS|RAVDESS), .* \| ([\d.]+) \| ([\d.]+) \|$", leak, re.MULTILINE)
    assert len(rows) == 4
    for corpus, at_random, apart in rows:
        row = rf"^\| {corpus.lower()}_mfcc_random/\w+ \| {at_random} \| {apart} \| "
        assert re.search(row, README, re.MULTILINE), f"{corpus}: no run has {at_random} and {apart}"
