"""The page and its four requests. Answers only who has the key, and never says which model wrote what.

GET  /                   the page (key in the address: /?key=...)
GET  /api/rating         how answers are rated here
GET  /api/next           the next task of a rater, and progress
GET  /api/tasks/{id}     a task once more, with this rater's vote
POST /api/votes          a vote; answered when it is on disk
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import resources
from json import dumps
from typing import Any
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import DataError, TunesmithError
from tunesmith.optional import need
from tunesmith.rating.results import next_task, progress, vote_of
from tunesmith.rating.session import Session
from tunesmith.rating.votes import CHOICES, SCORES, Vote

KEY_HEADER = "x-rating-key"
_NONCE = "__NONCE__"
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the key
    "X-Content-Type-Options": "nosniff",
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class NewVote(BaseModel):
    """A vote as the page sends it."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    task: str = Field(max_length=100)
    rater: str = Field(min_length=1, max_length=100)
    choice: str | None = None
    scores: dict[str, int] = Field(default_factory=dict)
    comment: str = Field(default="", max_length=5000)
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Guard:
    """Lets through who asks this address by its own name, from no other site, with the key. Wraps an ASGI app.

    The host is checked because a foreign site can point a name of its own at 127.0.0.1 (DNS rebinding). The page itself
    takes the key from its address, everything else from a header, which no form and no link can send.
    """

    def __init__(self, app: Any, *, key: str, port: int) -> None:
        self.app = app
        self.key = key.encode()
        self.hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if host not in self.hosts:
            await _refuse(send, 421, "this server answers at 127.0.0.1 only")
        elif origin is not None and origin != b"http://" + host:
            await _refuse(send, 403, "requests from other sites are refused")
        elif not secrets.compare_digest(self._given(scope, headers), self.key):
            await _refuse(send, 403, "the key is missing or wrong: open the address that tunesmith rate printed last")
        else:
            await self.app(scope, receive, send)

    def _given(self, scope: _Scope, headers: dict[bytes, bytes]) -> bytes:
        if scope["path"] == "/":
            query: bytes = scope["query_string"]
            return parse_qs(query).get(b"key", [b""])[0]
        return headers.get(KEY_HEADER.encode(), b"")


def create_app(session: Session, *, key: str, port: int) -> Guard:
    """The web application of one rating.

    Args:
        key: what requests must know.
        port: at which it is served.

    Raises:
        ResourceError: FastAPI is not installed.
    """
    fastapi = need("fastapi", extra="rate")
    exceptions = need("fastapi.exceptions", extra="rate")
    page = resources.files("tunesmith.rating").joinpath("page.html").read_text(encoding="utf-8")
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def json(content: object, status: int = 200) -> Any:
        # in ASCII: an answer may hold half a surrogate pair, which UTF-8 cannot say
        return fastapi.responses.Response(dumps(content), status, _HEADERS, "application/json")

    @app.get("/")  # type: ignore[untyped-decorator]
    def show_page() -> Any:
        nonce = secrets.token_urlsafe(16)
        headers = {**_HEADERS, "Content-Security-Policy": _PAGE_POLICY.format(nonce=nonce)}
        return fastapi.responses.HTMLResponse(page.replace(_NONCE, nonce), headers=headers)

    @app.get("/api/rating")  # type: ignore[untyped-decorator]
    def rating() -> Any:
        return json({"criteria": list(session.criteria), "tasks": len(session.tasks)})

    @app.get("/api/next")  # type: ignore[untyped-decorator]
    def following(rater: str) -> Any:
        task = next_task(session, rater.strip())
        shown = None if task is None else session.shown(task)
        return json({"task": shown, "progress": progress(session, rater.strip())})

    @app.get("/api/tasks/{task_id}")  # type: ignore[untyped-decorator]
    def again(task_id: str, rater: str) -> Any:
        task = session.task(task_id)
        vote = vote_of(session, task, rater.strip())
        said = None if vote is None else {"choice": vote.choice, "scores": vote.scores, "comment": vote.comment}
        return json({"task": session.shown(task), "vote": said, "progress": progress(session, rater.strip())})

    @app.post("/api/votes")  # type: ignore[untyped-decorator]
    def vote(given: NewVote) -> Any:
        session.votes.append(_checked(session, given))
        return json({"saved": True, "progress": progress(session, given.rater)})

    @app.exception_handler(exceptions.RequestValidationError)  # type: ignore[untyped-decorator]
    async def malformed(request: Any, error: Any) -> Any:
        found = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return json({"error": f"the request cannot be read: {found}"}, 422)

    @app.exception_handler(TunesmithError)  # type: ignore[untyped-decorator]
    async def failed(request: Any, error: TunesmithError) -> Any:
        return json({"error": str(error)}, 422 if isinstance(error, DataError) else 507)

    return Guard(app, key=key, port=port)


def _checked(session: Session, given: NewVote) -> Vote:
    """The vote, if it is about this rating.

    Raises:
        DataError: no such task, an unknown choice, or scores that are not those of this rating.
    """
    task = session.task(given.task)
    if session.criteria:
        scored = set(given.scores) == set(session.criteria) and all(s in SCORES for s in given.scores.values())
        if not scored or given.choice is not None:
            raise DataError(
                f"a vote here is a score from 1 to 5 for each of {', '.join(session.criteria)}", fix="reload the page"
            )
    elif given.choice not in CHOICES or given.scores:
        raise DataError(
            f"a vote here is one of {', '.join(CHOICES)}, found {given.choice!r:.40}", fix="reload the page"
        )
    return Vote(task.id, given.rater, given.choice, given.scores, given.comment, given.seconds)


async def _refuse(send: _Send, status: int, message: str) -> None:
    headers = {**_HEADERS, "Content-Type": "text/plain; charset=utf-8"}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": message.encode() + b"\n"})
