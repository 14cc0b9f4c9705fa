"""A server with Ollama's part of the HTTP API that makes models, as faithful as its documentation and source say.

Source: ollama/ollama, docs/api.md ("Create a Model", "Check if a Blob Exists", "Push a Blob"), server/routes.go.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.local_server import LocalServer, QuietHandler, running


class FakeOllama(LocalServer):
    """blobs: digest -> bytes. models: name -> what it was created from. say: faults that a test plants."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.pushes = 0
        self.say: dict[str, str] = {}


@contextmanager
def fake_ollama() -> Iterator[FakeOllama]:
    with running(FakeOllama()) as server:
        yield server


class _Handler(QuietHandler):
    server: FakeOllama

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self._answer(200, {"version": "0.12.0"})
        else:
            self._answer(404, {"error": "404 page not found"})

    def do_HEAD(self) -> None:
        found = self.path.removeprefix("/api/blobs/") in self.server.blobs
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/blobs/"):
            self._push(self.path.removeprefix("/api/blobs/"), body)
        elif self.path == "/api/create":
            self._create(json.loads(body))
        else:
            self._answer(404, {"error": "404 page not found"})

    def _push(self, digest: str, body: bytes) -> None:
        self.server.pushes += 1
        if "push" in self.server.say:
            self._answer(500, {"error": self.server.say["push"]})
        elif f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            self._answer(400, {"error": f"digest mismatch, expected {digest}"})
        else:
            self.server.blobs[digest] = body
            self._answer(201, None)

    def _create(self, wanted: dict[str, Any]) -> None:
        unknown = set(wanted) - {"model", "files", "template", "system", "license", "parameters", "messages", "stream"}
        if unknown or not re.fullmatch(r"[\w./-]+(:[\w.-]+)?", wanted.get("model", "")):
            self._answer(400, {"error": f"invalid request {sorted(unknown)}"})
        elif not wanted.get("files"):
            self._answer(400, {"error": "neither 'from' or 'files' was specified"})
        elif missing := [digest for digest in wanted["files"].values() if digest not in self.server.blobs]:
            self._answer(400, {"error": f"blob {missing[0]} not found"})
        else:
            self._stream(wanted)

    def _stream(self, wanted: dict[str, Any]) -> None:
        (digest,) = wanted["files"].values()
        lines: list[dict[str, str]] = [{"status": "parsing GGUF"}]
        if "create" in self.server.say:
            lines.append({"error": self.server.say["create"]})
        elif not self.server.blobs[digest].startswith(b"GGUF"):
            lines.append({"error": "invalid file magic"})
        else:
            lines += [{"status": f"using existing layer {digest}"}, {"status": "writing manifest"}]
            lines += [] if "silence" in self.server.say else [{"status": "success"}]
            self.server.models[wanted["model"]] = wanted
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            data = json.dumps(line).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, content: object) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
