"""Texts and commands of the notebooks that differ between Colab and Kaggle: place -> text."""

PLACES = {"colab": "Colab", "kaggle": "Kaggle"}

ENABLE_GPU = {
    "colab": "Runtime → Change runtime type → T4 GPU",
    "kaggle": "Settings → Accelerator → GPU T4 x2 (current PyTorch does not support the P100)",
}

DATA = {
    "colab": "RAVDESS and TESS are downloaded (430 MB) when the training starts, and verified with the "
    "checksums of their publishers.",
    "kaggle": "Add the inputs `uwrfkaggler/ravdess-emotional-speech-audio` and "
    "`ejlok1/toronto-emotional-speech-set-tess` on the right (Add Input). Missing corpora are downloaded "
    "(430 MB) to `/kaggle/temp` if the notebook has internet access: the licence of TESS does not allow "
    "publishing it with the output of a notebook.",
}

LIST_INPUTS = {
    "colab": None,
    "kaggle": """
from pathlib import Path

inputs = Path("/kaggle/input")
attached = [*inputs.glob("datasets/*/*"), *(path for path in inputs.glob("*") if path.name != "datasets")]
print("Attached:", *sorted(map(str, attached)) or ["nothing"])""",
}

INTERNET_HINT = {
    "colab": "Is the address correct?",
    "kaggle": "Is the internet enabled? Settings → Turn on internet (requires a verified phone number).",
}

ADD_TOKEN = {
    "colab": "the key symbol on the left → add a secret `HF_TOKEN`, and give this notebook access to it",
    "kaggle": "Add-ons → Secrets → add a secret `HF_TOKEN`, and attach it to this notebook",
}

READ_TOKEN = {
    "colab": """
import os

try:
    from google.colab import userdata

    os.environ["HF_TOKEN"] = userdata.get("HF_TOKEN")
except Exception as error:  # not on Colab, no such secret, or no access to it
    print(f"No token ({type(error).__name__}): the model will not be published.")""",
    "kaggle": """
import os

try:
    from kaggle_secrets import UserSecretsClient

    os.environ["HF_TOKEN"] = UserSecretsClient().get_secret("HF_TOKEN")
except Exception as error:  # not on Kaggle, no such secret, or not attached
    print(f"No token ({type(error).__name__}): the model will not be published.")""",
}

SHARE = {
    "colab": '"COLAB_RELEASE_TAG" in os.environ',
    "kaggle": 'os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"',
}
"""Whether the page gets a public link: only in an interactive session of the place."""
