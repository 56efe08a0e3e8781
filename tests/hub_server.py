"""A server on 127.0.0.1 that speaks the protocol of the Hugging Face Hub, as far as its client uses it here.

Repositories, preupload, LFS, commits, trees and files. It keeps everything in memory, counts what it is sent, and fails
where a test asks it to.
"""

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class Hub:
    """What the server holds, and what it was asked."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        """Of each repository the files after each commit, the empty one first."""
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        """Files of LFS by their SHA-256."""
        self.asked: Counter[str] = Counter()
        """How often each kind of request came."""
        self.puts: Counter[str] = Counter()
        self.fault: Callable[[str, str], int | None] = lambda _method, _path: None
        """Returns the status with which a request is refused, 0 for a connection that is cut, None for none."""
        self.address = ""

    def files(self, repo: str) -> dict[str, bytes]:
        return self.commits[repo][-1]

    def sha(self, repo: str, number: int = -1) -> str:
        return hashlib.sha1(f"{repo} {number % len(self.commits[repo])}".encode()).hexdigest()

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        for number, files in enumerate(self.commits[repo]):
            if self.sha(repo, number) == revision:
                return revision, files
        return self.sha(repo), self.files(repo)


def git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".parquet", ".png"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - http.server's names

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refused = self.hub.fault(self.command, path)
        if refused == 0:
            self.close_connection = True
            self.connection.close()
            return
        if refused is not None:
            self._send(refused, {"error": "as asked by the test"})
            return
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:], body)
        elif parts[0] == "lfs":
            self._lfs(parts[1:], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(404, {"error": path})

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        self.hub.asked["create"] += 1
        url = {"url": f"{self.hub.address}/{repo}", "name": repo}
        if repo in self.hub.commits:
            self._send(409, {"error": "You already created this model repo", **url})
            return
        self.hub.commits[repo] = [{}]
        self.hub.private[repo] = asked.get("private") is True or asked.get("visibility") == "private"
        self._send(200, url)

    def _api(self, repo: str, rest: list[str], body: bytes) -> None:
        if repo not in self.hub.commits:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        kind, revision = [*rest, "", "main"][:2]
        sha, files = self.hub.at(repo, revision or "main")
        self.hub.asked[kind or "info"] += 1
        if kind == "preupload":
            found = []
            for each in json.loads(body)["files"]:
                name, content = each["path"], files.get(each["path"])
                oid = None
                if content is not None:
                    oid = hashlib.sha256(content).hexdigest() if is_lfs(name) else git_sha(content)
                mode = "lfs" if is_lfs(name) else "regular"
                found.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": found})
        elif kind == "commit":
            self._commit(repo, body)
        elif kind == "tree":
            self._send(200, [_entry(name, content) for name, content in sorted(files.items())])
        else:
            siblings = [{"rfilename": name} for name in sorted(files)]
            private = self.hub.private[repo]
            self._send(200, {"_id": "1", "id": repo, "sha": sha, "private": private, "tags": [], "siblings": siblings})

    def _commit(self, repo: str, body: bytes) -> None:
        files = dict(self.hub.files(repo))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.commits[repo].append(files)
        sha = self.hub.sha(repo)
        url = f"{self.hub.address}/{repo}/commit/{sha}"
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            oid = each["oid"]
            urls = {"upload": {"href": f"{self.hub.address}/lfs/{oid}"}}
            objects.append({**each, **({} if oid in self.hub.blobs else {"actions": urls})})
        self._send(200, {"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def _lfs(self, rest: list[str], body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == rest[0]
        self.hub.blobs[rest[0]] = body
        self.hub.puts[rest[0]] += 1
        self._send(200, {})

    def _file(self, repo: str, revision: str, name: str) -> None:
        if repo not in self.hub.commits:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        sha, files = self.hub.at(repo, revision)
        if name not in files:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            return
        self.hub.asked["get" if self.command == "GET" else "head"] += 1
        headers = {"ETag": f'"{git_sha(files[name])}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        self._send(200, files[name], headers, kind="application/octet-stream")

    def _send(
        self, status: int, content: Any, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {}), "Content-Length": str(len(raw))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": git_sha(content), "size": len(content), "path": name}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that is served while this is open, at `hub.address`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def point_to(hub: Hub, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub of this process use the server, with an empty cache, LFS instead of Xet, and no waiting."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(_http.time, "sleep", lambda _seconds: None)
