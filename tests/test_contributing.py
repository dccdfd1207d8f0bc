"""The changes that CONTRIBUTING shows: each is applied to a copy of the tree, which then trains.

Run: python -m pytest tests/test_contributing.py
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from utils.data.demo import make_demo_corpus

TEXT = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow


def apply(block: str, tree: Path) -> None:
    """Change the files of a tree as a diff without line numbers says; each of its pieces must occur once."""
    for part in re.split(r"^--- ", block, flags=re.MULTILINE)[1:]:
        name, _, changes = part.partition("\n")
        path = tree / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for piece in changes.split("@@\n"):
            lines = piece.splitlines()
            old, new = (
                "".join(f"{line[1:]}\n" for line in lines if (line or " ")[0] in kinds)
                for kinds in (" -", " +")
            )
            if path.exists():
                assert text.count(old) == 1, f"{name} has not once:\n{old}"
            text = text.replace(old, new) if old else new
        path.write_text(text, encoding="utf-8")


def run(tree: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy of the tree with all three changes, and with 132 synthetic clips under names of CREMA-D."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(PROJECT / "utils", tree / "utils")
    for name in ("train_baselines.py", "train_wav2vec2.py", "model_card.md", "requirements.txt"):
        shutil.copy(PROJECT / name, tree)
    for block in re.findall(r"```diff\n(.*?)```", TEXT, re.DOTALL):
        apply(block, tree)
    codes = {"01": "NEU", "03": "HAP", "04": "SAD", "05": "ANG", "06": "FEA", "07": "DIS"}
    (tree / "crema_d").mkdir()
    for path in make_demo_corpus(tree / "demo", num_speakers=10).rglob("*.wav"):
        _, _, emotion, intensity, sentence, _, actor = path.stem.split("-")
        if emotion in codes and actor > "04":
            level = {"01": "LO", "02": "HI"}[intensity]
            name = f"10{actor}_{('IEO', 'DFA')[int(sentence) - 1]}_{codes[emotion]}_{level}.wav"
            path.rename(tree / "crema_d" / name)
    return tree


OPTIONS = ("--corpora", "crema_d", "--data_dir", "crema_d", "--allow_partial", "--cache_dir", "cache")


def test_a_corpus_and_a_feature_are_one_module_each(changed):
    options = (*OPTIONS, "--models", "lr", "--robustness=false", "--output_dir", "runs/features")
    output = run(changed, "train_baselines.py", *options)
    assert "CREMA-D: only 132 of 7442 clips" in output
    metrics = json.loads((changed / "runs" / "features" / "lr" / "metrics.json").read_text())
    assert metrics["split"]["test"]["speakers"] == ["crema_d-1010"]
    assert metrics["test"]["uar"] > 2 / 6
    assert "contrast" in metrics["importance"]["uar"]
    card = (changed / "runs" / "features" / "lr" / "README.md").read_text()
    assert "under the terms of every licence above (ODBL)" in card and "non-commercial" not in card


def test_a_head_is_one_module(changed):
    options = (
        *OPTIONS,
        "--from_config=tiny",
        "--num_train_epochs=0",
        "--robustness=false",
        "--output_dir=runs/probe",
    )
    run(changed, "train_wav2vec2.py", *options)
    metrics = json.loads((changed / "runs" / "probe" / "metrics.json").read_text())
    assert metrics["stages"]["holdout"]["kept"] == "probe"
    assert metrics["probe"]["chosen"]["holdout"]["C"] in (0.05, 0.2, 0.5, 0.9)
    card = (changed / "runs" / "probe" / "README.md").read_text()
    assert "frozen, with a linear classifier on" in card
