"""The cells of the notebooks: (kind, text), with the kind `markdown` or `code`."""

from notebooks.places import (
    ADD_TOKEN,
    DATA,
    ENABLE_GPU,
    INTERNET_HINT,
    LIST_INPUTS,
    PLACES,
    READ_TOKEN,
    SHARE,
)

Cells = list[tuple[str, str | None]]


def make_cells(place: str, repository: str) -> list[tuple[str, str]]:
    """Return the cells of the notebook for one of `PLACES`.

    Args:
        place: key of `PLACES`.
        repository: address from which the kit is cloned.
    """
    cells = [
        *introduction_cells(place),
        *setup_cells(place, repository),
        *data_cells(place),
        *training_cells(),
        *result_cells(),
        *page_cells(place),
        *publication_cells(),
    ]
    return [(kind, text.strip("\n")) for kind, text in cells if text]


def introduction_cells(place: str) -> Cells:
    return [
        (
            "markdown",
            f"""
# Train a speech emotion model on {PLACES[place]}

Fine-tunes wav2vec2 on RAVDESS and TESS, evaluates it on unseen speakers, and writes its model card. You can
play correctly and wrongly classified clips, try the model with your own voice, and publish it on the Hub.

Run all cells; the training takes about half an hour on a T4. To try the notebook without data and without a
GPU, set `DEMO = True` below: synthetic voices, a tiny encoder, a few minutes, no real results.""",
        ),
        (
            "code",
            """
DEMO = False
HUB_MODEL_ID = ""  # user/name; by default the name of the run, under your account
OPTIONS = "--augment"  # of train_wav2vec2.py, see the README""",
        ),
    ]


def setup_cells(place: str, repository: str) -> Cells:
    """Clone the kit, check the GPU, install missing packages."""
    return [
        ("markdown", "## The kit"),
        (
            "code",
            f"""
import os

REPOSITORY = "{repository}"
if not os.path.exists("train_wav2vec2.py"):
    if not os.path.exists("speech-emotion-kit"):
        !git clone -q --depth 1 {{REPOSITORY}} speech-emotion-kit
        if _exit_code:
            raise SystemExit("Cloning the kit failed; the lines above say why. {INTERNET_HINT[place]}")
    %cd -q speech-emotion-kit""",
        ),
        ("markdown", f"## GPU\n\n{ENABLE_GPU[place]}"),
        (
            "code",
            f"""
import torch

from utils.runtime import InputError, check_gpu

num_gpus = torch.cuda.device_count()
for number in range(num_gpus):
    gpu = torch.cuda.get_device_properties(number)
    print(f"{{gpu.name}}, {{gpu.total_memory / 2**30:.0f}} GB")
if not num_gpus and not DEMO:
    raise SystemExit("No GPU. {ENABLE_GPU[place]}; then run all cells again.")
try:
    check_gpu()
except InputError as error:
    raise SystemExit(str(error))""",
        ),
        ("markdown", "## Missing packages\n\nInstalled packages that are recent enough are kept."),
        (
            "code",
            f"""
%pip install -q -r requirements.txt gradio
if _exit_code:
    raise SystemExit("The installation failed; the lines above say why. {INTERNET_HINT[place]}")""",
        ),
    ]


def data_cells(place: str) -> Cells:
    """List the attached corpora and read the token for the Hub."""
    return [
        ("markdown", f"## Data\n\n{DATA[place]}"),
        ("code", LIST_INPUTS[place]),
        (
            "markdown",
            f"""
## Access token, for publishing

From https://huggingface.co/settings/tokens, with write access: {ADD_TOKEN[place]}. It is never printed.""",
        ),
        ("code", READ_TOKEN[place]),
    ]


def training_cells() -> Cells:
    return [
        (
            "markdown",
            """
## Training

If the session is interrupted and its disk is kept, run this cell again: it resumes from the last epoch.""",
        ),
        (
            "code",
            """
RUN = "runs/demo_notebook" if DEMO else "runs/wav2vec2"
OPTIONS = "--demo" if DEMO else OPTIONS
PROCESSES = f"--multi_gpu --num_processes {num_gpus}" if num_gpus > 1 else "--num_processes 1"
!accelerate launch {PROCESSES} train_wav2vec2.py {OPTIONS} --output_dir {RUN} --resume_from_checkpoint true
if _exit_code:
    raise SystemExit("The training failed; the lines above say why.")""",
        ),
    ]


def result_cells() -> Cells:
    """Show the model card, and play test clips."""
    return [
        ("markdown", "## Model card\n\nAs it will be published on the Hub."),
        (
            "code",
            r"""
import re
from pathlib import Path

from IPython.display import Audio, Image, Markdown, display

run = Path(RUN)
card = (run / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]  # without the front matter
for number, part in enumerate(re.split(r"!\[[^\]]*\]\((figures/[^)]*)\)", card)):
    display(Image(run / part) if number % 2 else Markdown(part))""",
        ),
        (
            "markdown",
            "## Examples\n\nTest clips with the most confident predictions: correct ones, then wrong ones.",
        ),
        (
            "code",
            """
import json

import pandas as pd

from utils.data.download import find_corpora
from utils.report.predictions import read_predictions

corpora = [corpus["name"] for corpus in json.loads((run / "metrics.json").read_text())["corpora"]]
found = find_corpora(corpora, [Path("data/demo")] if DEMO else [])
files = {file.stem: file for corpus_files in found.values() for file in corpus_files}
clips = read_predictions(run / "predictions.csv")
clips["probability"] = [row[f"p_{row['predicted']}"] for _, row in clips.iterrows()]
is_correct = clips["predicted"] == clips["emotion"]
for result, rows in {"Correct": clips[is_correct], "Wrong": clips[~is_correct]}.items():
    for clip in rows.nlargest(3, "probability").itertuples():
        print(f"{result}: {clip.emotion}, predicted {clip.predicted} with {clip.probability:.0%}")
        display(Audio(files[clip.clip]))""",
        ),
    ]


def page_cells(place: str) -> Cells:
    """Serve the page to try the model, and classify a file in Python."""
    return [
        (
            "markdown",
            """
## Try the model

The page classifies a recording or a file, and shows the emotion of the whole clip and over time. Nothing is
stored. The model was trained on actors in a studio, so expect more errors on your own voice.""",
        ),
        (
            "code",
            f"""
from space.app import build_page

# On {PLACES[place]}, a page on the machine of the notebook needs a public link, which ends with the session.
build_page(run).launch(inline=True, share={SHARE[place]})""",
        ),
        ("markdown", "Or classify a file in Python:"),
        (
            "code",
            """
import librosa
from transformers import pipeline

MY_CLIP = files[clips["clip"].iloc[0]]  # or the path of your own recording
classifier = pipeline("audio-classification", model=RUN)
waveform, _ = librosa.load(MY_CLIP, sr=16_000)
pd.DataFrame(classifier(waveform, top_k=None))""",
        ),
    ]


def publication_cells() -> Cells:
    return [
        ("markdown", "## Publish\n\nWeights, model card, figures and code in one commit, without audio."),
        (
            "code",
            """
if os.environ.get("HF_TOKEN"):
    NAME = f"--hub_model_id {HUB_MODEL_ID}" if HUB_MODEL_ID else ""
    !python -m utils.publish {RUN} {NAME}
    if _exit_code:
        raise SystemExit("Publishing failed; the line above says why.")
else:
    print("No HF_TOKEN: not published. The complete run is in", run.resolve())""",
        ),
    ]
