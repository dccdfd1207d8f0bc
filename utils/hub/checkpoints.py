"""Upload the checkpoints of an unfinished run to a branch of its repository, and download them again.

An interrupted run can then be resumed on another machine.
"""

import json
import shutil
import time
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from utils.hub.repository import Repository
from utils.report.run_folder import is_partial
from utils.runtime import InputError, logger, without_secrets_and_paths, write_bytes

CHECKPOINT_BRANCH = "checkpoint"
"""The branch for the checkpoints of unfinished runs; finished runs are on `main`."""

_MAX_UPLOAD_SHARE = 0.2
"""Maximum share of the training time that is spent on uploads."""


class CheckpointUploader:
    """Upload the checkpoints of a run each time the object is called.

    Uploads take at most a fifth of the time: after a slow upload, the following calls do nothing for a while.
    An upload that fails is logged and does not stop the training.

    Args:
        repository: of the run.
        folder: of the run.
    """

    def __init__(self, repository: Repository, folder: Path):
        self.repository = repository
        self.folder = folder
        self.next_upload = 0.0  # on the monotonic clock

    def __call__(self) -> None:
        start = time.monotonic()
        if start < self.next_upload:
            return
        disable_progress_bars()
        try:
            self._upload()
            logger.info("Checkpoints uploaded to %s/tree/%s", self.repository.url, CHECKPOINT_BRANCH)
        except InputError as error:
            logger.warning("Checkpoints not uploaded: %s", error)
        finally:
            enable_progress_bars()
        end = time.monotonic()
        self.next_upload = end + (end - start) * (1 / _MAX_UPLOAD_SHARE - 1)

    def _upload(self) -> None:
        api, repo_id = self.repository.api, self.repository.id
        self.repository.ask(lambda: api.create_branch(repo_id, branch=CHECKPOINT_BRANCH, exist_ok=True))
        files = {}
        for path in sorted((self.folder / "checkpoints").rglob("*")):
            name = path.relative_to(self.folder)
            # The outputs of the frozen layers can be recomputed, and the pickled arguments are never read.
            is_needed = "frozen" not in name.parts and name.name != "training_args.bin"
            if path.is_file() and is_needed and not is_partial(name):
                files[name.as_posix()] = _without_local_paths(path)
        self.repository.commit(
            files,
            lambda name: name.startswith("checkpoints/"),
            "Checkpoints of an unfinished run",
            CHECKPOINT_BRANCH,
        )


def fetch_checkpoints(repository: Repository, folder: Path) -> None:
    """Download checkpoints to the folder of a run, unless the folder has more advanced ones.

    Args:
        repository: of the run; it may have no checkpoints.
        folder: of the run.

    Raises:
        InputError: the Hub cannot be reached, or the repository has a finished run and no checkpoints.
    """
    api = repository.api
    download = folder / "checkpoints.partial"
    shutil.rmtree(download, ignore_errors=True)
    try:
        repository.ask(lambda: api.repo_info(repository.id, revision=CHECKPOINT_BRANCH), expected=(404,))
    except HfHubHTTPError:
        if repository.ask(lambda: api.file_exists(repository.id, "metrics.json")):
            raise InputError(
                f"--resume_from_checkpoint hub: {repository.url} holds a finished run; leave the option out "
                "to train again"
            ) from None
        logger.info("%s has no checkpoints yet", repository.url)
        return
    repository.ask(
        lambda: api.snapshot_download(
            repository.id,
            revision=CHECKPOINT_BRANCH,
            allow_patterns=["checkpoints/*"],
            local_dir=download,
        )
    )
    local, remote = folder / "checkpoints", download / "checkpoints"
    if _progress(remote) > _progress(local):
        for path in remote.glob("*/*/trainer_state.json"):
            write_bytes(path, _with_best_checkpoint_in(local / path.parent.parent.name, path))
        shutil.rmtree(local, ignore_errors=True)
        remote.replace(local)
        logger.info("Resuming from the checkpoints in %s/tree/%s", repository.url, CHECKPOINT_BRANCH)
    else:
        logger.info("The checkpoints in %s are at least as advanced as those on the Hub", local)
    shutil.rmtree(download)


def _without_local_paths(path: Path) -> Path | bytes:
    """Return a file of the checkpoints, or its content without the paths of this machine."""
    if path.name == "trainer_state.json":
        return _with_best_checkpoint_in(Path(), path)
    if path.name == "run.json":
        identity = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps(without_secrets_and_paths(identity), indent=2).encode()
    return path


def _with_best_checkpoint_in(folder: Path, path: Path) -> bytes:
    """Return the content of a trainer_state.json, with the path of its best checkpoint moved to `folder`."""
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["best_model_checkpoint"]:
        state["best_model_checkpoint"] = str(folder / Path(state["best_model_checkpoint"]).name)
    return json.dumps(state, indent=2).encode()


def _progress(checkpoints: Path) -> tuple[int, int]:
    """Return (number of finished models, steps or epochs of the next one); (-1, 0) without a run."""
    if not (checkpoints / "run.json").exists():
        return -1, 0
    steps = [int(path.parent.name[11:]) for path in checkpoints.glob("*/checkpoint-*/trainer_state.json")]
    epochs = [len(path.read_bytes().splitlines()) for path in checkpoints.glob("*/history.jsonl")]
    return len(list(checkpoints.glob("*.csv"))), max([0, *steps, *epochs])
