"""load_base against a small server that speaks the hub's protocol: download, pin, refuse, and do without it later."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local_server import LocalServer, QuietHandler, running
from tunesmith.model.source import compute_fingerprint

COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"
SCRIPT = """
import json, sys, time, urllib.request
from tunesmith.errors import ResourceError
from tunesmith.model import load_base

def attempt(path, revision=None):
    started = time.monotonic()
    try:
        loaded = load_base(path, revision=revision, dtype="float32")
        found = {"path": loaded.path, "revision": loaded.revision, "norm": loaded.model.lm_head.weight.norm().item()}
    except ResourceError as error:
        found = {"error": str(error)}
    return {**found, "seconds": time.monotonic() - started}

report = {"online": attempt("org/tiny"), "branch": attempt("org/tiny", "main"), "gated": attempt("org/gated"),
          "unknown": attempt("org/typo"), "no_revision": attempt("org/tiny", "v9"), "pickle": attempt("org/pickle")}
urllib.request.urlopen(sys.argv[1] + "/stop").read()
report |= {"cached": attempt("org/tiny"), "not_cached": attempt("org/other")}
print(json.dumps(report))
"""


class FakeHub(LocalServer):
    """Serves one folder as org/tiny, refuses org/gated, and has org/pickle without safetensors."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Handler)
        self.folder = folder
        self.requests: list[str] = []


class Handler(QuietHandler):
    server: FakeHub
    protocol_version = "HTTP/1.0"  # a kept connection would go on answering after /stop

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["stop"]:
            threading.Thread(target=self.close_server).start()
            self.answer(200, b"{}")
        elif parts[:2] == ["api", "models"]:
            self.answer_info("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self.answer_file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def close_server(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer_info(self, repo: str, rest: list[str]) -> None:
        if repo not in ("org/tiny", "org/gated", "org/pickle"):
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if rest and rest[0] != "revision":
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        names = sorted(path.name for path in self.server.folder.iterdir())
        if repo == "org/pickle":
            names = ["config.json", "pytorch_model.bin", "tokenizer.json"]
        info = {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
        self.answer(200, json.dumps({**info, "siblings": [{"rfilename": name} for name in names]}).encode())
        return None

    def answer_file(self, repo: str, name: str) -> None:
        if repo == "org/gated":
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        path = self.server.folder / name
        if not path.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        body = path.read_bytes()
        etag = hashlib.sha256(body).hexdigest()
        self.answer(200, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})
        return None

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tiny_model_dir: Callable[[str], Path]) -> Iterator[FakeHub]:
    with running(FakeHub(tiny_model_dir("llama"))) as server:
        yield server


@pytest.mark.slow
def test_a_hub_model_from_first_download_to_no_network(hub: FakeHub, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, hub.url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report: dict[str, dict[str, Any]] = json.loads(done.stdout)

    online = report["online"]
    assert (online["path"], online["revision"]) == ("org/tiny", COMMIT)
    assert report["branch"]["norm"] == report["cached"]["norm"] == online["norm"]
    assert report["cached"]["revision"] == COMMIT
    assert compute_fingerprint(hub.folder) != COMMIT
    assert "is gated" in report["gated"]["error"]
    assert "neither a folder nor a public hub model" in report["unknown"]["error"]
    assert "no revision 'v9'" in report["no_revision"]["error"]
    assert "only safetensors" in report["pickle"]["error"]
    assert "the hub cannot be reached" in report["not_cached"]["error"]
    assert report["not_cached"]["seconds"] < 10  # the library's own retries take 23 seconds
    by_name = {request for request in hub.requests if "/org/tiny/resolve/main/" in request}
    assert {request.rpartition("/")[2] for request in by_name} == {"config.json"}  # the rest comes by commit
    assert not any("pytorch_model.bin" in request or "Pull" in request for request in hub.requests)
