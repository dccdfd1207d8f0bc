"""Keep the checkpoints of an unfinished run on a branch of its repository, and fetch them on another machine."""

import json
import shutil
import time
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from utils.hub.repository import Repository
from utils.report.run_folder import is_partial
from utils.runtime import (
    InputError,
    logger,
    without_secrets_and_paths,
    write_bytes,
)

CHECKPOINT_BRANCH = "checkpoint"
"""Where an unfinished run is kept; what is published stands on `main`."""

_MAX_SHARE = 0.2
"""Of the training time, what may go into keeping checkpoints."""


# ---------------------------------------------------------------------------------------------------
# A run that goes on


class CheckpointUploader:
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
