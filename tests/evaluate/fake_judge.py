"""An OpenAI-compatible server whose model judges: replies come from a function of what it is asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.local_server import LocalServer, QuietHandler, running


class FakeJudge:
    """`asked`: every request. `reply`: prompt -> text; an int is a status to refuse with, None a connection that ends.

    `refuse_from`: requests from this number on are refused with 503.
    `refuses`: names of settings that it refuses as OpenAI's reasoning models do.
    `most_at_once`: requests it has worked on at a time.
    """

    def __init__(self, reply: Callable[[str], str | int | None]) -> None:
        self.reply = reply
        self.asked: list[dict[str, Any]] = []
        self.refuse_from: int | None = None
        self.refuses: tuple[str, ...] = ()
        self.address = ""
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    def answer(self, request: dict[str, Any]) -> str | int | None:
        with self._lock:
            self.asked.append(request)
            if self.refuse_from is not None and len(self.asked) >= self.refuse_from:
                return 503
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.reply(request["messages"][-1]["content"])
        finally:
            with self._lock:
                self._now -= 1


def between(text: str, tag: str) -> str:
    """What a prompt has between two tags."""
    found = re.search(rf"<{tag}>\n(.*?)\n</{tag}>", text, re.DOTALL)
    assert found, f"no {tag} in {text}"
    return found[1]


@contextmanager
def serving(judge: FakeJudge) -> Iterator[FakeJudge]:
    """Serve on a free port of this machine; `judge.address` is what --eval.judge takes."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if refused := [name for name in judge.refuses if name in request]:
                self._say(400, {"error": {"message": f"Unsupported value: '{refused[0]}' does not support it."}})
                return
            said = judge.answer(request)
            if said is None:
                self.close_connection = True
                return
            self._say(*((said, {"error": "busy"}) if isinstance(said, int) else (200, _completion(said))))

        def _say(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with running(LocalServer(Handler)) as server:
        judge.address = f"{server.url}/v1#owl"
        yield judge


def _completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": {"completion_tokens": 5}}
