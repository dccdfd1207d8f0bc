"""A run's folder comes in; what the Hub keeps of it goes out: a finished run, published whole in one commit,
or the checkpoints of one that goes on, so that it can go on elsewhere.

    python -m utils.publish runs/wav2vec2 --hub_model_id me/my-model
    python -m utils.publish runs/wav2vec2 --hub_model_id me/my-model --space me/demo
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
from utils.report.run_folder import UNPUBLISHED, is_partial
from utils.runtime import (
    PROJECT_ROOT,
    InputError,
    logger,
)


def check_hub_options(options: Mapping) -> None:
    """Refuse options of publication that do not fit together.

    Args:
        options: `push_to_hub`, `hub_model_id`, `hub_private_repo`, `hub_strategy` and
            `resume_from_checkpoint`, as a script was given them.

    Raises:
        InputError: one of them means nothing without --push_to_hub.
    """
    meant = [f"--{name}" for name in ("hub_model_id", "hub_private_repo") if options[name]]
    meant += ["--hub_strategy checkpoint"] * (options["hub_strategy"] == "checkpoint")
    meant += ["--resume_from_checkpoint hub"] * (options["resume_from_checkpoint"] == "hub")
    if meant and not options["push_to_hub"]:
        raise InputError(f"{meant[0]}: nothing goes to the Hub without --push_to_hub; add it")


# ---------------------------------------------------------------------------------------------------
# A finished run


def publish(repository: Repository, folder: Path) -> None:
    """Publish a finished run, in one commit, after a fresh process has got the same answers from its model.

    Raises:
        InputError: it did not get them, a file names this machine or the token, or the Hub cannot be reached.
            The run folder stays as it is, and the line says how to publish it later.
    """
    try:
        check_reload(folder)
        files = published_files(folder, repository.id)
        _refuse_private(files, repository.api.token)
        logger.info("Uploading %d files to %s", len(files), repository.url)
        repository.commit(files, _left_by_a_run, f"Run {folder.resolve().name}")
    except (InputError, KeyboardInterrupt) as error:
        private = " --hub_private_repo" if repository.private else ""
        raise InputError(
            f"not published: {str(error) or 'interrupted'}. The run is whole in {folder}; to publish it: "
            f"python -m utils.publish {folder} --hub_model_id {repository.id}{private}"
        ) from None
    logger.info("Published: %s", repository.url)
    try:
        with contextlib.suppress(HfHubHTTPError):  # there is none
            repository.ask(
                lambda: repository.api.delete_branch(repository.id, branch=CHECKPOINT_BRANCH), expected=(404,)
            )
    except InputError as error:
        logger.warning("Its branch %s is not deleted: %s", CHECKPOINT_BRANCH, error)


def published_files(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    """Return path in the repository -> file, or its content, of a finished run.

    The card is rendered for that repository. Beside a Keras archive stand its members, which `hf://` loads.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        private = {UNPUBLISHED, "checkpoints", "__pycache__"}.intersection(name.parts)
        if path.is_file() and not private and not is_partial(name):
            files[name.as_posix()] = path
    if "model.keras" in files:
        with zipfile.ZipFile(files["model.keras"]) as archive:
            files |= {name: archive.read(name) for name in archive.namelist()}
    if "model.skops" in files:  # where the Hub's page looks for the model
        about = {"sklearn": {"model": {"file": "model.skops"}, "model_format": "skops"}}
        files["config.json"] = json.dumps(about, indent=2).encode()
    return files | {"README.md": render_card(folder, published_as=repo_id).encode()}


def _left_by_a_run(name: str) -> bool:
    """Say whether a file in a repository is of an earlier run: other weights must not stand beside these."""
    weights = (".safetensors", ".keras", ".skops", ".weights.h5")
    return name.startswith(("figures/", "utils/")) or name.endswith(weights)


def _refuse_private(files: Mapping[str, Path | bytes], token: str) -> None:
    """Refuse to publish a file that holds the token or a path of this machine."""
    places = [f"{place}{os.sep}" for place in (PROJECT_ROOT, Path.home(), tempfile.gettempdir())]
    private = {token: "the token"} | dict.fromkeys(places, "a path of this machine")
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        for text, words in private.items():
            if text.encode() in content:
                raise InputError(f"{name} holds {words}")


def check_reload(folder: Path) -> None:
    """Let a fresh process load a run's model by the public API and compare its answers (see `verify`).

    Raises:
        InputError: it does not load, or does not answer as it did when the run was made.
    """
    logger.info("Loading the model of %s in a fresh process", folder)
    # It needs no token, is no part of a distributed run, and takes nothing but what is in the folder.
    not_its = (
        "HF_TOKEN",
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
    environment = {name: value for name, value in os.environ.items() if name not in not_its}
    done = subprocess.run(
        [sys.executable, "-m", "utils.hub.verify", str(folder.resolve())],
        cwd=PROJECT_ROOT,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(f"its model, loaded anew, fails: {reason.removeprefix('error: ')}")
    logger.info("%s", done.stdout.strip().splitlines()[-1])
