"""Where things are on this machine: the project, Kaggle's folders, the cache, the token for the Hub."""

import os
from pathlib import Path

from utils.runtime.scripts import first_line, logger

PROJECT_ROOT = Path(__file__).resolve().parents[2]

KAGGLE = Path("/kaggle")
"""On Kaggle: `input` has attached datasets, `working` is published with the notebook, `temp` is not kept."""


def unpublished_folder(folder: Path, kaggle: Path = KAGGLE) -> Path:
    """Return the folder to use for recordings instead of `folder`: the same one, except on Kaggle.

    Kaggle publishes /kaggle/working with the notebook. The licences of the corpora do not allow this for
    recordings (TESS: no derivatives), so they are stored in the folder of the same name in /kaggle/temp.

    Args:
        folder: where the recordings would be stored.
        kaggle: the root of Kaggle's folders.
    """
    resolved, working = folder.resolve(), (kaggle / "working").resolve()
    if resolved.is_relative_to(working):
        return kaggle / "temp" / resolved.relative_to(working)
    return folder


def cache_folder() -> Path:
    """Return the folder for decoded audio, in the cache of Hugging Face Datasets (see HF_HOME)."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "speech-emotion"


def hub_token() -> str | None:
    """Return the token for the Hub, from HF_TOKEN, `hf auth login`, or the secrets of Colab or Kaggle."""
    from huggingface_hub import get_token

    token = get_token()  # reads Colab's secrets too, only in the process of the notebook
    if token is None and "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        from kaggle_secrets import UserSecretsClient

        try:
            token = UserSecretsClient().get_secret("HF_TOKEN")
        except Exception as error:  # its exceptions are not public: no such secret, no network
            logger.info("The Kaggle secret HF_TOKEN cannot be read (%s)", first_line(error))
    return token
