"""The Hub server for tests responds to real clients like the Hub, and produces the configured faults.

Run: python -m pytest tests/hub/test_hub_server.py
"""

import base64
import hashlib
import json
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request

import pytest
from hub_server import HubServer, environment

# Code of the client process: `outcome` returns the name and the HTTP status of the exception of a call.
PREAMBLE = """
import json, os
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()

def outcome(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except Exception as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        return [type(error).__name__, status]

"""
CARD = b"---\nlibrary_name: keras\npipeline_tag: audio-classification\ntags: [speech]\n---\n# Card\n"
LARGE = bytes(range(256)) * 4000  # 1 MB


def client(hub, folder, code, token="hf_write"):
    """Run code in a process that uses this Hub; return the JSON in the last line that it prints."""
    process = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env=environment(hub, token, folder / "home"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def request(hub, method, path, body=None, token="hf_write", **headers):
    """Send one request, without retries; return (status, headers, body)."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    headers = headers | ({"Authorization": f"Bearer {token}"} if token else {})
    prepared = urllib.request.Request(hub.endpoint + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(prepared, timeout=10) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def write_folder(folder, **files):
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def commit_lines(*operations, **header):
    header = {"key": "header", "value": {"summary": "by hand", **header}}
    lines = [header, *({"key": key, "value": value} for key, value in operations)]
    return "\n".join(json.dumps(line) for line in lines).encode()


def test_upload_commits_listing_and_download_of_a_model(hub, tmp_path):
    write_folder(tmp_path / "first", README_md=CARD, model_keras=LARGE, runs__a_json=b"{}", old_txt=b"old")
    write_folder(tmp_path / "second", README_md=CARD, model_keras=LARGE, runs__b_json=b"{}")
    result = client(
        hub,
        tmp_path,
        """
        urls = [api.create_repo("me/model", private=True), api.create_repo("me/model", exist_ok=True)]
        first = api.upload_folder(repo_id="me/model", folder_path="first", commit_message="first")
        change = {"commit_message": "second", "delete_patterns": ["*.txt", "runs/*"]}
        api.upload_folder(repo_id="me/model", folder_path="second", **change)
        info = api.model_info("me/model", files_metadata=True)
        tree = {entry.path: entry for entry in api.list_repo_tree("me/model", recursive=True, expand=True)}
        (path,) = api.get_paths_info("me/model", ["model.keras", "nothing"])
        again = api.upload_folder(repo_id="me/model", folder_path="second", commit_message="nothing new")
        snapshot = Path(snapshot_download("me/model", revision=first.oid, allow_patterns=["*.json", "*.txt"]))
        file = Path(hf_hub_download("me/model", "model.keras"))
        print(json.dumps({
            "urls": urls,
            "private": info.private,
            "card": [info.pipeline_tag, info.library_name, info.tags, info.card_data.tags],
            "siblings": {sibling.rfilename: sibling.size for sibling in info.siblings},
            "lfs": [path.lfs.sha256, tree["model.keras"].lfs.sha256, info.siblings[2].lfs.sha256],
            "last": [tree["model.keras"].last_commit.title, tree["runs"].last_commit.title],
            "same": again.oid == info.sha,
            "commits": [commit.title for commit in api.list_repo_commits("me/model")],
            "files": api.list_repo_files("me/model"),
            "snapshot": sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*.*")),
            "file": [file.stat().st_size, file.resolve().name],
        }))
        """,
    )
    sha256 = hashlib.sha256(LARGE).hexdigest()
    assert result == {
        "urls": [f"{hub.endpoint}/me/model"] * 2,
        "private": True,
        "card": ["audio-classification", "keras", ["speech"], ["speech"]],
        "siblings": {path: len(data) for path, data in hub.files("me/model").items()},
        "lfs": [sha256] * 3,
        "last": ["first", "second"],
        "same": True,
        "commits": ["second", "first", "initial commit"],
        "files": [".gitattributes", "README.md", "model.keras", "runs/b.json"],
        "snapshot": ["old.txt", "runs/a.json"],
        "file": [len(LARGE), sha256],
    }
    assert hub.commits("me/model") == [
        ("initial commit", [".gitattributes"]),
        ("first", ["README.md", "model.keras", "old.txt", "runs/a.json"]),
        ("second", ["old.txt", "runs/a.json", "runs/b.json"]),
    ]
    assert hub.files("me/model")["model.keras"] == LARGE
    puts = [each for each in hub.requests if each[0] == "PUT"]
    assert puts == [("PUT", f"/lfs/models/me/model/{sha256}/{len(LARGE)}", 200)], (
        "the second upload finds the file"
    )
    assert set(hub.authorizations) == {"Bearer hf_write", None}


def test_branches_spaces_settings_and_deletion(hub, tmp_path):
    hub.add_repo("me/model", files={"a.json": b"1"})
    result = client(
        hub,
        tmp_path,
        """
        api.create_branch("me/model", branch="try/1")
        api.upload_file(repo_id="me/model", revision="try/1", path_in_repo="a.json", path_or_fileobj=b"2")
        branches = [branch.name for branch in api.list_repo_refs("me/model").branches]
        there = Path(hf_hub_download("me/model", "a.json", revision="try/1")).read_text()
        here = Path(hf_hub_download("me/model", "a.json")).read_text()
        api.delete_branch("me/model", branch="try/1")
        kept = outcome(api.delete_branch, "me/model", branch="main")
        gone = outcome(api.model_info, "me/model", revision="try/1")
        api.super_squash_history("me/model", commit_message="one")
        api.update_repo_settings("me/model", private=True)
        url = api.create_repo("me/demo", repo_type="space", space_sdk="gradio")
        api.upload_file(repo_id="me/demo", repo_type="space", path_in_repo="app.py", path_or_fileobj=b"3")
        app = Path(hf_hub_download("me/demo", "app.py", repo_type="space")).read_text()
        api.create_repo("me/gone")
        api.delete_repo("me/gone")
        print(json.dumps([branches, there, here, gone, kept, url, api.space_info("me/demo").sdk, app]))
        """,
    )
    gone, kept = ["RevisionNotFoundError", 404], ["HfHubHTTPError", 403]
    url = f"{hub.endpoint}/spaces/me/demo"
    assert result == [["main", "try/1"], "2", "1", gone, kept, url, "gradio", "3"]
    assert hub.commits("me/model") == [("one", [".gitattributes", "a.json"])]
    assert hub.is_private("me/model")
    assert hub.files("me/demo", repo_type="space")["app.py"] == b"3"
    assert ("model", "me/gone") not in hub.repos


def test_requests_that_are_refused(hub, tmp_path):
    hub.add_repo("me/mine", files={"a.json": b"{}"})
    hub.add_repo("somebody/private", private=True, files={"a.json": b"{}"})
    hub.add_repo("somebody/public", files={"a.json": b"{}"})
    hub.add_repo("somebody/gated", gated=True, files={"a.json": b"{}"})
    hub.add_token("hf_fine", "me", role="fineGrained", permissions=["repo.content.read"])
    write_folder(tmp_path / "bad", README_md=b"---\ntags: [a\n---\n", model_keras=LARGE)
    result = client(
        hub,
        tmp_path,
        """
        read, fine, nobody, wrong = (HfApi(token=t) for t in ("hf_read", "hf_fine", False, "hf_wrong"))
        upload = {"path_in_repo": "b.json", "path_or_fileobj": b"{}"}
        print(json.dumps({
            "roles": [a.whoami()["auth"]["accessToken"]["role"] for a in (api, read, fine)],
            "names": [a.whoami()["name"] for a in (api, HfApi(token="hf_somebody"))],
            "unknown token": [outcome(wrong.whoami), outcome(wrong.create_repo, "me/new")],
            "no token": outcome(nobody.create_repo, "me/new"),
            "read token": [
                outcome(read.create_repo, "me/new"), outcome(read.upload_file, repo_id="me/mine", **upload)
            ],
            "fine token": outcome(fine.create_repo, "me/new"),
            "foreign": [
                outcome(api.create_repo, "somebody/new"),
                outcome(api.upload_file, repo_id="somebody/public", **upload),
            ],
            "twice": [
                outcome(api.create_repo, "me/mine"),
                [outcome(api.create_branch, "me/mine", branch="a") for _ in range(2)],
            ],
            "not there": [
                outcome(api.model_info, "me/nothing"),
                outcome(api.upload_file, repo_id="me/nothing", **upload),
                outcome(api.upload_file, repo_id="me/mine", revision="nothing", **upload),
                outcome(hf_hub_download, "me/mine", "nothing.json"),
                outcome(api.delete_branch, "me/mine", branch="nothing"),
            ],
            "private": [
                outcome(api.model_info, "somebody/private"),
                outcome(nobody.model_info, "somebody/private"),
                outcome(hf_hub_download, "somebody/private", "a.json"),
                outcome(snapshot_download, "somebody/private"),
                outcome(hf_hub_download, "somebody/private", "a.json", token="hf_somebody"),
            ],
            "gated": [
                outcome(api.model_info, "somebody/gated"),
                outcome(hf_hub_download, "somebody/gated", "a.json"),
            ],
            "behind": outcome(api.upload_file, repo_id="me/mine", parent_commit="0" * 40, **upload),
            "card": outcome(api.upload_folder, repo_id="me/mine", folder_path="bad"),
        }))
        """,
    )
    refused, missing = ["HfHubHTTPError", 403], ["RepositoryNotFoundError", 404]
    assert result == {
        "roles": ["write", "read", "fineGrained"],
        "names": ["me", "somebody"],
        "unknown token": [["HfHubHTTPError", 401]] * 2,
        "no token": ["HfHubHTTPError", 401],
        "read token": [refused] * 2,
        "fine token": refused,
        "foreign": [refused] * 2,
        "twice": [["HfHubHTTPError", 409], [None, ["HfHubHTTPError", 409]]],
        "not there": [
            missing,
            missing,
            ["RevisionNotFoundError", 404],
            ["RemoteEntryNotFoundError", 404],
            ["RevisionNotFoundError", 404],
        ],
        "private": [missing, ["RepositoryNotFoundError", 401], missing, missing, None],
        "gated": [None, ["GatedRepoError", 403]],
        "behind": ["HfHubHTTPError", 412],
        "card": ["ValueError", None],
    }
    assert sorted(repo_id for _, repo_id in hub.repos) == [
        "me/mine",
        "somebody/gated",
        "somebody/private",
        "somebody/public",
    ]
    assert hub.commits("me/mine")[2:] == hub.commits("somebody/public")[2:] == []


def test_clients_retry_after_temporary_faults(hub, tmp_path):
    hub.add_repo("me/model")
    write_folder(tmp_path / "up", model_safetensors=LARGE, config_json=b"{}")
    hub.fail("POST", "/preupload/", 500)
    hub.fail("PUT", "^/lfs/", 429, headers={"Retry-After": "0"})
    hub.cut("PUT", "^/lfs/", after_bytes=500_000)
    hub.fail("POST", "/commit/", 503, body="<html>busy</html>")
    hub.cut("POST", "/commit/", after_bytes=10)
    hub.cut("POST", "/commit/", of="response")
    hub.delay("POST", "/commit/", seconds=0.1)
    hub.fail("POST", "nowhere")
    result = client(
        hub,
        tmp_path,
        """
        upload = {"repo_id": "me/model", "folder_path": "up"}
        print(json.dumps([outcome(api.upload_folder, **upload) for _ in range(4)]))
        """,
    )
    assert result == [["HfHubHTTPError", 503], ["ReadError", None], ["RemoteProtocolError", None], None]
    statuses = {"POST": [], "PUT": []}
    for method, path, status in hub.requests:
        if method in statuses and ("/lfs/models" in path or "/commit/" in path or "/preupload/" in path):
            statuses[method].append(status)
    assert statuses["PUT"] == [429, 0, 200], "a file that has arrived is not sent again"
    # The third commit was processed although its response was lost, so the fourth is empty and not sent.
    assert statuses["POST"] == [500, 200, 503, 200, 0, 200, 200, 200]
    assert [message for message, _ in hub.commits("me/model")][1:] == ["Upload folder using huggingface_hub"]
    assert hub.faults_left == 2, "no commit was left to delay, and no request matched the last fault"


def test_large_files_are_uploaded_in_parts(tmp_path):
    with HubServer(multipart_above=500_000, part_bytes=400_000) as hub:
        hub.add_token("hf_write", "me")
        hub.add_repo("me/model", private=True)
        write_folder(tmp_path / "up", model_safetensors=LARGE, small_safetensors=b"small")
        hub.cut("PUT", "/2$", after_bytes=100_000)
        assert (
            client(hub, tmp_path, 'api.upload_folder(repo_id="me/model", folder_path="up"); print("{}")')
            == {}
        )
        assert hub.files("me/model")["model.safetensors"] == LARGE
        base = f"/lfs/models/me/model/{hashlib.sha256(LARGE).hexdigest()}/{len(LARGE)}"
        large = [each for each in hub.requests if each[1].startswith(base)]
        parts = [("PUT", f"{base}/1", 200), ("PUT", f"{base}/2", 0), ("PUT", f"{base}/2", 200)]
        assert large == [*parts, ("PUT", f"{base}/3", 200), ("POST", f"{base}/complete", 200)]
        assert hub.faults_left == 0 and not hub.errors


def test_a_cut_download_is_continued(hub, tmp_path):
    # The client stores a download in steps of 10 MB.
    data = LARGE * 12
    hub.add_repo("me/model", files={"model.keras": data})
    hub.cut("GET", "/resolve/", after_bytes=11_000_000)
    (digest,) = client(
        hub,
        tmp_path,
        'import hashlib; path = Path(hf_hub_download("me/model", "model.keras"))\n'
        "print(json.dumps([hashlib.sha256(path.read_bytes()).hexdigest()]))",
    )
    assert digest == hashlib.sha256(data).hexdigest()
    assert [status for method, _, status in hub.requests if method == "GET"] == [200, 206]


def test_headers_of_a_file_and_range_requests(hub):
    hub.add_repo("me/model", files={"a.json": b"0123456789", "model.pt": LARGE})
    status, headers, body = request(hub, "HEAD", "/me/model/resolve/main/model.pt")
    assert (status, headers["Content-Length"], body) == (200, str(len(LARGE)), b"")
    assert headers["X-Linked-Size"] == str(len(LARGE))
    assert headers["X-Linked-Etag"] == headers["ETag"] == f'"{hashlib.sha256(LARGE).hexdigest()}"'
    path = "/me/model/resolve/main/a.json"
    assert (
        request(hub, "HEAD", path)[1]["ETag"] == f'"{hashlib.sha1(b"blob 10%c0123456789" % 0).hexdigest()}"'
    )
    assert request(hub, "GET", path, Range="bytes=3-5")[::2] == (206, b"345")
    status, headers, body = request(hub, "GET", path, Range="bytes=7-")
    assert (status, headers["Content-Range"], body) == (206, "bytes 7-9/10", b"789")
    assert request(hub, "GET", path, Range="bytes=10-")[0] == 416


def test_only_completely_uploaded_files_can_be_committed(hub):
    hub.add_repo("me/model")
    oid = hashlib.sha256(LARGE).hexdigest()
    address = f"/lfs/models/me/model/{oid}/{len(LARGE)}"
    pointer = {"path": "model.keras", "oid": oid, "size": len(LARGE), "algo": "sha256"}
    file = {"path": "config.json", "content": "e30=", "encoding": "base64"}
    lines = commit_lines(("file", file), ("lfsFile", pointer))
    for body in (LARGE[:-1], bytes(len(LARGE))):
        assert request(hub, "PUT", address, body, token=None)[0] == 400
        assert (
            request(hub, "POST", "/me/model.git/info/lfs/verify", {"oid": oid, "size": len(LARGE)})[0] == 404
        )
        assert request(hub, "POST", "/api/models/me/model/commit/main", lines)[0] == 400
        assert list(hub.files("me/model")) == [".gitattributes"], "a commit is atomic"
    assert request(hub, "PUT", address, LARGE, token=None)[0] == 200
    assert request(hub, "POST", "/api/models/me/model/commit/main", lines)[0] == 200
    card = {"path": "README.md", "content": base64.b64encode(b"---\ntags: speech\n---\n").decode()}
    assert request(hub, "POST", "/api/models/me/model/commit/main", commit_lines(("file", card)))[0] == 400
    sha = hub.repos["model", "me/model"].branches["main"]
    assert request(hub, "POST", f"/api/models/me/model/commit/{sha}", lines)[0] == 404, "not a branch"
    gone = commit_lines(("deletedFile", {"path": "config.json"}), ("deletedFolder", {"path": "none/"}))
    assert request(hub, "POST", "/api/models/me/model/commit/main", gone)[0] == 404
    assert hub.files("me/model")["config.json"] == b"{}"


def test_preupload_returns_the_upload_mode_and_ignored_files(hub):
    hub.add_repo("me/model", files={"a.json": b"{}"})
    sizes = {"a.json": 2, "b.json": 10_000_001, "model.pt": 3, "runs/x.log": 3, "notes.txt": 3}
    files = [{"path": path, "size": size, "sample": ""} for path, size in sizes.items()]
    body = {"files": files, "gitIgnore": "# logs\n\n*.log\nnotes.txt\n"}
    _, _, response = request(hub, "POST", "/api/models/me/model/preupload/main", body)
    by_path = {file["path"]: file for file in json.loads(response)["files"]}
    assert {path for path in sizes if by_path[path]["uploadMode"] == "lfs"} == {"b.json", "model.pt"}
    assert {path for path in sizes if by_path[path]["shouldIgnore"]} == {"runs/x.log", "notes.txt"}
    blob = hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert [by_path[path]["oid"] for path in ("a.json", "notes.txt")] == [blob, None]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\ntags: speech\n---\n", '"tags" must be a list'),
        ("---\n- speech\n---\n", "YAML metadata must be an object"),
        ("---\na: !!python/object:os.system {}\n---\n", "could not determine a constructor"),
        ("---\nmodel-index: [{results: [{task: {type: a}, dataset: {type: a}}]}]\n---\n", "dataset.name"),
        ("---\nmodel-index: [{results: [{metrics: [{type: a}]}]}]\n---\n", "metrics.value"),
    ],
)
def test_invalid_metadata_of_a_card_is_refused(hub, card, message):
    body = {"content": card, "repoType": "model"}
    status, _, response = request(hub, "POST", "/api/validate-yaml", body)
    assert status == 400
    assert any(message in error["message"] for error in json.loads(response)["errors"])


def test_faults_apply_to_matching_requests_in_order(hub):
    hub.add_repo("me/model")
    path = "/api/models/me/model"
    hub.fail("GET", "model$", 500)
    hub.fail("GET", "model$", 503, times=2, headers={"Retry-After": "7"}, body={"error": "later"})
    hub.fail("PUT|POST", "model$", 418)
    responses = [request(hub, "GET", path) for _ in range(4)]
    assert [status for status, _, _ in responses] == [500, 503, 503, 200]
    assert (responses[1][1]["Retry-After"], responses[1][2]) == ("7", b'{"error": "later"}')
    assert hub.faults_left == 1
    assert request(hub, "GET", f"{path}/refs")[0] == 200
    assert request(hub, "POST", path)[0] == 418
    assert hub.faults_left == 0
    hub.delay("GET", "model$", seconds=2)
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{hub.endpoint}{path}", timeout=0.1)


def test_a_request_whose_response_is_cut_has_been_processed(hub):
    body = {"name": "new", "visibility": "private"}
    for after_bytes in (3, 1000):
        hub.cut("POST", "create", after_bytes=after_bytes)
        with pytest.raises(ConnectionResetError):
            request(hub, "POST", "/api/repos/create", body)
        assert not hub.repos
    hub.cut("POST", "create", of="response")
    with pytest.raises(ConnectionError):
        request(hub, "POST", "/api/repos/create", body)
    assert hub.is_private("me/new")
    hub.cut("GET", "new$", after_bytes=5, reset=True)
    with pytest.raises(ConnectionResetError):
        request(hub, "GET", "/api/models/me/new")


def test_an_incomplete_request_has_no_effect(hub):
    hub.add_repo("me/model")
    with socket.create_connection(("127.0.0.1", hub.http.server_port), timeout=10) as connection:
        start = "POST /api/models/me/model/branch/new HTTP/1.1\r\nAuthorization: Bearer hf_write\r\n"
        connection.sendall(f"{start}Content-Length: 50\r\n\r\n{{}}".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert list(hub.repos["model", "me/model"].branches) == ["main"]


def test_the_environment_of_a_client_has_no_login_of_the_user(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    variables = environment(hub, None, tmp_path)
    assert "HF_TOKEN" not in variables and "TRANSFORMERS_OFFLINE" not in variables
    assert (variables["HF_HOME"], variables["HF_HUB_OFFLINE"]) == (str(tmp_path), "0")
