"""Serve a rating to browsers on this machine until it is stopped. Nothing listens on any other address."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable

from tunesmith.errors import ResourceError
from tunesmith.optional import need
from tunesmith.rating.app import create_app
from tunesmith.rating.session import Session

HOST = "127.0.0.1"


def serve(session: Session, *, announce: Callable[[str], None], port: int | None = None) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        announce: called with the address, its key included, once it can be opened.
        port: None takes one that is free.

    Raises:
        ResourceError: the port cannot be had, or FastAPI or uvicorn is not installed.
    """
    uvicorn = need("uvicorn", extra="rate")
    key = secrets.token_urlsafe(24)
    with _listen(port) as listening:
        number = listening.getsockname()[1]
        app = create_app(session, key=key, port=number)
        # the access log would write the key down
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off", http="h11", ws="none"
        )
        announce(f"http://{HOST}:{number}/?key={key}")
        uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a rating just stopped is free
        listening.bind((HOST, port or 0))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        number = error.errno if isinstance(error, OSError) else None
        why = {errno.EADDRINUSE: "is in use", errno.EACCES: "is for the system's own services"}
        raise ResourceError(
            f"port {port} {why.get(number or 0, 'cannot be had')}",
            cause=str(error),
            fix="leave --port out, and a free one is taken",
        ) from error
    return listening
