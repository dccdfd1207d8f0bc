"""Publish a finished run on the Hub in one commit, after its model has been reloaded and checked.

The command `python -m utils.publish runs/wav2vec2 --hub_model_id me/my-model` calls it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from utils.hub.checkpoints import CHECKPOINT_BRANCH
from utils.hub.repository import Repository
from utils.report.card import render_card
from utils.report.run_folder import LOGS, UNPUBLISHED, is_partial
from utils.runtime import PROJECT_ROOT, InputError, logger

_REMOVED_VARIABLES = (
    "HF_TOKEN",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Environment variables that `check_reload` does not pass on: the token, and those of a distributed run."""


def check_hub_options(options: Mapping) -> None:
    """Check that the options of publication fit together.

    Args:
        options: of a script: `push_to_hub`, `hub_model_id`, `hub_private_repo`, `hub_strategy` and
            `resume_from_checkpoint`.

    Raises:
        InputError: one of them has no effect without --push_to_hub.
    """
    used = [f"--{name}" for name in ("hub_model_id", "hub_private_repo") if options[name]]
    used += ["--hub_strategy checkpoint"] * (options["hub_strategy"] == "checkpoint")
    used += ["--resume_from_checkpoint hub"] * (options["resume_from_checkpoint"] == "hub")
    if used and not options["push_to_hub"]:
        raise InputError(f"{used[0]}: nothing is uploaded without --push_to_hub; add it")


def publish(repository: Repository, folder: Path) -> None:
    """Publish a finished run in one commit, and delete the branch with its checkpoints.

    Args:
        repository: the target.
        folder: of the run; it is not changed.

    Raises:
        InputError: the reloaded model gives other probabilities, a file contains the token or a path of this
            machine, or the Hub cannot be reached. The message has the command to publish the run later.
    """
    try:
        check_reload(folder)
        files = published_files(folder, repository.id)
        _refuse_private_content(files, repository.api.token)
        logger.info("Uploading %d files to %s", len(files), repository.url)
        repository.commit(files, _is_of_earlier_run, f"Run {folder.resolve().name}")
    except (InputError, KeyboardInterrupt) as error:
        private = " --hub_private_repo" if repository.private else ""
        raise InputError(
            f"not published: {str(error) or 'interrupted'}. The run is complete in {folder}; to publish it: "
            f"python -m utils.publish {folder} --hub_model_id {repository.id}{private}"
        ) from None
    logger.info("Published: %s", repository.url)
    try:
        with contextlib.suppress(HfHubHTTPError):  # the branch does not exist
            repository.ask(
                lambda: repository.api.delete_branch(repository.id, branch=CHECKPOINT_BRANCH), expected=(404,)
            )
    except InputError as error:
        logger.warning("Its branch %s is not deleted: %s", CHECKPOINT_BRANCH, error)


def published_files(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """Return the files of a finished run that are published.

    The card is rendered for the repository. Members of a Keras archive are also published as single files:
    `hf://` loads these.

    Args:
        folder: of the run.
        repo_id: `user/name`.

    Returns:
        path in the repository -> file, or its content.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_private = {UNPUBLISHED, LOGS, "checkpoints", "__pycache__"}.intersection(name.parts)
        if path.is_file() and not is_private and not is_partial(name):
            files[name.as_posix()] = path
    if "model.keras" in files:
        with zipfile.ZipFile(files["model.keras"]) as archive:
            files |= {name: archive.read(name) for name in archive.namelist()}
    if "model.skops" in files:  # the Hub reads the name of the model file from config.json
        config = {"sklearn": {"model": {"file": "model.skops"}, "model_format": "skops"}}
        files["config.json"] = json.dumps(config, indent=2).encode()
    return files | {"README.md": render_card(folder, published_as=repo_id).encode()}


def _is_of_earlier_run(name: str) -> bool:
    """Return whether a file in a repository may be left from an earlier run, e.g. with other weights."""
    weights = (".safetensors", ".keras", ".skops", ".weights.h5")
    return name.startswith(("figures/", "utils/")) or name.endswith(weights)


def _refuse_private_content(files: Mapping[str, Path | bytes], token: str) -> None:
    """Raise InputError if a file contains the token or a path of this machine."""
    folders = [f"{folder}{os.sep}" for folder in (PROJECT_ROOT, Path.home(), tempfile.gettempdir())]
    private = {token: "the token"} | dict.fromkeys(folders, "a path of this machine")
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        for text, description in private.items():
            if text.encode() in content:
                raise InputError(f"{name} holds {description}")


def check_reload(folder: Path) -> None:
    """Load the model of a run in a new process and compare its probabilities (`utils.hub.verify`).

    The process has no token and no access to the Hub: the folder must be sufficient.

    Args:
        folder: of the run.

    Raises:
        InputError: the model cannot be loaded, or its probabilities differ from those of the run.
    """
    logger.info("Loading the model of %s in a new process", folder)
    environment = {name: value for name, value in os.environ.items() if name not in _REMOVED_VARIABLES}
    process = subprocess.run(
        [sys.executable, "-m", "utils.hub.verify", str(folder.resolve())],
        cwd=PROJECT_ROOT,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        reason = (process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise InputError(f"the reloaded model fails: {reason.removeprefix('error: ')}")
    logger.info("%s", process.stdout.strip().splitlines()[-1])
