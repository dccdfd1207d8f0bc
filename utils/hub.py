"""A run's folder comes in; what the Hub keeps of it goes out: a finished run, published whole in one commit,
or the checkpoints of one that goes on, so that it can go on elsewhere.

    python -m utils.hub runs/wav2vec2 --hub_model_id me/my-model
    python -m utils.hub runs/wav2vec2 --hub_model_id me/my-model --space me/demo
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from utils.card import render_card
from utils.repository import Repository
from utils.runs import UNPUBLISHED, is_finished, is_partial
from utils.runtime import (
    PROJECT_ROOT,
    InputError,
    logger,
    refuse_arguments,
    run_script,
    without_secrets_and_paths,
    write_bytes,
)

CHECKPOINT_BRANCH = "checkpoint"
"""Where an unfinished run is kept; what is published stands on `main`."""

_MAX_SHARE = 0.2
"""Of the training time, what may go into keeping checkpoints."""


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
            f"python -m utils.hub {folder} --hub_model_id {repository.id}{private}"
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
    """Let a fresh process load a run's model by the public API and compare its answers (see `utils.reload`).

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
        [sys.executable, "-m", "utils.reload", str(folder.resolve())],
        cwd=PROJECT_ROOT,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(f"its model, loaded anew, fails: {reason.removeprefix('error: ')}")
    logger.info("%s", done.stdout.strip().splitlines()[-1])


# ---------------------------------------------------------------------------------------------------
# A run that goes on


class CheckpointKeeper:
    """Copies the checkpoints of a run to a branch of its repository, whenever it is called.

    At most a fifth of the time goes into it: after a slow upload some checkpoints are left out. An upload
    that fails is reported and stops nothing.
    """

    def __init__(self, repository: Repository, folder: Path):
        self.repository = repository
        self.folder = folder
        self.not_before = 0.0

    def __call__(self) -> None:
        begun = time.monotonic()
        if begun < self.not_before:
            return
        disable_progress_bars()
        try:
            self._upload()
            logger.info("Checkpoints are kept in %s/tree/%s", self.repository.url, CHECKPOINT_BRANCH)
        except InputError as error:
            logger.warning("Checkpoints are not kept on the Hub: %s", error)
        finally:
            enable_progress_bars()
        now = time.monotonic()
        self.not_before = now + (now - begun) * (1 / _MAX_SHARE - 1)

    def _upload(self) -> None:
        api, repo_id = self.repository.api, self.repository.id
        self.repository.ask(lambda: api.create_branch(repo_id, branch=CHECKPOINT_BRANCH, exist_ok=True))
        files = {}
        for path in sorted((self.folder / "checkpoints").rglob("*")):
            name = path.relative_to(self.folder)
            # The frozen layers' outputs can be computed again, and nothing reads the pickled arguments.
            needed = "frozen" not in name.parts and name.name != "training_args.bin"
            if path.is_file() and needed and not is_partial(name):
                files[name.as_posix()] = _without_this_machine(path)
        self.repository.commit(
            files,
            lambda name: name.startswith("checkpoints/"),
            "Checkpoints of a run that goes on",
            CHECKPOINT_BRANCH,
        )


def fetch_checkpoints(repository: Repository, folder: Path) -> None:
    """Bring the checkpoints that the Hub keeps into a run's folder, unless those there are further on.

    Raises:
        InputError: the Hub cannot be reached, or holds a finished run and no checkpoints.
    """
    api = repository.api
    fetched = folder / "checkpoints.partial"
    shutil.rmtree(fetched, ignore_errors=True)
    try:
        repository.ask(lambda: api.repo_info(repository.id, revision=CHECKPOINT_BRANCH), expected=(404,))
    except HfHubHTTPError:
        if repository.ask(lambda: api.file_exists(repository.id, "metrics.json")):
            raise InputError(
                f"--resume_from_checkpoint hub: {repository.url} holds a finished run; leave the option out "
                "to train anew"
            ) from None
        logger.info("%s keeps no checkpoints yet", repository.url)
        return
    repository.ask(
        lambda: api.snapshot_download(
            repository.id,
            revision=CHECKPOINT_BRANCH,
            allow_patterns=["checkpoints/*"],
            local_dir=fetched,
        )
    )
    here, there = folder / "checkpoints", fetched / "checkpoints"
    if _progress(there) > _progress(here):
        for path in there.glob("*/*/trainer_state.json"):
            write_bytes(path, _with_best_checkpoint_in(here / path.parent.parent.name, path))
        shutil.rmtree(here, ignore_errors=True)
        there.replace(here)
        logger.info("Going on from the checkpoints in %s/tree/%s", repository.url, CHECKPOINT_BRANCH)
    else:
        logger.info("The checkpoints in %s are as far on as those on the Hub", here)
    shutil.rmtree(fetched)


def _without_this_machine(path: Path) -> Path | bytes:
    """Return a file of the checkpoints, or what it holds but for the paths of this machine."""
    if path.name == "trainer_state.json":
        return _with_best_checkpoint_in(Path(), path)
    if path.name == "run.json":
        identity = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps(without_secrets_and_paths(identity), indent=2).encode()
    return path


def _with_best_checkpoint_in(folder: Path, path: Path) -> bytes:
    """Return a trainer_state.json whose best checkpoint is in that folder: it may be another machine's."""
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["best_model_checkpoint"]:
        state["best_model_checkpoint"] = str(folder / Path(state["best_model_checkpoint"]).name)
    return json.dumps(state, indent=2).encode()


def _progress(checkpoints: Path) -> tuple[int, int]:
    """Return (finished models, steps or epochs of the next); less than (0, 0) if nothing was begun."""
    if not (checkpoints / "run.json").exists():
        return -1, 0
    steps = [int(path.parent.name[11:]) for path in checkpoints.glob("*/checkpoint-*/trainer_state.json")]
    epochs = [len(path.read_bytes().splitlines()) for path in checkpoints.glob("*/history.jsonl")]
    return len(list(checkpoints.glob("*.csv"))), max([0, *steps, *epochs])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Publish a finished run on the Hub.", prog="python -m utils.hub", allow_abbrev=False
    )
    parser.error = refuse_arguments
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--hub_model_id", help="user/name; by default the folder's name, under your own")
    parser.add_argument("--hub_private_repo", action="store_true", help="make the repository private")
    parser.add_argument(
        "--space",
        help="user/name: then publish a page there, too, on which anybody can try the model (see space/)",
    )
    args = parser.parse_args()
    if not is_finished(args.run):
        raise InputError(f"{args.run}: expected the folder of a finished run, with its README.md")
    if args.space:
        # Here, for the scripts import this room and need none of that.
        from utils.listen import read_run
        from utils.space import publish_space

        read_run(args.run)  # a model that no page can serve is refused before anything is published
    repository = Repository(args.hub_model_id or args.run.resolve().name, args.hub_private_repo)
    space = Repository(args.space, args.hub_private_repo, "space") if args.space else None
    publish(repository, args.run)
    if space:
        publish_space(space, args.run, repository)


if __name__ == "__main__":
    run_script(main)
