"""A published run comes in; the files of a Space that serves it, and the Space on the Hub, go out."""

import re
from pathlib import Path

import yaml

from utils.app.predictor import read_run
from utils.hub.repository import Repository
from utils.runtime import PROJECT_ROOT, InputError, logger

PAGE = PROJECT_ROOT / "space"

_PACKAGES = {
    "transformers": ("torch", "transformers"),
    "keras": ("tensorflow", "keras"),
    "sklearn": ("skops",),
}
"""Library of a model -> what a Space needs for it and not for the others."""

_OPEN_SMILE = ("compare", "egemaps")
"""Feature sets that openSMILE computes."""


def space_files(run: dict, model_id: str) -> dict[str, bytes]:
    """Return path in the Space -> content.

    Args:
        run: metrics.json of the model.
        model_id: its repository on the Hub.
    """
    return {
        "app.py": (PAGE / "app.py").read_bytes(),
        "requirements.txt": _requirements(run).encode(),
        "README.md": _readme(run, model_id).encode(),
    }


def _requirements(run: dict) -> str:
    """Return what the page and the model's library need.

    What computes the answers is had in the version that made the model: another scikit-learn or Keras may
    read the weights otherwise, or not at all.
    """
    model = run["model"]
    needed = set(_PACKAGES[model["library"]])
    if model.get("feature_set") in _OPEN_SMILE:
        needed.add("opensmile")
    others = {"opensmile"}.union(*_PACKAGES.values()) - needed
    pinned = needed | {"scikit-learn", "librosa"}
    lines = []
    for line in (PAGE / "requirements.txt").read_text(encoding="utf-8").splitlines():
        package = re.match(r"[\w-]*", line)[0]
        if package and package not in others:
            version = run["versions"].get(package, "") if package in pinned else ""
            # PyPI has no 2.13.0+cpu.
            lines.append(f"{package}=={version.split('+')[0]}" if version else line)
    return "\n".join(lines) + "\n"


def _readme(run: dict, model_id: str) -> str:
    _, front, text = (PAGE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(front) | {
        "python_version": ".".join(run["versions"]["python"].split(".")[:2]),
        "models": [model_id],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{text}"


def publish_space(repository: Repository, run_folder: Path, model: Repository) -> None:
    """Publish the page of a model that is on the Hub, in one commit.

    Raises:
        InputError: the Hub cannot be reached. The model stays published, and the line says so.
    """
    run = read_run(run_folder)
    try:
        files = space_files(run, model.id)
        repository.commit(files, lambda name: False, f"A page for {model.id}")
    except (InputError, KeyboardInterrupt) as error:
        private = " --hub_private_repo" if repository.private else ""
        raise InputError(
            f"{model.url} is published, its page is not: {str(error) or 'interrupted'}; to publish it: "
            f"python -m utils.publish {run_folder} --hub_model_id {model.id} --space {repository.id}{private}"
        ) from None
    if model.is_private():
        logger.info(
            "%s is private: give its page a secret HF_TOKEN that may read it, at %s/settings",
            model.id,
            repository.url,
        )
    logger.info("Published: %s", repository.url)
