"""Both notebooks equal the output of notebooks/make.py, and run completely without a GPU.

Run: python -m pytest tests/test_notebooks.py
"""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import PROJECT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from notebooks.make import make_all, make_notebook
from notebooks.places import LIST_INPUTS, PLACES, SHARE


def test_they_are_up_to_date():
    for path, content in make_all().items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run python -m notebooks.make"


@pytest.mark.parametrize("place", PLACES)
def test_they_are_valid_and_contain_no_outputs(place):
    notebook = nbformat.read(PROJECT / "notebooks" / f"{place}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


def test_each_is_about_its_own_place():
    colab, kaggle = ([cell.source for cell in make_notebook(place, "address").cells] for place in PLACES)
    assert len([cell for cell in colab if cell in kaggle]) >= 14
    for source, others in ((colab, "Kaggle"), (kaggle, "Colab")):
        assert not any(others in cell for cell in source)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with the current working tree of the kit, without the files that git ignores."""
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


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_all_cells_run(place, repository, tmp_path, monkeypatch):
    """In an empty folder, with a demo of two emotions."""
    notebook = make_notebook(place, repository.as_uri())
    replace(notebook, "DEMO = False", "DEMO = True")
    replace(notebook, '"--demo"', '"--demo --emotions sad angry --num_train_epochs 2"')
    # The kernel and the commands of the cells use the programs of this environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()

    run = tmp_path / "speech-emotion-kit" / "runs" / "demo_notebook"
    metrics = json.loads((run / "metrics.json").read_text())
    outputs = [output_of(cell) for cell in notebook.cells]
    everything = "\n".join(text for text, _ in outputs)
    assert f"Test UAR {100 * metrics['test']['uar']:.1f} %" in everything
    kinds = [kind for _, kinds in outputs for kind in kinds]
    card = next(kinds for text, kinds in outputs if "Not a real model" in text)
    assert card.count("image/png") == len(re.findall(r"!\[", (run / "README.md").read_text()))
    assert "No HF_TOKEN: not published" in everything
    examples = re.findall(r"(Correct|Wrong): (\w+), predicted (\w+) with", everything)
    assert examples
    assert all((result == "Correct") == (emotion == predicted) for result, emotion, predicted in examples)
    # Each example has a player, and the result of the pipeline is a table.
    players = [text for text, kinds in outputs if "Correct: " in text or "Wrong: " in text]
    assert len(players) == 1 and everything.count("<audio") == 0
    assert kinds.count("text/html") >= len(examples) + 1
    assert re.search(r"score\s+label", everything)
    assert "Running on local URL" in everything and "public URL" not in everything


@pytest.mark.parametrize("place", PLACES)
def test_it_stops_if_the_kit_cannot_be_cloned(place, tmp_path):
    notebook = make_notebook(place, (tmp_path / "nowhere").as_uri())
    resources = {"metadata": {"path": str(tmp_path)}}
    with pytest.raises(CellExecutionError, match=r"SystemExit.*Cloning the kit failed"):
        NotebookClient(notebook, timeout=60, resources=resources).execute()
    executed = [cell for cell in notebook.cells if cell.get("execution_count")]
    assert "git clone" in executed[-1].source
    assert "does not appear to be a git repository" in output_of(executed[-1])[0]


@pytest.mark.parametrize("capability", [(6, 0), (7, 5)])
def test_an_unsupported_gpu_stops_it_before_the_installation(capability, monkeypatch):
    """A P100 is not supported, a T4 is."""
    cells = [cell.source for cell in make_notebook("kaggle", "address").cells]
    number = next(number for number, source in enumerate(cells) if "check_gpu()" in source)
    assert "%pip install" in "".join(cells[number:]) and "%pip install" not in "".join(cells[:number])
    facts = {
        "device_count": 1,
        "is_available": True,
        "get_device_properties": types.SimpleNamespace(name="GPU", total_memory=16 * 2**30),
        "get_device_name": "GPU",
        "get_device_capability": capability,
        "get_arch_list": ["sm_75", "sm_80", "sm_90", "compute_90"],
    }
    for name, fact in facts.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, fact=fact: fact)
    if capability == (6, 0):
        with pytest.raises(SystemExit, match=r"is not supported by PyTorch.*GPU T4 x2"):
            exec(cells[number], {"DEMO": False})
    else:
        exec(cells[number], {"DEMO": False})


@pytest.mark.parametrize("kind", ["Interactive", "Batch", ""])
def test_a_public_link_is_opened_in_interactive_sessions_only(kind, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", kind)
    assert eval(SHARE["kaggle"], {"os": os}) is (kind == "Interactive")


@pytest.mark.parametrize("mounts", [["ravdess", "tess"], ["datasets/one/ravdess", "datasets/other/tess"]])
def test_attached_inputs_are_listed(mounts, tmp_path, capsys):
    for mount in mounts:
        (tmp_path / mount).mkdir(parents=True)
    exec(LIST_INPUTS["kaggle"].replace("/kaggle/input", str(tmp_path)), {})
    assert capsys.readouterr().out.split()[1:] == [str(tmp_path / mount) for mount in mounts]


def replace(notebook, old: str, new: str) -> None:
    """Replace a text that exactly one cell contains."""
    [cell] = [cell for cell in notebook.cells if old in cell.source]
    cell.source = cell.source.replace(old, new)


def output_of(cell) -> tuple[str, list[str]]:
    """Return the printed and displayed text of a cell, and the MIME types of its displayed outputs."""
    text, kinds = [], []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            text.append(output.text)
        elif "data" in output:
            kinds += output.data
            text.append(output.data.get("text/markdown", output.data.get("text/plain", "")))
    return "\n".join(text), kinds
