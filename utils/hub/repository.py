"""A name comes in; a repository on the Hub that this user may write to goes out, or one line that says why.

What can be amiss is found out here, before any training: token, name, rights, connection.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from utils.runtime import InputError, first_line, hub_token, logger

RETRY_WAITS = (1, 2, 4, 8)
"""Seconds between attempts, where the server asks for no other; after the last of them, give up."""

MAX_RETRY_AFTER = 120
"""Seconds that a server may ask to wait."""

TOKENS_PAGE = "https://huggingface.co/settings/tokens"

_NEW_TOKEN = f"make one with write access at {TOKENS_PAGE}"


class Repository:
    """A repository on the Hub that this user may write to; it is made where it is missing.

    Args:
        repo_id: `user/name`, or `name` under the user's own.
        private: whether it must be private. One that is public already is refused then.
        repo_type: "model", or "space" for one with Gradio.

    Raises:
        InputError: there is no token, or one that the Hub does not know or that may not write there; the Hub
            does not take the name, or cannot be reached.
    """

    def __init__(self, repo_id: str, private: bool, repo_type: str = "model"):
        token = hub_token()
        if not token:
            raise InputError(
                f"--push_to_hub: no token for the Hub; {_NEW_TOKEN} and give it as HF_TOKEN in the "
                "environment or in Kaggle's or Colab's secrets, or run `hf auth login`"
            )
        self.api = HfApi(token=token)
        self.id = repo_id
        self.type = repo_type
        self.option = "--space" if repo_type == "space" else "--hub_model_id"
        self.private = private
        who = self.ask(self.api.whoami)
        if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise InputError(
                f"--push_to_hub: the token of {who['name']} may only read; {_NEW_TOKEN} and put it into "
                "HF_TOKEN"
            )
        if "/" not in repo_id:
            self.id = f"{who['name']}/{repo_id}"
        try:
            validate_repo_id(self.id)
        except HFValidationError as error:
            raise InputError(f"{self.option} {self.id}: {first_line(error)}; expected user/name") from None
        self._open(who["name"])

    def _open(self, user: str) -> None:
        with contextlib.suppress(HfHubHTTPError):  # it is there already, or may not be made there
            self.ask(self._create, expected=(403, 409))
            return
        try:
            self.ask(
                lambda: self.api.auth_check(self.id, repo_type=self.type, write=True), expected=(403, 404)
            )
        except HfHubHTTPError:
            raise InputError(
                f"{self.option} {self.id}: the token of {user} may not write there; expected "
                f"{user}/<name>, or a token that may ({TOKENS_PAGE})"
            ) from None
        if self.private and not self.is_private():
            raise InputError(
                f"--hub_private_repo: {self.id} is there already and public; choose another {self.option}, "
                f"or make it private at {self.url}/settings"
            )

    def _create(self) -> None:
        sdk = "gradio" if self.type == "space" else None
        self.api.create_repo(self.id, private=self.private, repo_type=self.type, space_sdk=sdk)

    def is_private(self) -> bool:
        """Say whether it is hidden from others on the Hub, whatever this user asked for now."""
        return self.ask(lambda: self.api.repo_info(self.id, repo_type=self.type)).private

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'spaces/' if self.type == 'space' else ''}{self.id}"

    def ask(self, request: Callable, expected: Sequence[int] = ()):
        """Return what a request to the Hub brings, tried again where that can help.

        Raises:
            InputError: nothing, and in one line why.
            HfHubHTTPError: the Hub answers with one of the `expected` status codes.
        """
        for wait in (*RETRY_WAITS, None):
            try:
                return request()
            except OfflineModeIsEnabled:
                raise InputError(f"HF_HUB_OFFLINE is set, so {self.id} cannot be reached; unset it") from None
            except Exception as error:
                failed = _http_error(error)
                if failed is None and not isinstance(error, json.JSONDecodeError):
                    raise  # a full disk, a mistake of ours
                # None: no connection, one that was cut, or some proxy's page in place of an answer.
                response = getattr(failed, "response", None)
            status = response.status_code if response is not None else None
            if status in expected:
                raise failed
            if status and status < 500 and status not in (408, 429):
                raise InputError(f"the Hub refuses {self.id}: {_refusal(status)}")
            reason = f"the server answers {status}" if status else "no connection, or one that was cut"
            if wait is None:
                raise InputError(f"{self.id} cannot be reached at {self.api.endpoint} ({reason})")
            asked = response.headers.get("Retry-After", "") if status else ""
            wait = min(int(asked), MAX_RETRY_AFTER) if asked.isdigit() else wait
            logger.info("Hub: %s; trying again in %g s", reason, wait)
            time.sleep(wait)

    def commit(
        self,
        files: Mapping[str, Path | bytes],
        stale: Callable[[str], bool],
        message: str,
        revision: str = "main",
    ) -> None:
        """Add or replace files, and delete others, in one commit.

        Args:
            files: path in the repository -> file, or its content.
            stale: says of the path of another file whether it is to be deleted.
            message: of the commit.
            revision: an existing branch.
        """
        there = self.ask(lambda: self.api.list_repo_files(self.id, revision=revision, repo_type=self.type))

        def request():
            operations = [CommitOperationDelete(name) for name in there if name not in files and stale(name)]
            for name, content in sorted(files.items()):
                source = content if isinstance(content, bytes) else str(content)
                operations.append(CommitOperationAdd(name, source))
            self.api.create_commit(
                self.id, operations, commit_message=message, revision=revision, repo_type=self.type
            )

        self.ask(request)


def _http_error(error: BaseException | None) -> HTTPError | None:
    """Return the failed request behind an error; the client puts words of its own around some."""
    while error is not None and not isinstance(error, HTTPError):
        error = error.__cause__ or error.__context__
    return error


def _refusal(status: int) -> str:
    if status == 401:
        return f"it does not know the token; {_NEW_TOKEN} and put it into HF_TOKEN"
    if status == 403:
        return f"the token may not do that; {_NEW_TOKEN} and put it into HF_TOKEN"
    return f"it answers {status}"
