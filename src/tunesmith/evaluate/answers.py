"""Answers of one model to many questions, each kept as soon as it is written: a second call asks only what is new.

A log belongs to one model with one template, one set of settings and one seed; who keeps it names it so. Within it a
question is known by its messages. What a killed process had written is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.runs import append_line
from tunesmith.types import Message

if TYPE_CHECKING:
    from tunesmith.config import GenerateConfig
    from tunesmith.generate import Endpoint, Engine

# Batches between two visits to the disk; the engine sorts their rows by length.
_BATCHES_AT_ONCE = 8

Conversation = Sequence[Message]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model wrote. `ended`: by itself, not cut off at the longest answer allowed. `seconds`: its share."""

    text: str
    ended: bool
    tokens: int
    seconds: float


class AnswerLog:
    """What a model has answered so far, in a file of JSON lines, or without a path in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = dict(_lines(path)) if path is not None and path.exists() else {}

    def __contains__(self, conversation: Conversation) -> bool:
        return _key(conversation) in self._known

    def __getitem__(self, conversation: Conversation) -> Answer:
        return self._known[_key(conversation)]

    def add(self, conversation: Conversation, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            ResourceError: the disk is full, read-only, over quota or closed to us.
        """
        key = _key(conversation)
        if self._path is not None:
            append_line(self._path, json.dumps({"question": key, **asdict(answer)}, ensure_ascii=False))
        self._known[key] = answer


def answer_all(
    engine: Engine,
    asked: Sequence[Conversation],
    settings: GenerateConfig,
    *,
    seed: int = 0,
    batch_size: int = 32,
    log: AnswerLog | None = None,
    on_progress: Progress | None = None,
) -> list[Answer]:
    """Answers in the order of the questions, by a model that is loaded. A question that comes twice is asked once.

    Raises:
        DataError, SettingsError, TrainingError: as `Engine.generate`.
    """
    log = log or AnswerLog()
    missing = _missing(asked, log)
    waiting = iter(missing)
    known = len(asked) - len(missing)
    while part := list(islice(waiting, batch_size * _BATCHES_AT_ONCE)):
        started = time.perf_counter()
        written = engine.generate(
            part,
            settings,
            seed=seed,
            batch_size=batch_size,
            on_progress=_shifted(on_progress, known, len(asked)),
        )
        seconds = (time.perf_counter() - started) / len(part)
        for messages, found in zip(part, written, strict=True):
            log.add(messages, Answer(found.text, found.finish_reason == "stop", len(found.token_ids), seconds))
        known += len(part)
    return [log[messages] for messages in asked]


def ask_all(
    endpoint: Endpoint,
    asked: Sequence[Conversation],
    settings: GenerateConfig,
    *,
    seed: int = 0,
    log: AnswerLog | None = None,
    on_progress: Progress | None = None,
) -> list[Answer]:
    """`answer_all` for a model behind an address, one question after the other.

    Raises:
        ResourceError: the server does not answer; what it has answered is kept.
    """
    log = log or AnswerLog()
    missing = _missing(asked, log)
    known = len(asked) - len(missing)
    for done, messages in enumerate(missing, start=known + 1):
        started = time.perf_counter()
        found = endpoint.answer(messages, settings, seed=seed)
        log.add(messages, Answer(found.text, found.ended, found.tokens, time.perf_counter() - started))
        if on_progress:
            on_progress(done, len(asked))
    return [log[messages] for messages in asked]


def _missing(asked: Sequence[Conversation], log: AnswerLog) -> list[Conversation]:
    """Questions without an answer so far, each once."""
    return list({_key(messages): messages for messages in asked if messages not in log}.values())


def _shifted(on_progress: Progress | None, known: int, total: int) -> Progress | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(known + done, total)


def _key(conversation: Conversation) -> str:
    turns = [[message.role, message.content, message.context] for message in conversation]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:32]


def _lines(path: Path) -> Iterator[tuple[str, Answer]]:
    """The whole lines of a log. A line that a crash has torn is asked again."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            content = json.loads(line)
            yield content.pop("question"), Answer(**content)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
