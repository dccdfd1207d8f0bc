"""A Space on the Hub that serves the model of a published run."""

import re
from pathlib import Path

import yaml

from utils.app.predictor import read_run
from utils.hub.repository import Repository
from utils.report.requirements import LOADED_BY
from utils.runtime import PROJECT_ROOT, InputError, logger

PAGE = PROJECT_ROOT / "space"

_OPENSMILE_FEATURE_SETS = ("compare", "egemaps")


def space_files(run: dict, model_id: str) -> dict[str, bytes]:
    """Return the files of the Space of a model.

    Args:
        run: metrics.json of the model.
        model_id: its repository on the Hub.

    Returns:
        path in the Space -> content.
    """
    return {
        "app.py": (PAGE / "app.py").read_bytes(),
        "requirements.txt": _requirements(run).encode(),
        "README.md": _readme(run, model_id).encode(),
    }


def _requirements(run: dict) -> str:
    """Return requirements.txt with the packages of the page and of the model's library.

    Packages that compute the probabilities are pinned to the versions of the run: another version of
    scikit-learn or Keras may not load the weights, or may interpret them differently.
    """
    model = run["model"]
    pinned = {"scikit-learn", "librosa", *LOADED_BY[model["library"]]}
    if model.get("feature_set") in _OPENSMILE_FEATURE_SETS:
        pinned.add("opensmile")
    not_needed = {"opensmile"}.union(*LOADED_BY.values()) - pinned
    lines = []
    for line in (PAGE / "requirements.txt").read_text(encoding="utf-8").splitlines():
        package = re.match(r"[\w-]*", line)[0]
        if package and package not in not_needed:
            version = run["versions"].get(package, "") if package in pinned else ""
            version = version.split("+")[0]  # PyPI has no local versions such as 2.13.0+cpu
            lines.append(f"{package}=={version}" if version else line)
    return "\n".join(lines) + "\n"


def _readme(run: dict, model_id: str) -> str:
    """Return README.md of the Space, with the Python version of the run and the id of the model."""
    _, metadata, text = (PAGE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(metadata) | {
        "python_version": ".".join(run["versions"]["python"].split(".")[:2]),
        "models": [model_id],
    }
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{text}"


def publish_space(repository: Repository, run_folder: Path, model: Repository) -> None:
    """Publish the page of a model that is on the Hub, in one commit.

    Args:
        repository: the Space.
        run_folder: of the run.
        model: the repository of the model.

    Raises:
        InputError: the Hub cannot be reached. The model stays published, and the message says so.
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
            "%s is private: add a secret HF_TOKEN with read access to its page, at %s/settings",
            model.id,
            repository.url,
        )
    logger.info("Published: %s", repository.url)
