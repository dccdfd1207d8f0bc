"""A local server with the HTTP API of the Hugging Face Hub, for unmodified clients (HF_ENDPOINT).

It records all requests for the tests, and can produce errors, cut connections and delays.
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repos import (
    GITATTRIBUTES,
    LFS_ABOVE_BYTES,
    LFS_SUFFIXES,
    File,
    HubError,
    Repo,
    Token,
    check_card,
    check_write,
    entries,
    front_matter,
    paths_of,
)


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
    """A server for the duration of a `with` block: `with HubServer() as hub:` serves at `hub.endpoint`.

    Args:
        multipart_above: size in bytes above which clients upload a file in parts.
        part_bytes: size of these parts.

    Attributes:
        requests: (method, path without query, status) of each request; status 0 for a cut request.
        authorizations: the Authorization header of each of these requests, or None.
        errors: tracebacks of errors in this server.
        faults_left: number of faults that have not occurred yet.
    """

    def __init__(self, multipart_above=50_000_000, part_bytes=20_000_000):
        self.multipart_above, self.part_bytes = multipart_above, part_bytes
        self.tokens, self.repos = {}, {}
        self.requests = []
        self.authorizations = []
        self.faults = []
        self.errors = []
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

    # For tests: preparation and inspection

    def add_token(self, token, user, role="write", **options):
        """Add a token; `role` is "write", "read" or "fineGrained", the last with `permissions`."""
        self.tokens[token] = Token(user, role, **options)

    def add_repo(self, repo_id, private=False, files=None, repo_type="model", gated=False, sdk=None):
        """Add a repository; `files` maps paths to bytes."""
        repo = self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, private, gated, sdk)
        start = {".gitattributes": File(GITATTRIBUTES.encode(), False)}
        repo.commit("main", "initial commit", start, start)
        if files:
            added = {path: File(data, path.endswith(LFS_SUFFIXES)) for path, data in files.items()}
            repo.objects |= {file.sha256: file.data for file in added.values() if file.lfs}
            repo.commit("main", "files", start | added, added)
        return repo

    def files(self, repo_id, revision="main", repo_type="model"):
        """Return {path: bytes}, including the .gitattributes of every repository on the Hub."""
        commit = self.repos[repo_type, repo_id].at(revision)
        return {path: file.data for path, file in commit.files.items()}

    def commits(self, repo_id, revision="main", repo_type="model"):
        """Return [(message, [changed paths])], oldest first; the first is the "initial commit" of the Hub."""
        history = self.repos[repo_type, repo_id].history(revision)
        return [(commit.message, commit.changed) for commit in history][::-1]

    def is_private(self, repo_id, repo_type="model"):
        return self.repos[repo_type, repo_id].private

    # Faults: a request triggers the first remaining fault whose regular expressions match its method and path

    def fail(self, method, path_pattern, status=500, times=1, headers=None, body=None):
        """Respond with an error status and do nothing; `body` is a dict for JSON, or HTML."""
        self.faults.append(Fault(method, path_pattern, times, status, headers or {}, body))

    def cut(self, method, path_pattern, after_bytes=0, times=1, of=None, reset=False):
        """Close the connection after `after_bytes` of the body of the request, or with `of="response"` of the
        response.

        A cut request has no effect. A request whose response is cut has been processed; with 0 bytes the
        headers are missing too. For GET and HEAD the response is cut. The client of a cut request gets a
        connection reset; the client of a cut response an end of the stream, or with `reset` a reset.
        """
        of = of or ("response" if method in ("GET", "HEAD") else "request")
        self.faults.append(Fault(method, path_pattern, times, after_bytes=after_bytes, of=of, reset=reset))

    def delay(self, method, path_pattern, seconds, times=1):
        """Respond after a delay; `faults_left` decreases at its start."""
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

    # Each request is handled by one function below, which returns the content, or (status, content, headers)

    def respond(self, request):
        try:
            content = self.route(request)
            return content if isinstance(content, tuple) else (200, content, {})
        except HubError as error:
            return error.response
        except Exception:
            self.errors.append(traceback.format_exc())
            # Not 500: clients would repeat the request.
            return 501, {"error": self.errors[-1]}, {}

    def route(self, request):
        authorization = request.headers.get("Authorization")
        token = self.tokens.get((authorization or "").removeprefix("Bearer "))
        if authorization and not token:
            raise HubError(401, "Invalid credentials in Authorization header")
        for method, pattern, function, needs in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and request.method in method.split():
                groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                if needs == "token" and not token:
                    raise HubError(401, "Invalid username or password.")
                if "id" in groups:
                    kind, repo_id = (groups.pop("type") or "models").removesuffix("s"), groups.pop("id")
                    # URLs for large files are treated as signed: they need no token.
                    owner = Token(repo_id.split("/")[0], "write")
                    groups["repo"] = repo = self.repo_for(
                        owner if needs == "nothing" else token, kind, repo_id
                    )
                    if needs == "write":
                        check_write(repo, token)
                return function(self, request, token, **groups)
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def repo_for(self, token, kind, repo_id):
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and (token is None or token.user != repo.owner)):
            # The Hub sends no code with status 401; clients recognise it by the URL, only with https.
            raise HubError(404 if token else 401, "Repository not found", "RepoNotFound")
        return repo

    def whoami(self, request, token):
        access = {"displayName": "test", "role": token.role, "createdAt": "2026-01-01T00:00:00.000Z"}
        if token.role == "fineGrained":
            entity = {"_id": token.user, "type": "user", "name": token.user}
            scoped = [{"entity": entity, "permissions": list(token.permissions)}]
            access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
        user = {"type": "user", "id": token.user, "name": token.user, "fullname": token.user, "orgs": []}
        return user | {"auth": {"type": "access_token", "accessToken": access}}

    def create_repo(self, request, token):
        body = request.json()
        kind, owner = body.get("type") or "model", body.get("organization") or token.user
        repo_id = f"{owner}/{body['name']}"
        if owner != token.user or not token.writes:
            refusal = f"You don't have the rights to create a {kind} under the namespace"
            raise HubError(403, f'{refusal} "{owner}"')
        if repo := self.repos.get((kind, repo_id)):
            url = f"{self.endpoint}/{repo.page}"
            raise HubError(409, f"You already created this {kind} repo", url=url)
        repo = self.add_repo(repo_id, is_private_request(body), repo_type=kind, sdk=body.get("sdk"))
        return {"url": f"{self.endpoint}/{repo.page}", "name": repo_id}

    def delete_repo(self, request, token):
        body = request.json()
        repo_id = f"{body.get('organization') or token.user}/{body['name']}"
        repo = self.repo_for(token, body.get("type") or "model", repo_id)
        check_write(repo, token)
        del self.repos[repo.type, repo.id]
        return {}

    def settings(self, request, token, repo):
        repo.private = is_private_request(request.json())
        return {"private": repo.private}

    def info(self, request, token, repo, revision="main"):
        commit, first = repo.at(revision), next(iter(repo.all_commits.values()))
        card, _ = front_matter(commit.files.get("README.md", File(b"", False)).data)
        siblings = []
        for path, file in sorted(commit.files.items()):
            siblings.append({"rfilename": path})
            if "blobs" in request.query:
                siblings[-1] |= {"size": len(file.data), "blobId": file.oid}
                siblings[-1] |= {"lfs": file.pointer("sha256")} if file.lfs else {}
        response = {"id": repo.id, "author": repo.owner, "sha": commit.sha, "siblings": siblings}
        response |= {"private": repo.private, "gated": repo.gated, "disabled": False, "sdk": repo.sdk}
        response |= {"createdAt": first.date, "lastModified": commit.date, "likes": 0, "downloads": 0}
        response |= {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
        return response | {"tags": card.get("tags") or [], "cardData": card}

    def auth_check(self, request, token, repo):
        return "OK"  # permissions are checked by `route`

    def tree(self, request, token, repo, revision, path=None):
        prefix = f"{path.rstrip('/')}/" if path else ""
        below = sorted(name for name in paths_of(repo.at(revision).files) if name.startswith(prefix))
        if path and not below:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        if request.query.get("recursive") != ["true"]:
            below = [name for name in below if "/" not in name[len(prefix) :]]
        return entries(repo, revision, below, request.query.get("expand") == ["true"])

    def paths_info(self, request, token, repo, revision):
        body = parse_qs(request.body.decode())
        known = paths_of(repo.at(revision).files)
        paths = [path.rstrip("/") for path in body.get("paths", []) if path.rstrip("/") in known]
        return entries(repo, revision, paths, body.get("expand") == ["true"])

    def list_commits(self, request, token, repo, revision):
        listed = []
        for commit in repo.history(revision):
            text = {"title": commit.message, "message": commit.description, "date": commit.date}
            listed.append({"id": commit.sha, "authors": [{"user": repo.owner}]} | text)
        return listed

    def refs(self, request, token, repo):
        branches = []
        for name, sha in repo.branches.items():
            branches.append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha})
        return {"branches": branches, "tags": [], "converts": [], "pullRequests": []}

    def create_branch(self, request, token, repo, branch):
        if branch in repo.branches:
            raise HubError(409, f"Reference already exists: refs/heads/{branch}")
        repo.branches[branch] = repo.at(request.json().get("startingPoint") or "main").sha
        return {}

    def delete_branch(self, request, token, repo, branch):
        if branch == "main":
            raise HubError(403, "The default branch cannot be deleted")
        repo.at(branch, branch_only=True)
        del repo.branches[branch]
        return {}

    def super_squash(self, request, token, repo, branch):
        files = repo.at(branch, branch_only=True).files
        repo.commit(branch, request.json()["message"], files, files, squash=True)
        return {}

    # Uploads: preupload returns the mode, large files have their own URLs, one commit lists all files

    def preupload(self, request, token, repo, branch):
        present, body, responses = repo.at(branch, branch_only=True).files, request.json(), []
        hosted = present.get(".gitignore", File(b"", False)).data.decode()
        patterns = [line.strip().rstrip("/") for line in body.get("gitIgnore", hosted).splitlines()]
        for file in body["files"]:
            path, old = file["path"], present.get(file["path"])
            large = path.endswith(LFS_SUFFIXES) or file["size"] > LFS_ABOVE_BYTES
            parts = [path, *path.split("/")]
            ignored = any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in patterns)
            responses.append({"path": path, "uploadMode": "lfs" if large else "regular"})
            responses[-1] |= {"shouldIgnore": ignored, "oid": old and (old.sha256 if old.lfs else old.oid)}
        return {"files": responses, "commitOid": repo.branches[branch]}

    def lfs_batch(self, request, token, repo):
        body, objects = request.json(), []
        for oid, size in ((file["oid"], file["size"]) for file in body["objects"]):
            objects.append({"oid": oid, "size": size})
            if oid in repo.objects:
                continue
            upload = {"href": f"{self.endpoint}/lfs/{repo.type}s/{repo.id}/{oid}/{size}"}
            if "multipart" in body["transfers"] and size > self.multipart_above:
                upload["header"] = {"chunk_size": str(self.part_bytes)}
                for part in range(1, -(-size // self.part_bytes) + 1):
                    upload["header"][f"{part:05d}"] = f"{upload['href']}/{part}"
                upload["href"] += "/complete"
            verify = {"href": f"{self.endpoint}/{repo.page}.git/info/lfs/verify"}
            objects[-1]["actions"] = {"upload": upload, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    def put_object(self, request, token, repo, oid, size, part=None):
        if part:
            repo.parts[oid, int(part)] = request.body
        else:
            keep_object(repo, oid, size, request.body)
        return 200, b"", {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'}

    def complete(self, request, token, repo, oid, size):
        bodies = [repo.parts.get((oid, part["partNumber"]), b"") for part in request.json()["parts"]]
        keep_object(repo, oid, size, b"".join(bodies))
        return {}

    def verify(self, request, token, repo):
        oid, size = request.json()["oid"], request.json()["size"]
        if len(repo.objects.get(oid, b"")) != size:
            raise HubError(404, f"{oid} was not uploaded")
        return {}

    def commit(self, request, token, repo, branch):
        head = repo.at(branch, branch_only=True)
        files, changed, header = dict(head.files), set(), {}
        for line in request.body.splitlines():
            key, value = json.loads(line).values()
            path, gone = value.get("path", "").rstrip("/"), set()
            if key == "header":
                header = value
            elif key == "file":
                files[path] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile" and value["oid"] in repo.objects:
                files[path] = File(repo.objects[value["oid"]], True)
            elif key == "lfsFile":
                reason = "an LFS pointer pointed to a file that does not exist"
                raise HubError(400, f"Your push was rejected because {reason}: {path}")
            elif key in ("deletedFile", "deletedFolder"):
                folder = key == "deletedFolder"
                gone = {name for name in files if (name.startswith(f"{path}/") if folder else name == path)}
                files = {name: file for name, file in files.items() if name not in gone}
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise HubError(400, f'"key" cannot be {key}')
            changed |= gone or ({path} if path else set())
        if header.get("parentCommit", head.sha) != head.sha:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        if "README.md" in files and "README.md" in changed:
            check_card(files["README.md"].data)
        sha = repo.commit(branch, header["summary"], files, changed, header.get("description", ""))
        url = f"{self.endpoint}/{repo.page}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}

    def validate_yaml(self, request, token):
        return {"errors": [], "warnings": check_card(request.json()["content"].encode())}

    def resolve(self, request, token, repo, revision, path):
        if repo.gated and (token is None or token.user != repo.owner):
            raise HubError(403 if token else 401, f"Access to model {repo.id} is restricted.", "GatedRepo")
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        file = commit.files[path]
        headers["ETag"] = f'"{file.sha256 if file.lfs else file.oid}"'
        if file.lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(file.data))}
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not byte_range:
            return 200, file.data, headers
        first, last = int(byte_range[1]), min(int(byte_range[2] or len(file.data)), len(file.data) - 1)
        if first > last:
            return 416, b"", headers | {"Content-Range": f"bytes */{len(file.data)}"}
        headers["Content-Range"] = f"bytes {first}-{last}/{len(file.data)}"
        return 206, file.data[first : last + 1], headers


def is_private_request(body):
    """Return whether a private repository is requested (`visibility` since huggingface_hub 2)."""
    return body.get("visibility") == "private" or bool(body.get("private"))


def keep_object(repo, oid, size, body):
    if len(body) != int(size) or hashlib.sha256(body).hexdigest() != oid:
        raise HubError(400, f"these {len(body)} bytes are not the {size} of {oid}")
    repo.objects[oid] = body


TYPED = r"(?P<type>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<type>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
API, REVISION, BRANCH = f"/api/{TYPED}", "(?P<revision>[^/]+)", "(?P<branch>[^/]+)"
OBJECT = rf"/lfs/{TYPED}/(?P<oid>\w+)/(?P<size>\d+)"
ROUTES = [  # methods, path, function, required permission
    ("GET", "/api/whoami-v2", HubServer.whoami, "token"),
    ("POST", "/api/repos/create", HubServer.create_repo, "token"),
    ("DELETE", "/api/repos/delete", HubServer.delete_repo, "token"),
    ("POST", "/api/validate-yaml", HubServer.validate_yaml, "nothing"),
    ("GET", API, HubServer.info, "read"),
    ("GET", f"{API}/revision/{REVISION}", HubServer.info, "read"),
    ("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.+))?", HubServer.tree, "read"),
    ("POST", f"{API}/paths-info/{REVISION}", HubServer.paths_info, "read"),
    ("GET", f"{API}/commits/{REVISION}", HubServer.list_commits, "read"),
    ("GET", f"{API}/auth-check", HubServer.auth_check, "read"),
    ("GET", f"{API}/auth-check/write", HubServer.auth_check, "write"),
    ("GET", f"{API}/refs", HubServer.refs, "read"),
    ("POST", f"{API}/branch/{BRANCH}", HubServer.create_branch, "write"),
    ("DELETE", f"{API}/branch/{BRANCH}", HubServer.delete_branch, "write"),
    ("POST", f"{API}/super-squash/{BRANCH}", HubServer.super_squash, "write"),
    ("PUT", f"{API}/settings", HubServer.settings, "write"),
    ("POST", f"{API}/preupload/{BRANCH}", HubServer.preupload, "write"),
    ("POST", f"{PAGE}.git/info/lfs/objects/batch", HubServer.lfs_batch, "write"),
    ("PUT", rf"{OBJECT}(?:/(?P<part>\d+))?", HubServer.put_object, "nothing"),
    ("POST", f"{OBJECT}/complete", HubServer.complete, "nothing"),
    ("POST", f"{PAGE}.git/info/lfs/verify", HubServer.verify, "write"),
    ("POST", f"{API}/commit/{BRANCH}", HubServer.commit, "write"),
    ("GET HEAD", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", HubServer.resolve, "read"),
]


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # snapshot_download opens several connections at once

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
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
    disable_nagle_algorithm = True  # otherwise each response is delayed by 40 ms

    def serve(self):
        hub, address = self.server.hub, urlsplit(self.path)
        with hub.lock:
            fault = hub.next_fault(self.command, address.path)
        time.sleep(fault.seconds)
        if fault.of == "request":
            self.read_body(fault.after_bytes)
            self.record(address.path, 0)
            return self.close_socket(reset=True)
        body = self.read_body()
        with hub.lock:
            if fault.status:
                content = fault.body or {"error": f"made to fail with {fault.status}"}
                status, headers = fault.status, fault.headers
            else:
                query = parse_qs(address.query)
                request = Request(self.command, address.path, query, self.headers, body)
                status, content, headers = hub.respond(request)
            # Before the response: the test may inspect the record as soon as the client has it.
            self.record(address.path, status)
        if fault.after_bytes != 0:
            self.send(status, content, headers, fault.after_bytes)
        if fault.of == "response":
            self.close_socket(fault.reset)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def record(self, path, status):
        with self.server.hub.lock:
            self.server.hub.requests.append((self.command, path, status))
            self.server.hub.authorizations.append(self.headers.get("Authorization"))

    def read_body(self, limit=None):
        length = int(self.headers.get("Content-Length") or 0)
        length = length if limit is None else min(length, limit)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client closed the connection")
        return body

    def send(self, status, content, headers, limit):
        kind = "text/html" if isinstance(content, str) else "application/json"
        if isinstance(content, bytes):
            kind, body = "application/octet-stream", content
        else:
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value.encode("ascii", "replace").decode())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:limit])

    def close_socket(self, reset):
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def log_message(self, *arguments):
        pass


def environment(server, token, home):
    """Return environment variables for a subprocess with this Hub, a token or None, and a new HF_HOME."""
    others = ("HF_", "HUGGING", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    settings = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return kept | settings | ({"HF_TOKEN": token} if token else {})
