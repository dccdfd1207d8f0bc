"""Both notebooks are what their source makes, and run whole where somebody has a kernel and no GPU.

Run: python -m pytest tests/test_notebooks.py
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import PROJECT
from nbclient import NotebookClient

from notebooks.make import PLACES, make_all, make_notebook


def test_nobody_edited_them_by_hand():
    for path, content in make_all().items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run python -m notebooks.make"


@pytest.mark.parametrize("place", PLACES)
def test_they_are_valid_and_hold_no_outputs(place):
    notebook = nbformat.read(PROJECT / "notebooks" / f"{place}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


def test_they_differ_in_their_place_alone():
    colab, kaggle = ([cell.source for cell in make_notebook(place, "address").cells] for place in PLACES)
    assert len([cell for cell in colab if cell in kaggle]) >= 14
    for source, others in ((colab, "Kaggle"), (kaggle, "Colab")):
        assert not any(others in cell for cell in source)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """The kit as somebody clones it: the files that git tracks or would, as they are now."""
    folder = tmp_path_factory.mktemp("repository")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (PROJECT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((PROJECT / name).read_bytes())
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "-q"], ["add", "--all"], [*identity, "commit", "-q", "-m", "The kit"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_it_runs_whole(place, repository, tmp_path, monkeypatch):
    """In an empty folder, with a demo of two emotions: it clones, trains, shows, plays and classifies."""
    notebook = make_notebook(place, repository.as_uri())
    replace(notebook, "DEMO = False", "DEMO = True")
    replace(notebook, '"--demo"', '"--demo --emotions sad angry --num_train_epochs 2"')
    # Programs of this environment come first, and the kernel starts from it.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    place_of_kernel = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=place_of_kernel).execute()

    run = tmp_path / "speech-emotion-kit" / "runs" / "demo_notebook"
    metrics = json.loads((run / "metrics.json").read_text())
    told = [output_of(cell) for cell in notebook.cells]
    everything = "\n".join(text for text, _ in told)
    assert f"Test UAR {100 * metrics['test']['uar']:.1f} %" in everything  # the training is seen
    kinds = [kind for _, kinds in told for kind in kinds]
    card = next(kinds for text, kinds in told if "Not a real model" in text)
    assert card.count("image/png") == len(re.findall(r"!\[", (run / "README.md").read_text()))
    assert "No HF_TOKEN: not published" in everything
    heard = re.findall(r"(Right|Wrong): (\w+), heard as (\w+) with", everything)
    assert heard and all((word == "Right") == (is_ == said) for word, is_, said in heard)
    # Each of these clips can be played, and the classifier's answer is a table.
    players = [text for text, kinds in told if "Right: " in text or "Wrong: " in text]
    assert len(players) == 1 and everything.count("<audio") == 0
    assert kinds.count("text/html") >= len(heard) + 1
    assert re.search(r"score\s+label", everything)
    assert "Running on local URL" in everything and "public URL" not in everything


def replace(notebook, old: str, new: str) -> None:
    """Change a line of one cell; it has to be there."""
    [cell] = [cell for cell in notebook.cells if old in cell.source]
    cell.source = cell.source.replace(old, new)


def output_of(cell) -> tuple[str, list[str]]:
    """Return a cell's printed and shown text, and the kinds of what it shows."""
    text, kinds = [], []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            text.append(output.text)
        elif "data" in output:
            kinds += output.data
            text.append(output.data.get("text/markdown", output.data.get("text/plain", "")))
    return "\n".join(text), kinds
