"""Answers from a model behind an OpenAI-compatible address: Ollama, llama-server, vLLM, a service. Loads nothing.

The address is `ollama:NAME`, or the URL of the API and the model's name there: `http://127.0.0.1:8080/v1#NAME`. A key
comes from the environment (TUNESMITH_API_KEY; for OpenAI's own address also OPENAI_API_KEY), never from a command line,
where others could read it; it is not sent on when a server points to another, and not in any message.

A server that is busy or broken (status 408, 409, 429, 5xx), breaks off or is too slow is asked again, later each time;
one that is not there or refuses is not.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener, urlopen

from tunesmith.config import GenerateConfig, ollama_url
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.types import Message

OLLAMA = "ollama:"
TIMEOUT_SECONDS = 300.0
_ASIDE_SECONDS = 5.0  # for what is good to know and no answer
# Waits before the second, third and fourth try; a server's own Retry-After counts instead, up to the longest.
WAITS_SECONDS = (1.0, 4.0, 16.0)
LONGEST_WAIT_SECONDS = 60.0
_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_SAID_CHARACTERS = 300
_KEYS = ("TUNESMITH_API_KEY", "OPENAI_API_KEY")
_OPENAI_HOST = "api.openai.com"
_THIS_MACHINE = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0"})
_DIRECT = build_opener(ProxyHandler({}))
# How long an answer may be. OpenAI's newest models refuse the first with status 400 and name the second, which other
# servers may not know.
_LIMIT, _NEWER_LIMIT = "max_tokens", "max_completion_tokens"
# What an answer can be asked for without. OpenAI's reasoning models refuse it with status 400, by its name.
_DISPENSABLE = ("temperature", "top_p", "stop")
_UNSUPPORTED = re.compile(r"Unsupported (?:parameter|value): '(\w+)'")
# By address and name of a model: what it has refused, which it is asked without from then on.
_REFUSED: dict[tuple[str, str], frozenset[str]] = {}
# What the protocol has no words for, in those of the servers that name themselves as owner in their list of models. It
# is sent when it is off too, since both have values of their own: llama-server top_k 40 and min_p 0.05, vLLM what the
# model's generation_config.json says. Others leave it out silently (Ollama) or refuse the whole request (OpenAI).
# Sources: llama.cpp, tools/server/README.md; vLLM, "Extra parameters for Chat API" of
# docs/serving/openai_compatible_server.md, and vllm/sampling_params.py, which refused a top_k of 0 once.
_FURTHER: Mapping[str, Callable[[GenerateConfig], dict[str, float]]] = {
    "llamacpp": lambda settings: {
        **{"top_k": settings.top_k, "min_p": 0.0, "repeat_penalty": settings.repetition_penalty},
        "repeat_last_n": -1,  # as far back as the penalty reaches in Python; of itself llama.cpp takes 64
    },
    "vllm": lambda settings: {
        **{"top_k": settings.top_k or -1, "min_p": 0.0, "repetition_penalty": settings.repetition_penalty}
    },
}


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """`ended`: the model stopped by itself. `tokens`: as the server counts them, words where it does not say."""

    text: str
    ended: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model of one server. `url`: of the API, up to /v1. timeout_seconds: of one try; None for TIMEOUT_SECONDS."""

    url: str
    model: str
    timeout_seconds: float | None = None

    @staticmethod
    def parse(address: str) -> Endpoint | None:
        """The endpoint that an address names; None for what is no address, such as a run.

        Raises:
            SettingsError: an address without a model's name, a host or a port that can be, or with a password, which
                reports would show.
        """
        if address.startswith(OLLAMA):
            url = ollama_url() + "/v1"
            name = address.removeprefix(OLLAMA)
        elif address.startswith(("http://", "https://")):
            url, _, name = address.partition("#")
        else:
            return None
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise SettingsError(
                "the address of a server has a user or a password in it",
                fix=f"leave it out of the address, and give a key in the environment: {_KEYS[0]}",
            )
        if not name or not _host(url):
            raise SettingsError(
                f"{address!r} names no model of a server",
                fix="ollama:NAME, or the address of the API and the model's name: http://127.0.0.1:8080/v1#NAME",
            )
        return Endpoint(url.rstrip("/"), name)

    def shared_by(self, requests: int) -> Endpoint:
        """The same for one of several requests at once: a server may take them one after the other, so each waits."""
        return replace(self, timeout_seconds=(self.timeout_seconds or TIMEOUT_SECONDS) * requests)

    def answer(self, messages: Sequence[Message], settings: GenerateConfig, *, seed: int) -> RemoteAnswer:
        """One answer by the server's own template. Greedy, or as near to `settings` as the server has words for.

        Raises:
            ResourceError: the server cannot be reached, does not answer in time, or refuses.
            SettingsError: the key of the environment is none.
        """
        asked = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            _LIMIT: settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": seed,
            **({"stop": settings.stop} if settings.stop else {}),
            **self.further(settings),
        }
        for name in _REFUSED.get((self.url, self.model), ()):
            asked = _without(name, asked)
        reply = self._post(asked)
        try:
            (choice, *_) = reply["choices"]
            text = (choice["message"]["content"] or "").strip()
            written = (reply.get("usage") or {}).get("completion_tokens", len(text.split()))
            return RemoteAnswer(text, choice["finish_reason"] == "stop", int(written))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unavailable(f"does not speak the protocol: {json.dumps(reply)[:200]}", error) from error

    def further(self, settings: GenerateConfig) -> dict[str, float]:
        """What is sent besides what every server understands, in the words of this one."""
        words = _FURTHER.get(_owner(self.url) or "")
        return words(settings) if words else {}

    def unsent(self, settings: GenerateConfig) -> list[str]:
        """Settings by which answers are written here and which this server is not known to have words for.

        Of the likeliest token any k is enough. A penalty that is off is off on most servers too.
        """
        penalty = ["repetition_penalty"] if settings.repetition_penalty != 1 else []
        wanted = [*(["top_k"] if settings.temperature > 0 else []), *penalty]
        return wanted if wanted and _owner(self.url) not in _FURTHER else []

    def refused(self, settings: GenerateConfig) -> list[str]:
        """Settings that this model has refused, so that its answers are written by what is set there.

        Of a top_p that is off and of no stops nothing is lost.
        """
        names = _REFUSED.get((self.url, self.model), frozenset())
        matters = {"temperature": True, "top_p": settings.top_p < 1, "stop": bool(settings.stop)}
        return [name for name, does in matters.items() if does and name in names]

    def loaded_bytes(self) -> int | None:
        """Memory that Ollama has given to the model, which answered just now; None where it does not say."""
        found = self._of_ollama("ps", "size")
        return found if isinstance(found, int) else None

    def digest(self) -> str | None:
        """What Ollama tells the model by, another one when it is made anew; None where it does not say."""
        found = self._of_ollama("tags", "digest")
        return found if isinstance(found, str) else None

    def _of_ollama(self, path: str, key: str) -> object:
        try:
            with _opened(Request(f"{self.url.removesuffix('/v1')}/api/{path}"), _ASIDE_SECONDS) as response:
                models = json.load(response)["models"]
            return next((one[key] for one in models if one["name"] in (self.model, f"{self.model}:latest")), None)
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            return None

    def _post(self, asked: dict[str, Any]) -> Any:
        for wait in (*WAITS_SECONDS, None):
            try:
                return self._post_once(asked)
            except _Again as again:
                if wait is None:
                    raise again.error from again.cause
                time.sleep(wait if again.wait_seconds is None else min(again.wait_seconds, LONGEST_WAIT_SECONDS))
        raise AssertionError

    def _post_once(self, asked: dict[str, Any]) -> Any:
        request = Request(
            f"{self.url}/chat/completions", json.dumps(asked).encode(), {"content-type": "application/json"}
        )
        _add_key(request, self.url)
        timeout = self.timeout_seconds or TIMEOUT_SECONDS
        try:
            with _opened(request, timeout) as response:
                return json.load(response)
        except HTTPError as error:
            said = _said(error)
            if error.code == 400 and (name := _refused_name(said, asked)):
                _REFUSED[self.url, self.model] = _REFUSED.get((self.url, self.model), frozenset()) | {name}
                return self._post_once(_without(name, asked))
            told = self._unavailable(f"refused with status {error.code}: {said}", error)
            if error.code not in _AGAIN:
                raise told from error
            raise _Again(told, error, _seconds(error.headers.get("retry-after"))) from error
        except TimeoutError as error:
            raise _Again(self._unavailable(f"did not answer within {timeout:g} s", error), error) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            told = self._unavailable("cannot be reached", error)
            if isinstance(reason, TimeoutError):
                raise _Again(self._unavailable(f"did not answer within {timeout:g} s", error), error) from error
            if isinstance(reason, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, HTTPException)):
                raise _Again(told, error) from error
            raise told from error
        except ValueError as error:
            raise self._unavailable("does not answer with JSON", error) from error

    def _unavailable(self, what: str, error: Exception) -> ResourceError:
        return ResourceError(
            _without_key(f"the server of {self.model} at {self.url} {what}"),
            cause=_without_key(" ".join(str(error).split())),
            fix=f"start it, check the address and the model's name, and set {_KEYS[0]} if it wants a key",
        )


def _said(error: HTTPError) -> str:
    """What a server says of its refusal, if it says it to the end."""
    try:
        with error:
            return error.read(_SAID_CHARACTERS).decode(errors="replace")
    except (OSError, HTTPException) as broken:
        return f"({' '.join(str(broken).split()) or type(broken).__name__})"


def _refused_name(said: str, asked: Mapping[str, Any]) -> str | None:
    """The one of what was asked that a refusal names and that can be put otherwise or left out; None where none is."""
    if _LIMIT in asked and _NEWER_LIMIT in said:
        return _LIMIT
    found = _UNSUPPORTED.search(said)
    return found[1] if found and found[1] in _DISPENSABLE and found[1] in asked else None


def _without(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what a model refuses; the longest answer by its newer name."""
    kept = {other: value for other, value in asked.items() if other != name}
    return {**kept, _NEWER_LIMIT: asked[name]} if name == _LIMIT else kept


def _host(url: str) -> str | None:
    """None of a URL without one, or that no program can read: a bracket left open, a port above 65535."""
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.port != 0 else None
    except ValueError:
        return None


class _Again(Exception):
    """A try that failed in a way that may pass. wait_seconds: what the server asks for, if it does."""

    def __init__(self, error: ResourceError, cause: Exception, wait_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.cause = cause
        self.wait_seconds = wait_seconds


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header. It may also be a date, for which our own waits do."""
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else None


def _key(url: str) -> str | None:
    """TUNESMITH_API_KEY for any server that was named; OPENAI_API_KEY, which other programs set, for OpenAI's alone.

    Raises:
        SettingsError: it holds what no header may, which an error of the library would show.
    """
    parts = urlsplit(url)
    is_openai = (parts.scheme, parts.hostname) == ("https", _OPENAI_HOST)
    for name in _KEYS if is_openai else _KEYS[:1]:
        key = os.environ.get(name, "").strip()  # a file that a key is read from ends with a line break
        if key and not (key.isascii() and key.isprintable()):
            raise SettingsError(f"{name} holds characters that no key has", fix="set it again: one line of ASCII")
        if key:
            return key
    return None


def _add_key(request: Request, url: str) -> None:
    if key := _key(url):
        request.add_unredirected_header("authorization", f"Bearer {key}")


def _opened(request: Request, timeout: float) -> Any:
    """The response. Proxies of the environment are for the web: a server of this machine is asked directly."""
    is_here = urlsplit(request.full_url).hostname in _THIS_MACHINE
    return _DIRECT.open(request, timeout=timeout) if is_here else urlopen(request, timeout=timeout)


def _owner(url: str) -> str | None:
    """The owner of all models of a server, by which llama-server and vLLM name themselves; None where none is told."""
    try:
        return _told_owner(url)
    except (OSError, HTTPException):
        return None


@cache  # what a server has told stays true of what it is sent; that it is busy or not there does not
def _told_owner(url: str) -> str | None:
    """
    Raises:
        OSError, HTTPException: it is not there, or busy.
    """
    request = Request(f"{url}/models")
    _add_key(request, url)
    try:
        with _opened(request, _ASIDE_SECONDS) as response:
            owners = {one["owned_by"] for one in json.load(response)["data"]}
    except HTTPError as error:
        if error.code in _AGAIN:
            raise
        return None
    except (ValueError, KeyError, TypeError):
        return None
    return str(owners.pop()) if len(owners) == 1 else None


def _without_key(text: str) -> str:
    """Servers repeat a wrong key in their answer."""
    for key in (os.environ.get(name, "").strip() for name in _KEYS):
        text = text.replace(key, "(key)") if key else text
    return text
