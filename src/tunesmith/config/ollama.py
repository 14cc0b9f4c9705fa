"""Where an Ollama listens: what `export.host` and the environment's OLLAMA_HOST stand for."""

from __future__ import annotations

import os
import re

_HERE, _PORT = "127.0.0.1", 11434


def ollama_url(host: str | None = None) -> str:
    """The URL of an Ollama, without a slash at its end. Whether there can be such a one is for the caller to see.

    Source of how a host is read: ollama/ollama, envconfig/config.go (Host).

    Args:
        host: a URL; or a host, a port (":8080") or both, and a path after it, with 11434 where there is no port. None
            or nothing: OLLAMA_HOST, else this machine.

    >>> ollama_url("box"), ollama_url(":8080/api/"), ollama_url("https://box")
    ('http://box:11434', 'http://127.0.0.1:8080/api', 'https://box')
    """
    text = (host or os.environ.get("OLLAMA_HOST") or _HERE).strip().strip("\"'").rstrip("/")
    if "://" in text:
        return text
    place, slash, path = text.partition("/")
    if place.startswith(":") and place[1:].isdigit():
        place = f"{_HERE}{place}"
    elif place.count(":") > 1 and not place.startswith("["):  # an address of IPv6
        place = f"[{place}]"
    has_port = re.search(r":\d+$", place) is not None
    return f"http://{place if has_port else f'{place}:{_PORT}'}{slash}{path}"
