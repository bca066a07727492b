"""A stand-in for the Hub: the part of its HTTP interface that huggingface_hub uses to download models.

    /api/models/OWNER/NAME[/revision/REV]      the commit and the files of a revision
    /OWNER/NAME/resolve/REV/FILE               a file, with ETag, X-Repo-Commit, Content-Length and ranges

Errors have the status and the `X-Error-Code` of huggingface.co.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def commit_of(files: dict[str, bytes]) -> str:
    """A commit's id, which depends on its files."""
    digest = hashlib.sha1()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name])
    return digest.hexdigest()


@dataclass
class Repository:
    """The files of each branch or tag; `access` may be "open", "gated" or "private"."""

    revisions: dict[str, dict[str, bytes]]
    access: str = "open"

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a branch, a tag or a commit."""
        for name, files in self.revisions.items():
            if revision in (name, commit_of(files)):
                return commit_of(files), files
        return None


@dataclass
class Hub:
    """What the server has, what it was asked, and how it fails."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, and the header Range."""
    cut: dict[str, int] = field(default_factory=dict)
    """File -> after how many bytes its next download breaks off."""
    status: int | None = None
    """Answer everything with this status."""
    endpoint: str = ""

    def add(self, name: str, files: dict[str, bytes], **more) -> str:
        """A repository with one branch, `main`; returns its commit."""
        self.repositories[name] = Repository({"main": files}, **more)
        return commit_of(files)

    def downloaded(self) -> list[str]:
        """The files of which bytes were sent, in order."""
        return [path.split("/resolve/")[1].partition("/")[2] for method, path, _ in self.requests if method == "GET" and
                "/resolve/" in path]  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def fail(self, status: int, code: str = "", message: str = ""):
        body = json.dumps({"error": message}).encode()
        self.send(status, body, {"X-Error-Code": code, "X-Error-Message": message})

    def send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def answer(self):
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.status is not None:
            return self.fail(self.hub.status)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        repository = self.hub.repositories.get(found[1]) if found else None
        if repository is None or repository.access == "private":
            return self.fail(401, "RepoNotFound", "Repository not found")
        revision = repository.at(found[2] or "main")
        if revision is None:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        commit, files = revision
        if api:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in sorted(files.items())]
            body = json.dumps({"id": found[1], "modelId": found[1], "sha": commit, "siblings": siblings}).encode()
            return self.send(200, body, {"Content-Type": "application/json"})
        if repository.access == "gated" and self.headers.get("Authorization") != "Bearer accepted":
            return self.fail(401, "GatedRepo", "Access to this model is restricted")
        if file[3] not in files:
            return self.fail(404, "EntryNotFound", "Entry not found")
        self.send_file(files[file[3]], file[3], commit)

    def send_file(self, data: bytes, name: str, commit: str):
        etag = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")) is None:
            cut = self.hub.cut.pop(name, None) if self.command == "GET" else None
            return self.send(200, data, headers, cut)
        start = int(asked[1])
        if start >= len(data):
            return self.send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(206, data[start:], headers)


@contextmanager
def serving() -> Iterator[Hub]:
    """A running server on this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
