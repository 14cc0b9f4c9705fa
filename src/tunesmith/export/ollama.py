"""A running Ollama: gives it a file and has it make a model of it, over its HTTP API.

Source of the protocol: ollama/ollama, docs/api.md ("Create a Model", "Push a Blob") and server/create.go. Knows nothing
of runs. Only the standard library is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunesmith.config import ollama_url
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export.modelfile import Modelfile
from tunesmith.types import Progress

TIMEOUT_SECONDS = 600.0
_CHUNK = 2**20
_SAID_CHARACTERS = 500
_NO_SPACE = ("no space left", "disk quota", "not enough space", "enough space on the disk")
_Body = bytes | Iterator[bytes] | None


class Ollama:
    """One server. host: as `ollama_url` reads it.

    Raises:
        SettingsError: host is no URL.
    """

    def __init__(self, host: str | None = None) -> None:
        self.url = ollama_url(host)
        try:
            parts = urlsplit(self.url)
            self._host, self._port, self._scheme = parts.hostname, parts.port, parts.scheme
        except ValueError:
            self._host = None
        if not self._host or self._scheme not in ("http", "https"):
            raise SettingsError(f"{host or self.url!r} is no address of an Ollama", fix="--host http://127.0.0.1:11434")
        self._base = parts.path

    def version(self) -> str:
        """Which Ollama answers.

        Raises:
            ResourceError: none does.
        """
        with self._open("GET", "/api/version") as response:
            return "".join(str(line.get("version", "")) for line in self._lines(response))

    def create(self, model: str, path: Path, modelfile: Modelfile, *, on_progress: Progress) -> None:
        """Push a GGUF file, if the server has it not yet, and make a model of it; one of that name is replaced.

        Raises:
            ResourceError: the server cannot be reached, refuses, or has no room.
        """
        size = path.stat().st_size
        digest = self._digest(path, lambda done: on_progress(f"reading {path.name}", done, size))
        if not self._has(digest):
            self._push(path, digest, size, lambda done: on_progress(f"sending {path.name}", done, size))
        on_progress(f"Ollama makes {model}", 0, 1)
        body = json.dumps(modelfile.request(model, {path.name: digest})).encode()
        succeeded = False
        with self._open("POST", "/api/create", body) as response:
            for line in self._lines(response):
                if "error" in line:
                    raise self._refusal(str(line["error"]))
                succeeded = succeeded or line.get("status") == "success"
        if not succeeded:
            raise self._unavailable("ended before it said that the model is made")
        on_progress(f"Ollama makes {model}", 1, 1)

    def _digest(self, path: Path, on_bytes: Callable[[int], None]) -> str:
        found = hashlib.sha256()
        done = 0
        for chunk in _chunks(path):
            found.update(chunk)
            done += len(chunk)
            on_bytes(done)
        return f"sha256:{found.hexdigest()}"

    def _has(self, digest: str) -> bool:
        with self._open("HEAD", f"/api/blobs/{digest}") as response:
            return response.status == 200

    def _push(self, path: Path, digest: str, size: int, on_bytes: Callable[[int], None]) -> None:
        def told() -> Iterator[bytes]:
            done = 0
            for chunk in _chunks(path):
                yield chunk
                done += len(chunk)
                on_bytes(done)

        with self._open("POST", f"/api/blobs/{digest}", told(), {"Content-Length": str(size)}):
            return

    @contextmanager
    def _open(
        self, method: str, place: str, body: _Body = None, headers: dict[str, str] | None = None
    ) -> Iterator[HTTPResponse]:
        kind = HTTPSConnection if self._scheme == "https" else HTTPConnection
        connection = kind(str(self._host), self._port, timeout=TIMEOUT_SECONDS)
        try:
            try:
                # a server that refuses a file answers before it has read it all, and hangs up
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, self._base + place, body, headers or {})
                response = connection.getresponse()
            except TimeoutError as error:
                raise self._unavailable(f"did not answer within {TIMEOUT_SECONDS:g} s", error) from error
            except (OSError, HTTPException) as error:
                raise self._unavailable("cannot be reached", error) from error
            if response.status >= 400 and method != "HEAD":
                raise self._refusal(_error_of(_said(response)) or f"status {response.status}")
            yield response
        finally:
            connection.close()

    def _lines(self, response: HTTPResponse) -> Iterator[dict[str, Any]]:
        try:
            for line in response:
                if line.strip():
                    yield json.loads(line)
        except TimeoutError as error:
            raise self._unavailable(f"said nothing for {TIMEOUT_SECONDS:g} s", error) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._unavailable("broke off its answer", error) from error

    def _refusal(self, said: str) -> ResourceError:
        if any(words in said.lower() for words in _NO_SPACE):
            fix = "make room where Ollama keeps its models (OLLAMA_MODELS), or export a smaller type; then export again"
            return ResourceError(f"the disk of Ollama at {self.url} is full", cause=said, fix=fix)
        return ResourceError(
            f"Ollama at {self.url} refused",
            cause=said,
            fix="its log says more; an older Ollama may not know the architecture: update it. The export itself is "
            "complete: `ollama create NAME` in its folder does the same",
        )

    def _unavailable(self, what: str, error: Exception | None = None) -> ResourceError:
        return ResourceError(
            f"Ollama at {self.url} {what}",
            cause=None if error is None else " ".join(str(error).split()),
            fix="start it with `ollama serve`, or give its address with --host; "
            "`ollama create NAME` in the folder of the export does the same",
        )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _said(response: HTTPResponse) -> str:
    """What a server says of its refusal; nothing of one that hangs up before it has said it."""
    with suppress(OSError, HTTPException):
        return response.read(_SAID_CHARACTERS).decode(errors="replace")
    return ""


def _error_of(said: str) -> str:
    try:
        return str(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        return said.strip()
