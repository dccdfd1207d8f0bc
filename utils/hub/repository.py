"""Access to a repository on the Hub, with retries and one-line errors.

Token, name, permissions and connection are checked when a `Repository` is created, before any training.
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
"""Seconds between the attempts, unless the server asks for another time. There are five attempts."""

MAX_RETRY_AFTER = 120
"""Maximum number of seconds to wait at the request of a server."""

TOKENS_PAGE = "https://huggingface.co/settings/tokens"

_NEW_TOKEN = f"create one with write access at {TOKENS_PAGE}"


class Repository:
    """A repository on the Hub with write access for this user; created if it does not exist.

    Args:
        repo_id: `user/name`, or `name` for a repository of the user.
        private: whether it must be private. An existing public repository is refused.
        repo_type: "model", or "space" for a Space with Gradio.

    Raises:
        InputError: the token is missing, invalid or without write access, the name is invalid, or the Hub
            cannot be reached.
    """

    def __init__(self, repo_id: str, private: bool, repo_type: str = "model"):
        token = hub_token()
        if not token:
            raise InputError(
                f"--push_to_hub: no token for the Hub; {_NEW_TOKEN} and set it as HF_TOKEN in the "
                "environment or in the secrets of Kaggle or Colab, or run `hf auth login`"
            )
        self.api = HfApi(token=token)
        self.id = repo_id
        self.type = repo_type
        self.option = "--space" if repo_type == "space" else "--hub_model_id"
        self.private = private
        user = self.ask(self.api.whoami)
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise InputError(
                f"--push_to_hub: the token of {user['name']} may only read; {_NEW_TOKEN} and set it as "
                "HF_TOKEN"
            )
        if "/" not in repo_id:
            self.id = f"{user['name']}/{repo_id}"
        try:
            validate_repo_id(self.id)
        except HFValidationError as error:
            raise InputError(f"{self.option} {self.id}: {first_line(error)}; expected user/name") from None
        self._create_or_check(user["name"])

    def _create_or_check(self, user: str) -> None:
        """Create the repository, or check that it exists with write access, and is private if required."""
        with contextlib.suppress(HfHubHTTPError):  # it exists, or the user may not create it
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
                f"--hub_private_repo: {self.id} exists and is public; choose another {self.option}, or make "
                f"it private at {self.url}/settings"
            )

    def _create(self) -> None:
        sdk = "gradio" if self.type == "space" else None
        self.api.create_repo(self.id, private=self.private, repo_type=self.type, space_sdk=sdk)

    def is_private(self) -> bool:
        """Return whether the repository is private on the Hub; `private` is what was requested."""
        return self.ask(lambda: self.api.repo_info(self.id, repo_type=self.type)).private

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'spaces/' if self.type == 'space' else ''}{self.id}"

    def ask(self, request: Callable, expected: Sequence[int] = ()):
        """Send a request to the Hub, with retries after temporary errors.

        Args:
            request: a function without arguments that sends the request.
            expected: HTTP status codes that are raised as HfHubHTTPError.

        Returns:
            the result of `request`.

        Raises:
            InputError: the request failed; the message is one line with the reason.
            HfHubHTTPError: the Hub answered with one of the `expected` status codes.
        """
        for wait in (*RETRY_WAITS, None):
            try:
                return request()
            except OfflineModeIsEnabled:
                raise InputError(f"HF_HUB_OFFLINE is set, so {self.id} cannot be reached; unset it") from None
            except Exception as error:
                failed = _http_error(error)
                if failed is None and not isinstance(error, json.JSONDecodeError):
                    raise  # not caused by the request, e.g. a full disk
                # None without a connection, or if a proxy has answered with a page of its own.
                response = getattr(failed, "response", None)
            status = response.status_code if response is not None else None
            if status in expected:
                raise failed
            if status and status < 500 and status not in (408, 429):
                raise InputError(f"the Hub refuses {self.id}: {_refusal(status)}")
            reason = f"the server answers {status}" if status else "no connection, or one that was cut"
            if wait is None:
                raise InputError(f"{self.id} cannot be reached at {self.api.endpoint} ({reason})")
            retry_after = response.headers.get("Retry-After", "") if status else ""
            wait = min(int(retry_after), MAX_RETRY_AFTER) if retry_after.isdigit() else wait
            logger.info("Hub: %s; trying again in %g s", reason, wait)
            time.sleep(wait)

    def commit(
        self,
        files: Mapping[str, Path | bytes],
        is_stale: Callable[[str], bool],
        message: str,
        revision: str = "main",
    ) -> None:
        """Add or replace files, and delete stale ones, in one commit.

        Args:
            files: path in the repository -> file, or its content.
            is_stale: returns whether another file, given its path in the repository, is to be deleted.
            message: of the commit.
            revision: an existing branch.
        """
        present = self.ask(lambda: self.api.list_repo_files(self.id, revision=revision, repo_type=self.type))

        def request():
            operations = [
                CommitOperationDelete(name) for name in present if name not in files and is_stale(name)
            ]
            for name, content in sorted(files.items()):
                source = content if isinstance(content, bytes) else str(content)
                operations.append(CommitOperationAdd(name, source))
            self.api.create_commit(
                self.id, operations, commit_message=message, revision=revision, repo_type=self.type
            )

        self.ask(request)


def _http_error(error: BaseException | None) -> HTTPError | None:
    """Return the HTTP error that caused an error, if any; huggingface_hub wraps some of them."""
    while error is not None and not isinstance(error, HTTPError):
        error = error.__cause__ or error.__context__
    return error


def _refusal(status: int) -> str:
    """Return the meaning of a status code below 500."""
    if status == 401:
        return f"the token is invalid; {_NEW_TOKEN} and set it as HF_TOKEN"
    if status == 403:
        return f"the token has no permission; {_NEW_TOKEN} and set it as HF_TOKEN"
    return f"it answers {status}"
