"""A Hugging Face Hub on this machine: real, unpatched clients come in through HF_ENDPOINT; repos go out.

What they upload and ask is kept for tests to look at, and they can be made to meet errors, cuts and delays.
"""

import base64
import fnmatch
import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".keras", ".skops", ".h5", ".pt", ".bin", ".npz")
LFS_ABOVE_BYTES = 10_000_000
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
INVALID_TOKEN = "Invalid credentials in Authorization header"


class HubError(Exception):
    """An answer that is not a success; `code` is what the clients choose their exception by."""

    def __init__(self, status, message, code=None, **body):
        headers = {"X-Error-Message": " ".join(message.split())} | ({"X-Error-Code": code} if code else {})
        self.answer = status, {"error": message} | body, headers


@dataclass
class Token:
    user: str
    role: str
    permissions: tuple = ("repo.content.read", "repo.write")  # of fineGrained tokens

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
        """What git keeps: the content, or the pointer to a large file."""
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
    sdk: str | None = None
    objects: dict = field(default_factory=dict)  # sha256 of uploaded large files -> bytes
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
        parent = None if squash else self.branches.get(branch)
        sha = hashlib.sha1(f"{self.type} {self.id} {len(self.all_commits)} {message}".encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.all_commits[sha] = Commit(sha, parent, message, description, date, files, changed)
        self.branches[branch] = sha
        return self.all_commits[sha]

    def at(self, revision):
        sha = self.branches.get(revision, revision)
        if sha not in self.all_commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.all_commits[sha]

    def history(self, revision):
        """Newest first."""
        commit = self.at(revision)
        while commit:
            yield commit
            commit = self.all_commits.get(commit.parent)


@dataclass
class Fault:
    method: str
    pattern: str
    times: int
    status: int | None = None
    headers: dict = field(default_factory=dict)
    body: object = None
    seconds: float = 0
    after_bytes: int | None = None
    of: str = ""
    reset: bool = False


class HubServer:
    """`with HubServer() as hub:` serves at `hub.endpoint`.

    Files of more than `multipart_above` bytes are asked for in parts of `part_bytes`.
    """

    def __init__(self, multipart_above=50_000_000, part_bytes=20_000_000):
        self.multipart_above, self.part_bytes = multipart_above, part_bytes
        self.tokens, self.repos = {}, {}
        self.requests = []  # (method, path without query, status; 0 for none), in order
        self.authorizations = []  # of each request in turn: the header, or None
        self.faults, self.errors = [], []  # errors: tracebacks of this server's own mistakes
        self.lock = threading.RLock()
        self.http = Server(("127.0.0.1", 0), Handler)
        self.http.hub = self
        self.endpoint = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()

    # What a test prepares and looks at

    def add_token(self, token, user, role="write", **options):
        """`role` is "write", "read" or "fineGrained"; the last takes `permissions`."""
        self.tokens[token] = Token(user, role, **options)

    def add_repo(self, repo_id, private=False, files=None, repo_type="model", gated=False, sdk=None):
        repo = self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, private, gated, sdk)
        start = {".gitattributes": File(GITATTRIBUTES.encode(), False)}
        repo.commit("main", "initial commit", start, [".gitattributes"])
        if files:
            added = {path: File(data, path.endswith(LFS_SUFFIXES)) for path, data in files.items()}
            repo.objects |= {file.sha256: file.data for file in added.values() if file.lfs}
            repo.commit("main", "files", start | added, sorted(files))
        return repo

    def files(self, repo_id, revision="main", repo_type="model"):
        """{path: bytes}, with the .gitattributes that every repo of the Hub starts with."""
        commit = self.repos[repo_type, repo_id].at(revision)
        return {path: file.data for path, file in commit.files.items()}

    def commits(self, repo_id, revision="main", repo_type="model"):
        """[(message, [paths changed])], oldest first; the first is the Hub's own "initial commit"."""
        history = self.repos[repo_type, repo_id].history(revision)
        return [(commit.message, commit.changed) for commit in history][::-1]

    def is_private(self, repo_id, repo_type="model"):
        return self.repos[repo_type, repo_id].private

    # Faults: each request meets the first one left whose method and path pattern (regexes) are its own

    def fail(self, method, path_pattern, status=500, times=1, headers=None, body=None):
        self.faults.append(Fault(method, path_pattern, times, status, headers or {}, body))

    def cut(self, method, path_pattern, after_bytes=0, times=1, of=None, reset=False):
        """Hang up after that many bytes of the request's body, or with `of="response"` of the answer.

        A cut request changes nothing; a cut answer is to a request that was carried out, and 0 bytes of it are
        not even its headers. GET and HEAD are always cut in the answer. With `reset` that ends in an error of
        the connection, as a cut request always does, instead of a plain end.
        """
        of = of or ("response" if method in ("GET", "HEAD") else "request")
        self.faults.append(Fault(method, path_pattern, times, after_bytes=after_bytes, of=of, reset=reset))

    def delay(self, method, path_pattern, seconds, times=1):
        self.faults.append(Fault(method, path_pattern, times, seconds=seconds))

    @property
    def faults_left(self):
        return sum(fault.times for fault in self.faults)

    def next_fault(self, method, path):
        for fault in self.faults:
            if fault.times and re.fullmatch(fault.method, method) and re.search(fault.pattern, path):
                fault.times -= 1
                return fault
        return Fault(method, "", 0)

    # Answers: (status, what to send, headers)

    def answer(self, request):
        authorization = request.headers.get("Authorization")
        token = self.tokens.get((authorization or "").removeprefix("Bearer "))
        try:
            for method, pattern, function in ROUTES:
                match = re.fullmatch(pattern, request.path)
                if match and request.method == method:
                    if authorization and not token:
                        raise HubError(401, INVALID_TOKEN)
                    groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                    if "id" in groups:
                        kind = (groups.pop("type") or "models").removesuffix("s")
                        # The addresses for large files are like signed ones: they need no token.
                        owner = request.path.startswith("/lfs/") and Token(groups["id"].split("/")[0], "read")
                        groups["repo"] = self.repo_for(owner or token, kind, groups.pop("id"))
                    return function(self, request, token, **groups)
            raise HubError(404, "Sorry, we can't find the page you are looking for.")
        except HubError as error:
            return error.answer
        except Exception:
            self.errors.append(traceback.format_exc())
            # Not 500, which clients would try again and again.
            return 501, {"error": self.errors[-1]}, {}

    def repo_for(self, token, kind, repo_id):
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and (token is None or token.user != repo.owner)):
            # Without a token the Hub says 401 and sends no code, but clients then look for an https address.
            raise HubError(404 if token else 401, "Repository not found", "RepoNotFound")
        return repo

    def whoami(self, request, token):
        if not token:
            raise HubError(401, "Invalid username or password.")
        access = {"displayName": "test", "role": token.role, "createdAt": "2026-01-01T00:00:00.000Z"}
        if token.role == "fineGrained":
            entity = {"_id": token.user, "type": "user", "name": token.user}
            scoped = [{"entity": entity, "permissions": list(token.permissions)}]
            access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
        user = {"type": "user", "id": token.user, "name": token.user, "fullname": token.user, "orgs": []}
        return 200, user | {"auth": {"type": "access_token", "accessToken": access}}, {}

    def create_repo(self, request, token):
        asked = request.json()
        kind, owner = asked.get("type") or "model", asked.get("organization") or (token and token.user)
        if not token:
            raise HubError(401, "Invalid username or password.")
        if owner != token.user or not token.writes:
            refusal = "You don't have the rights to create"
            raise HubError(403, f'{refusal} a {kind} under the namespace "{owner}"')
        if kind == "space" and not asked.get("sdk"):
            raise HubError(400, '"sdk" is required')
        repo_id = f"{owner}/{asked['name']}"
        if repo := self.repos.get((kind, repo_id)):
            refusal = f"You already created this {kind} repo"
            raise HubError(409, refusal, url=f"{self.endpoint}/{repo.page}")
        repo = self.add_repo(repo_id, asks_private(asked), repo_type=kind, sdk=asked.get("sdk"))
        return 200, {"url": f"{self.endpoint}/{repo.page}", "name": repo_id, "id": repo_id}, {}

    def delete_repo(self, request, token):
        asked = request.json()
        kind, owner = asked.get("type") or "model", asked.get("organization") or (token and token.user)
        repo = self.repo_for(token, kind, f"{owner}/{asked['name']}")
        check_write(repo, token)
        del self.repos[repo.type, repo.id]
        return 200, {}, {}

    def settings(self, request, token, repo):
        check_write(repo, token)
        asked = request.json()
        if "visibility" in asked or "private" in asked:
            repo.private = asks_private(asked)
        repo.gated = bool(asked.get("gated", repo.gated))
        return 200, {"private": repo.private, "gated": repo.gated}, {}

    def info(self, request, token, repo, revision="main"):
        commit, first = repo.at(revision), next(iter(repo.all_commits.values()))
        readme = commit.files.get("README.md", File(b"", False))
        card = front_matter(readme.data.decode())[0] or {}
        siblings = []
        for path, file in sorted(commit.files.items()):
            siblings.append({"rfilename": path})
            if "blobs" in request.query:
                siblings[-1] |= {"size": len(file.data), "blobId": file.oid}
                siblings[-1] |= {"lfs": file.pointer("sha256")} if file.lfs else {}
        about = {"id": repo.id, "author": repo.owner, "sha": commit.sha, "siblings": siblings}
        about |= {"private": repo.private, "gated": repo.gated, "disabled": False, "sdk": repo.sdk}
        about |= {"createdAt": first.date, "lastModified": commit.date, "likes": 0, "downloads": 0}
        about |= {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
        return 200, about | {"tags": card.get("tags") or [], "cardData": card}, {}

    def auth_check(self, request, token, repo, write):
        if write:
            check_write(repo, token)
        return 200, "OK", {}

    def tree(self, request, token, repo, revision, path=None):
        prefix = f"{path.rstrip('/')}/" if path else ""
        files = repo.at(revision).files
        below = sorted(name for name in all_paths(files) if name.startswith(prefix))
        if path and not below:
            raise HubError(404, f'"{path}" does not exist on "{revision}"', "EntryNotFound")
        if request.query.get("recursive") != ["true"]:
            below = [name for name in below if "/" not in name[len(prefix) :]]
        return 200, entries(repo, revision, below, request.query.get("expand") == ["true"]), {}

    def paths_info(self, request, token, repo, revision):
        asked = parse_qs(request.body.decode())
        known = all_paths(repo.at(revision).files)
        paths = [path.rstrip("/") for path in asked.get("paths", []) if path.rstrip("/") in known]
        return 200, entries(repo, revision, paths, asked.get("expand") == ["true"]), {}

    def list_commits(self, request, token, repo, revision):
        listed = []
        for commit in repo.history(revision):
            text = {"title": commit.message, "message": commit.description, "date": commit.date}
            listed.append({"id": commit.sha, "authors": [{"user": repo.owner}]} | text)
        return 200, listed, {}

    def refs(self, request, token, repo):
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in repo.branches.items()
        ]
        return 200, {"branches": branches, "tags": [], "converts": [], "pullRequests": []}, {}

    def create_branch(self, request, token, repo, name):
        check_write(repo, token)
        if name in repo.branches:
            raise HubError(409, f"Reference already exists: refs/heads/{name}")
        repo.branches[name] = repo.at(request.json().get("startingPoint") or "main").sha
        return 200, {}, {}

    def delete_branch(self, request, token, repo, name):
        check_write(repo, token)
        if name == "main":
            raise HubError(403, "The default branch cannot be deleted")
        if name not in repo.branches:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        del repo.branches[name]
        return 200, {}, {}

    def super_squash(self, request, token, repo, name):
        check_write(repo, token)
        files = check_branch(repo, name).files
        repo.commit(name, request.json()["message"], files, sorted(files), squash=True)
        return 200, {}, {}

    # Uploads: preupload says how, large files go to their own addresses first, one commit names them all

    def preupload(self, request, token, repo, revision):
        check_write(repo, token)
        there, asked, answers = check_branch(repo, revision).files, request.json(), []
        hosted = there.get(".gitignore", File(b"", False)).data.decode()
        patterns = [line.strip().rstrip("/") for line in asked.get("gitIgnore", hosted).splitlines()]
        for file in asked["files"]:
            path, old = file["path"], there.get(file["path"])
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or file["size"] > LFS_ABOVE_BYTES else "regular"
            names = [path, *path.split("/")]
            ignore = any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": ignore})
            answers[-1]["oid"] = old and (old.sha256 if old.lfs else old.oid)
        return 200, {"files": answers, "commitOid": repo.branches[revision]}, {}

    def lfs_batch(self, request, token, repo):
        check_write(repo, token)
        asked, objects = request.json(), []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            objects.append({"oid": oid, "size": size})
            if oid in repo.objects:
                continue
            base = f"{self.endpoint}/lfs/{repo.type}s/{repo.id}/{oid}/{size}"
            upload = {"href": base}
            if "multipart" in asked["transfers"] and size > self.multipart_above:
                parts = range(1, -(-size // self.part_bytes) + 1)
                header = {f"{part:05d}": f"{base}/{part}" for part in parts}
                upload = {"href": f"{base}/complete", "header": header | {"chunk_size": str(self.part_bytes)}}
            verify = {"href": f"{self.endpoint}/{repo.page}.git/info/lfs/verify"}
            objects[-1]["actions"] = {"upload": upload, "verify": verify}
        return 200, {"transfer": "basic", "objects": objects}, {}

    def put_object(self, request, token, repo, oid, size):
        if len(request.body) != int(size) or hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(400, f"the {len(request.body)} bytes are not those of {oid} with {size} bytes")
        repo.objects[oid] = request.body
        return 200, b"", {"ETag": f'"{oid}"'}

    def put_part(self, request, token, repo, oid, size, part):
        repo.parts[oid, int(part)] = request.body
        return 200, b"", {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'}

    def complete(self, request, token, repo, oid, size):
        bodies = []
        for part in request.json()["parts"]:
            body = repo.parts.get((oid, part["partNumber"]), b"")
            if part["etag"].strip('"') != hashlib.md5(body).hexdigest():
                raise HubError(400, f"part {part['partNumber']} of {oid} was not uploaded")
            bodies.append(body)
        request.body = b"".join(bodies)
        return self.put_object(request, token, repo, oid, size)

    def verify(self, request, token, repo):
        check_write(repo, token)
        asked = request.json()
        if len(repo.objects.get(asked["oid"], b"")) != asked["size"]:
            raise HubError(404, f"{asked['oid']} was not uploaded")
        return 200, {}, {}

    def commit(self, request, token, repo, revision):
        check_write(repo, token)
        head = check_branch(repo, revision)
        files, changed, header = dict(head.files), set(), {}
        for line in request.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            path = value.get("path", "").rstrip("/")
            gone = set()
            if key == "header":
                header = value
            elif key == "file":
                files[path] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in repo.objects:
                    reason = "an LFS pointer pointed to a file that does not exist"
                    raise HubError(400, f"Your push was rejected because {reason}: {path}")
                files[path] = File(repo.objects[value["oid"]], True)
            elif key == "deletedFile":
                gone = {path} & files.keys()
            elif key == "deletedFolder":
                gone = {name for name in files if name.startswith(f"{path}/")}
            else:
                raise HubError(400, f'"key" cannot be {key}')
            if key.startswith("deleted") and not gone:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            files = {name: file for name, file in files.items() if name not in gone}
            changed |= gone or ({path} if path else set())
        if header.get("parentCommit", head.sha) != head.sha:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        if "README.md" in changed and "README.md" in files:
            check_card(files["README.md"].data.decode())
        new = repo.commit(revision, header["summary"], files, sorted(changed), header.get("description", ""))
        url = f"{self.endpoint}/{repo.page}/commit/{new.sha}"
        return 200, {"success": True, "commitOid": new.sha, "commitUrl": url, "hookOutput": ""}, {}

    def validate_yaml(self, request, token):
        return 200, {"errors": [], "warnings": check_card(request.json()["content"])}, {}

    def resolve(self, request, token, repo, revision, path):
        if repo.gated and (token is None or token.user != repo.owner):
            raise HubError(403 if token else 401, f"Access to model {repo.id} is restricted.", "GatedRepo")
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            status, body, why = HubError(404, "Entry not found", "EntryNotFound").answer
            return status, body, headers | why
        file = commit.files[path]
        headers["ETag"] = f'"{file.sha256 if file.lfs else file.oid}"'
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not asked:
            return 200, file.data, headers
        first, last = int(asked[1]), min(int(asked[2] or len(file.data)), len(file.data) - 1)
        if first > last:
            return 416, b"", headers | {"Content-Range": f"bytes */{len(file.data)}"}
        headers["Content-Range"] = f"bytes {first}-{last}/{len(file.data)}"
        return 206, file.data[first : last + 1], headers


def asks_private(asked):
    """huggingface_hub 2 says it by "visibility", 1 by "private"."""
    return asked.get("visibility") == "private" or bool(asked.get("private"))


def check_write(repo, token):
    if token is None:
        raise HubError(401, "Invalid username or password.")
    if token.user != repo.owner:
        raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    if not token.writes:
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")


def check_branch(repo, name):
    if name not in repo.branches:
        raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return repo.at(name)


def all_paths(files):
    """The files and the folders that hold them."""
    return set(files) | {path[:i] for path in files for i, character in enumerate(path) if character == "/"}


def entries(repo, revision, paths, expand):
    files, listed = repo.at(revision).files, []
    for path in paths:
        if path in files:
            file = files[path]
            entry = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
            if file.lfs:
                entry["lfs"] = file.pointer("oid")
        else:
            oid = hashlib.sha1(path.encode()).hexdigest()
            entry = {"type": "directory", "path": path, "size": 0, "oid": oid}
        if expand:
            last = next(c for c in repo.history(revision) if path in all_paths(c.changed))
            entry["lastCommit"] = {"id": last.sha, "title": last.message, "date": last.date}
        listed.append(entry)
    return listed


def front_matter(text):
    """(the fields of the YAML, or None if there are none, what is wrong with it or None)"""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.DOTALL | re.MULTILINE)
    try:
        fields = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        return None, str(error)
    if fields and not isinstance(fields, dict):
        return None, "YAML metadata must be an object"
    return fields, None


def check_card(text):
    """Refuses what the Hub would refuse of the commoner mistakes in a README.md; returns its warnings."""
    card, error = front_matter(text)
    errors = [error] if error else []
    kinds = {"tags": list, "metrics": list, "model-index": list, "pipeline_tag": str, "library_name": str}
    wrong = [name for name, kind in kinds.items() if not isinstance((card or {}).get(name, kind()), kind)]
    errors += [f'"{name}" must be of another type' for name in wrong]
    for model in (card or {}).get("model-index", []) if not wrong else []:
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


TYPED = r"(?P<type>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<type>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
API, REVISION, NAME = f"/api/{TYPED}", "(?P<revision>[^/]+)", "(?P<name>[^/]+)"
OBJECT = rf"/lfs/{TYPED}/(?P<oid>\w+)/(?P<size>\d+)"
ROUTES = [
    ("GET", "/api/whoami-v2", HubServer.whoami),
    ("POST", "/api/repos/create", HubServer.create_repo),
    ("DELETE", "/api/repos/delete", HubServer.delete_repo),
    ("POST", "/api/validate-yaml", HubServer.validate_yaml),
    ("GET", API, HubServer.info),
    ("GET", f"{API}/revision/{REVISION}", HubServer.info),
    ("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.+))?", HubServer.tree),
    ("POST", f"{API}/paths-info/{REVISION}", HubServer.paths_info),
    ("GET", f"{API}/commits/{REVISION}", HubServer.list_commits),
    ("GET", f"{API}/auth-check(?P<write>/write)?", HubServer.auth_check),
    ("GET", f"{API}/refs", HubServer.refs),
    ("POST", f"{API}/branch/{NAME}", HubServer.create_branch),
    ("DELETE", f"{API}/branch/{NAME}", HubServer.delete_branch),
    ("POST", f"{API}/super-squash/{NAME}", HubServer.super_squash),
    ("PUT", f"{API}/settings", HubServer.settings),
    ("POST", f"{API}/preupload/{REVISION}", HubServer.preupload),
    ("POST", f"{API}/commit/{REVISION}", HubServer.commit),
    ("POST", f"{PAGE}.git/info/lfs/objects/batch", HubServer.lfs_batch),
    ("POST", f"{PAGE}.git/info/lfs/verify", HubServer.verify),
    ("PUT", OBJECT, HubServer.put_object),
    ("PUT", rf"{OBJECT}/(?P<part>\d+)", HubServer.put_part),
    ("POST", f"{OBJECT}/complete", HubServer.complete),
    ("GET", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", HubServer.resolve),
    ("HEAD", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", HubServer.resolve),
]


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # snapshot_download opens several connections at once

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            self.hub.errors.append(traceback.format_exc())


@dataclass
class Request:
    method: str
    path: str
    query: dict
    headers: object
    body: bytes

    def json(self):
        return json.loads(self.body or b"{}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms

    def serve(self):
        hub, address = self.server.hub, urlsplit(self.path)
        with hub.lock:
            fault = hub.next_fault(self.command, address.path)
        time.sleep(fault.seconds)
        body = self.read_body(fault.after_bytes if fault.of == "request" else None)
        request = Request(self.command, address.path, parse_qs(address.query), self.headers, body)
        with hub.lock:
            if fault.of == "request":
                status = 0
            elif fault.status:
                error = {"error": f"made to fail with {fault.status}"}
                status, body, headers = fault.status, fault.body or error, fault.headers
            else:
                status, body, headers = hub.answer(request)
            # Before the client has its answer and the test looks.
            hub.requests.append((self.command, address.path, status))
            hub.authorizations.append(self.headers.get("Authorization"))
        if fault.of == "request" or (fault.of == "response" and not fault.after_bytes):
            return self.hang_up(fault.reset or fault.of == "request")
        self.send(status, body, headers, fault.after_bytes)
        if fault.of == "response":
            self.hang_up(fault.reset)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self, limit=None):
        body, missing = b"", int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while limit is None or len(body) < limit:
                size = self.rfile.readline()
                body += self.rfile.read(int(size or b"0", 16))
                if not self.rfile.readline():
                    raise ConnectionError("the client went away")
                if size.strip() == b"0":
                    break
            return body
        missing = missing if limit is None else min(limit, missing)
        body = self.rfile.read(missing)
        if len(body) < missing:
            raise ConnectionError("the client went away")
        return body

    def send(self, status, body, headers, limit=None):
        kind = "application/json"
        if not isinstance(body, bytes | str):
            body = json.dumps(body)
        elif body:
            kind = "text/html" if isinstance(body, str) else "application/octet-stream"
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value.encode("ascii", "replace").decode())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:limit])

    def hang_up(self, reset):
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def log_message(self, *arguments):
        pass


def environment(server, token, home):
    """For a subprocess: that server's Hub, that token (or None), and a home without a login or cache."""
    ours = ("HF_", "HUGGING", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    settings = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return kept | settings | ({"HF_TOKEN": token} if token else {})
