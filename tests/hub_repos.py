"""State of the Hub for tests: tokens, repositories, commits and files, and which requests are refused.

`hub_server.py` serves it over HTTP.
"""

import hashlib
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

import yaml

LFS_SUFFIXES = (".safetensors", ".keras", ".skops", ".h5", ".pt", ".bin", ".npz")
LFS_ABOVE_BYTES = 10_000_000
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)


class HubError(Exception):
    """An HTTP response with an error status; clients choose their exception by `code`."""

    def __init__(self, status, message, code=None, headers=None, **fields):
        headers = {"X-Error-Message": " ".join(message.split())} | (headers or {})
        self.response = (
            status,
            {"error": message} | fields,
            headers | ({"X-Error-Code": code} if code else {}),
        )


@dataclass
class Token:
    user: str
    role: str
    permissions: tuple = ("repo.content.read", "repo.write")  # of a fineGrained token

    @property
    def writes(self):
        return self.role == "write" or (self.role == "fineGrained" and "repo.write" in self.permissions)


@dataclass
class File:
    data: bytes
    lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob(self):
        """The content as stored by git: of a large file, its LFS pointer."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
        return f"{pointer}size {len(self.data)}\n".encode() if self.lfs else self.data

    @property
    def oid(self):
        return hashlib.sha1(b"blob %d\0" % len(self.blob) + self.blob).hexdigest()

    def pointer(self, name):
        return {name: self.sha256, "size": len(self.data), "pointerSize": len(self.blob)}


@dataclass
class Commit:
    sha: str
    parent: str | None
    message: str
    description: str
    date: str
    files: dict
    changed: list


@dataclass
class Repo:
    type: str
    id: str
    private: bool
    gated: bool
    sdk: str | None
    objects: dict = field(default_factory=dict)  # sha256 of an uploaded large file -> bytes
    parts: dict = field(default_factory=dict)  # (sha256, part number) -> bytes
    branches: dict = field(default_factory=dict)
    all_commits: dict = field(default_factory=dict)

    @property
    def owner(self):
        return self.id.split("/")[0]

    @property
    def page(self):
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def commit(self, branch, message, files, changed, description="", squash=False):
        sha = hashlib.sha1(uuid.uuid4().bytes).hexdigest()
        parent = None if squash else self.branches.get(branch)
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.all_commits[sha] = Commit(sha, parent, message, description, date, files, sorted(changed))
        self.branches[branch] = sha
        return sha

    def at(self, revision, branch_only=False):
        sha = self.branches.get(revision, None if branch_only else revision)
        if sha not in self.all_commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.all_commits[sha]

    def history(self, revision):
        """Yield the commits, newest first."""
        commit = self.at(revision)
        while commit:
            yield commit
            commit = self.all_commits.get(commit.parent)


def check_write(repo, token):
    if token is None:
        raise HubError(401, "Invalid username or password.")
    if token.user != repo.owner:
        raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    if not token.writes:
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository")


def paths_of(files):
    """Return the paths of the files and of all their parent folders."""
    return set(files) | {path[:i] for path in files for i, character in enumerate(path) if character == "/"}


def entries(repo, revision, paths, expand):
    """Return the metadata of files and folders in the format of the Hub's API."""
    files, listed = repo.at(revision).files, []
    for path in paths:
        if path in files:
            file = files[path]
            entry = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
            entry |= {"lfs": file.pointer("oid")} if file.lfs else {}
        else:
            oid = hashlib.sha1(path.encode()).hexdigest()
            entry = {"type": "directory", "path": path, "size": 0, "oid": oid}
        if expand:
            last = next(commit for commit in repo.history(revision) if path in paths_of(commit.changed))
            entry["lastCommit"] = {"id": last.sha, "title": last.message, "date": last.date}
        listed.append(entry)
    return listed


def front_matter(readme):
    """Return (fields of the metadata block of a README.md, error message or None)."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", readme.decode(), re.DOTALL | re.MULTILINE)
    try:
        fields = (yaml.safe_load(match[1]) if match else None) or {}
    except yaml.YAMLError as error:
        return {}, str(error)
    return (fields, None) if isinstance(fields, dict) else ({}, "YAML metadata must be an object")


def check_card(readme):
    """Raise HubError for common errors in the metadata of a README.md; return warnings."""
    card, error = front_matter(readme)
    errors = [error] if error else []
    kinds = {"tags": list, "metrics": list, "model-index": list, "pipeline_tag": str, "library_name": str}
    wrong = [key for key in kinds if not isinstance(card.get(key, kinds[key]()), kinds[key])]
    errors += [f'"{key}" must be a {kinds[key].__name__}' for key in wrong]
    for model in card.get("model-index", []) if not errors else []:
        for result in model.get("results", []):
            needed = {"task": ("type",), "dataset": ("type", "name"), "metrics": ("type", "value")}
            for name, keys in needed.items():
                given = result.get(name) or {}
                for place in given if isinstance(given, list) else [given]:
                    errors += [f'"{name}.{key}" is required' for key in keys if key not in place]
    if errors:
        listed = [{"message": error} for error in errors]
        raise HubError(400, f"Invalid metadata in README.md: {errors[0]}", errors=listed)
    return [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
