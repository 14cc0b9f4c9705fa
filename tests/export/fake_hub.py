"""A server with the Hub's part of the HTTP API that takes uploads, for the real client of huggingface_hub.

Source: huggingface_hub 2.4, hf_api.py (create_repo, repo_info, list_repo_files), _commit_api.py (preupload, commit) and
lfs.py (LFS batch, transfer basic): what that client sends, and what it needs to hear.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.local_server import LocalServer, QuietHandler, running

TOKEN = "hf_" + "w" * 34
LARGE = (".safetensors", ".gguf", "tokenizer.json")


class FakeHub(LocalServer):
    """repos: id -> {"private", "files"}. log: what was asked. say: path's beginning -> status that a test plants."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.repos: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.log: list[str] = []
        self.say: dict[str, int] = {}
        self.owners = {"ada"}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    with running(FakeHub()) as server:
        yield server


class _Handler(QuietHandler):
    server: FakeHub

    def do_GET(self) -> None:
        path = self._asked(b"")
        if path is None:
            return
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            repo = self.server.repos.get(found[1])
            if repo is None:
                self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                return
            files = [{"rfilename": name} for name in repo["files"]]
            self._answer(200, {"id": found[1], "private": repo["private"], "siblings": files, "sha": "0" * 40})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/main", path):
            files = self.server.repos[found[1]]["files"]
            tree = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
            self._answer(200, tree)
        else:
            self._answer(404, {"error": "Not found"})

    def do_PUT(self) -> None:
        content = self._body()
        if (path := self._asked(content, needs_token=False)) is None:
            return
        digest = path.removeprefix("/store/")
        if hashlib.sha256(content).hexdigest() != digest:
            self._answer(400, {"error": "another digest"})
            return
        self.server.stored[digest] = content
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        path = self._asked(body)
        if path is None:
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._answer(200, {"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": "Not found"})

    def _create(self, body: dict[str, Any]) -> None:
        owner = body["organization"] or "ada"
        repo = f"{owner}/{body['name']}"
        if owner not in self.server.owners:
            self._answer(403, {"error": f'You don\'t have the rights to create a model under the namespace "{owner}"'})
        elif repo in self.server.repos:
            error = {"error": "You already created this model repo", "url": f"{self.server.url}/{repo}"}
            self._answer(409, error)
        else:
            self.server.repos[repo] = {"private": body.get("visibility") == "private", "files": {".gitattributes": b""}}
            self._answer(200, {"url": f"{self.server.url}/{repo}"})

    def _batch(self, body: dict[str, Any]) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.server.url}/store/{wanted['oid']}", "header": {}}}}
            for wanted in body["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repos[repo]["files"]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]  # what was not sent cannot be committed
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = {"commitUrl": f"{self.server.url}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40}
        self._answer(200, {**commit, "pullRequestUrl": None})

    def _asked(self, body: bytes, *, needs_token: bool = True) -> str | None:
        """The path, or None when the answer was given: what a test planted, or a token that is not known."""
        path = urlsplit(self.path).path
        self.server.log.append(f"{self.command} {path}")
        for beginning, status in self.server.say.items():
            if path.startswith(beginning):
                self._answer(status, {"error": "planted"})
                return None
        if needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
            return None
        return path

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
