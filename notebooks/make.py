"""The repository's address in CITATION.cff comes in; notebooks/colab.ipynb, notebooks/kaggle.ipynb and the
badges in README.md go out.

    python -m notebooks.make

Both notebooks are made of the cells below, so that they cannot drift apart. Nobody edits them by hand.
"""

import re
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PROJECT_ROOT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT_ROOT / "notebooks"

PLACES = {"colab": "Colab", "kaggle": "Kaggle"}

METADATA = {
    "colab": {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}},
    "kaggle": {
        "kaggle": {"accelerator": "nvidiaTeslaT4", "isGpuEnabled": True, "isInternetEnabled": True},
    },
}

SWITCH_ON = {
    "colab": "Runtime → Change runtime type → T4 GPU",
    "kaggle": "Settings → Accelerator → GPU T4 x2 (the P100 is too old for current PyTorch)",
}

DATA = {
    "colab": "RAVDESS and TESS are downloaded (430 MB) when the training begins, and checked against their "
    "publishers' checksums.",
    "kaggle": "Add the inputs `uwrfkaggler/ravdess-emotional-speech-audio` and "
    "`ejlok1/toronto-emotional-speech-set-tess` on the right (Add Input). What is not attached is downloaded "
    "(430 MB) to `/kaggle/temp`, if the notebook has internet: TESS may not be published with its output.",
}

FIND_DATA = {
    "colab": None,
    "kaggle": """
from pathlib import Path

inputs = Path("/kaggle/input")
attached = [*inputs.glob("datasets/*/*"), *(each for each in inputs.glob("*") if each.name != "datasets")]
print("Attached:", *sorted(map(str, attached)) or ["nothing"])""",
}

ONLINE = {
    "colab": "Is the address right?",
    "kaggle": "Is the internet on? Settings → Turn on internet (it asks for a verified telephone number).",
}

TOKEN_WORDS = {
    "colab": "the key symbol on the left → add a secret `HF_TOKEN`, and let this notebook read it",
    "kaggle": "Add-ons → Secrets → add a secret `HF_TOKEN`, and attach it to this notebook",
}

READ_TOKEN = {
    "colab": """
import os

try:
    from google.colab import userdata

    os.environ["HF_TOKEN"] = userdata.get("HF_TOKEN")
except Exception as error:  # not on Colab, no such secret, or no leave to read it
    print(f"No token ({type(error).__name__}): the model stays in this notebook.")""",
    "kaggle": """
import os

try:
    from kaggle_secrets import UserSecretsClient

    os.environ["HF_TOKEN"] = UserSecretsClient().get_secret("HF_TOKEN")
except Exception as error:  # not on Kaggle, no such secret, or not attached
    print(f"No token ({type(error).__name__}): the model stays in this notebook.")""",
}

SHARE = {
    "colab": '"COLAB_RELEASE_TAG" in os.environ',
    "kaggle": 'os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"',
}
"""Place -> whether the page gets a public link: there, where somebody looks at it, and nowhere else."""


def cells(place: str, repository: str) -> list[tuple[str, str]]:
    """Return (kind, text) of each cell, kind `markdown` or `code`, for one of `PLACES`."""
    both = [
        (
            "markdown",
            f"""
# Train a speech emotion model on {PLACES[place]}

Fine-tunes wav2vec2 on RAVDESS and TESS, measures it on voices that it never heard, writes its card, lets you
listen to what it gets right and wrong and speak to it yourself, and publishes it on the Hub.

Run all cells; on a T4 the training takes about half an hour. For a look around without data and without a
GPU set `DEMO = True` below: synthetic voices, a tiny encoder, a few minutes, no real results.""",
        ),
        (
            "code",
            """
DEMO = False
HUB_MODEL_ID = ""  # user/name; by default the run's name, under your own
OPTIONS = "--augment"  # of train_wav2vec2.py, see the README""",
        ),
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
            raise SystemExit("The kit could not be cloned; the lines above say why. {ONLINE[place]}")
    %cd -q speech-emotion-kit""",
        ),
        ("markdown", f"## A GPU\n\n{SWITCH_ON[place]}"),
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
    raise SystemExit("No GPU. {SWITCH_ON[place]}; then run all cells again.")
try:
    check_gpu()
except InputError as error:
    raise SystemExit(str(error))""",
        ),
        ("markdown", "## What is missing here\n\nWhat is installed and new enough stays."),
        (
            "code",
            f"""
%pip install -q -r requirements.txt gradio
if _exit_code:
    raise SystemExit("Not all could be installed; the lines above say what. {ONLINE[place]}")""",
        ),
        ("markdown", f"## Data\n\n{DATA[place]}"),
        ("code", FIND_DATA[place]),
        (
            "markdown",
            f"""
## A token, if you want to publish

From https://huggingface.co/settings/tokens, with write access: {TOKEN_WORDS[place]}. It is never printed.""",
        ),
        ("code", READ_TOKEN[place]),
        (
            "markdown",
            """
## Train

A notebook that was cut off is no loss while its disk is there: this cell goes on from the last epoch.""",
        ),
        (
            "code",
            """
RUN = "runs/demo_notebook" if DEMO else "runs/wav2vec2"
OPTIONS = "--demo" if DEMO else OPTIONS
PROCESSES = f"--multi_gpu --num_processes {num_gpus}" if num_gpus > 1 else "--num_processes 1"
!accelerate launch {PROCESSES} train_wav2vec2.py {OPTIONS} --output_dir {RUN} --resume_from_checkpoint true
if _exit_code:
    raise SystemExit("The training stopped; the lines above say why.")""",
        ),
        ("markdown", "## The card\n\nAs it will stand on the Hub."),
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
        ("markdown", "## Listen\n\nThe test clips that it was surest of: right ones, then wrong ones."),
        (
            "code",
            """
import json

import pandas as pd

from utils.data.download import find_corpora
from utils.report.predictions import read_predictions

corpora = [corpus["name"] for corpus in json.loads((run / "metrics.json").read_text())["corpora"]]
found = find_corpora(corpora, [Path("data/demo")] if DEMO else [])
files = {file.stem: file for each in found.values() for file in each}
clips = read_predictions(run / "predictions.csv")
clips["probability"] = [row[f"p_{row['predicted']}"] for _, row in clips.iterrows()]
right = clips["predicted"] == clips["emotion"]
for words, heard in {"Right": clips[right], "Wrong": clips[~right]}.items():
    for clip in heard.nlargest(3, "probability").itertuples():
        print(f"{words}: {clip.emotion}, heard as {clip.predicted} with {clip.probability:.0%}")
        display(Audio(files[clip.clip]))""",
        ),
        (
            "markdown",
            """
## Speak to it

The page records or takes a file, and shows the emotion over the whole clip and along time. Nothing is kept.
What it learnt from are actors in a booth: your own voice is another matter.""",
        ),
        (
            "code",
            f"""
from space.app import build_page

# A link that ends with this notebook: {PLACES[place]} shows pages of its own machine no other way.
build_page(run).launch(inline=True, share={SHARE[place]})""",
        ),
        ("markdown", "Or give it a file, as any program would:"),
        (
            "code",
            """
import librosa
from transformers import pipeline

MY_CLIP = files[clips["clip"].iloc[0]]  # or the path of your own
classifier = pipeline("audio-classification", model=RUN)
waveform, _ = librosa.load(MY_CLIP, sr=16_000)
pd.DataFrame(classifier(waveform, top_k=None))""",
        ),
        ("markdown", "## Publish\n\nWeights, card, figures and code, in one commit, without audio."),
        (
            "code",
            """
if os.environ.get("HF_TOKEN"):
    NAME = f"--hub_model_id {HUB_MODEL_ID}" if HUB_MODEL_ID else ""
    !python -m utils.publish {RUN} {NAME}
    if _exit_code:
        raise SystemExit("Not published; the line above says why.")
else:
    print("No HF_TOKEN: not published. The run is whole in", run.resolve())""",
        ),
    ]
    return [(kind, text.strip("\n")) for kind, text in both if text]


def make_notebook(place: str, repository: str):
    """Return the notebook for one of `PLACES`, without outputs; the same each time."""
    makers = {"markdown": new_markdown_cell, "code": new_code_cell}
    notebook = new_notebook(
        cells=[makers[kind](text) for kind, text in cells(place, repository)],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
        | METADATA[place],
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    return notebook


def badges(repository: str) -> str:
    """Return the README's badges, which open the notebooks."""
    name = repository.removeprefix("https://github.com/")
    colab, kaggle = (f"{name}/blob/main/notebooks/{place}.ipynb" for place in PLACES)
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{colab})\n"
        "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src=https://github.com/{kaggle})"
    )


def make_all() -> dict[Path, str]:
    """Return path -> content of the notebooks and of the README with its badges."""
    citation = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    repository = citation["repository-code"]
    made = {
        FOLDER / f"{place}.ipynb": nbformat.writes(make_notebook(place, repository)) + "\n"
        for place in PLACES
    }
    readme = PROJECT_ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    made[readme] = re.sub(
        r"(<!-- badges -->\n).*?(\n<!-- /badges -->)",
        lambda match: match[1] + badges(repository) + match[2],
        text,
        flags=re.DOTALL,
    )
    return made


if __name__ == "__main__":
    for path, content in make_all().items():
        path.write_text(content, encoding="utf-8")
