"""What one model answered, chose and found likely, each kept at once: a second call computes only what is new.

Reading a log needs no torch; what computes imports it when there is something to compute.

A log belongs to one model with one template, one set of settings and one seed; who keeps it names it so. Within it a
question is known by its messages, a row by its token ids. What a killed process had found is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.evaluate.paired import Floats
from tunesmith.evaluate.parallel import in_any_order
from tunesmith.generate import Choice
from tunesmith.runs import append_line
from tunesmith.types import Advance, Encoded, Message

if TYPE_CHECKING:
    from tunesmith.config import GenerateConfig
    from tunesmith.generate import Completion, Endpoint, Engine

_KINDS = ({"text", "ended", "tokens", "seconds"}, {"likelihoods"}, {"nll"}, {"vector"})
_ROWS_AT_ONCE = 256  # of likelihoods, which are computed by tokens and not by rows

Conversation = Sequence[Message]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model wrote. `ended`: by itself, not cut off at the longest answer allowed. `seconds`: its share."""

    text: str
    ended: bool
    tokens: int
    seconds: float


def tokens_per_second(answers: Sequence[Answer]) -> float:
    """Of all answers together; 0 where none took time, as labels that were chosen."""
    seconds = sum(answer.seconds for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds if seconds else 0.0


class AnswerLog:
    """What a model has answered, chosen and found likely so far, in a file of JSON lines; without a path in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = dict(_lines(path)) if path is not None and path.exists() else {}

    def __contains__(self, conversation: Conversation) -> bool:
        return _key(conversation) in self._known

    def __getitem__(self, conversation: Conversation) -> Answer:
        return Answer(**self._known[_key(conversation)])

    def add(self, conversation: Conversation, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            ResourceError: the disk is full, read-only, over quota or closed to us.
        """
        self.keep({_key(conversation): asdict(answer)})

    def found(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key; None when nothing was."""
        return self._known.get(key)

    def keep(self, found: Mapping[str, dict[str, Any]]) -> None:
        """Keep what was found under each key; on the disk when this returns.

        Raises:
            ResourceError: the disk is full, read-only, over quota or closed to us.
        """
        if self._path is not None and found:
            lines = [json.dumps({"question": key, **content}, ensure_ascii=False) for key, content in found.items()]
            append_line(self._path, "\n".join(lines))
        self._known.update(found)


def answer_all(
    engine: Engine,
    asked: Sequence[Conversation],
    settings: GenerateConfig,
    *,
    seed: int = 0,
    batch_size: int = 32,
    log: AnswerLog | None = None,
    on_progress: Advance | None = None,
) -> list[Answer]:
    """Answers in the order of the questions, by a model that is loaded. A question that comes twice is asked once.

    Each answer is kept when it has ended, and its place taken by one that waits.

    Raises:
        DataError, SettingsError, TrainingError: as `Engine.generate`. ResourceError: as `AnswerLog.keep`.
    """
    log = log or AnswerLog()
    missing = _missing(asked, log)
    known = len(asked) - len(missing)
    last = time.perf_counter()

    def keep(ended: Mapping[int, Completion]) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds, last = (now - last) / len(ended), now
        found = {
            _key(missing[place]): Answer(one.text, one.finish_reason == "stop", len(one.token_ids), seconds)
            for place, one in ended.items()
        }
        log.keep({key: asdict(answer) for key, answer in found.items()})

    if missing:
        tell = _shifted(on_progress, known, len(asked))
        engine.generate(missing, settings, seed=seed, batch_size=batch_size, on_progress=tell, on_answers=keep)
    return [log[messages] for messages in asked]


def ask_all(
    endpoint: Endpoint,
    asked: Sequence[Conversation],
    settings: GenerateConfig,
    *,
    seed: int = 0,
    requests: int = 1,
    log: AnswerLog | None = None,
    on_progress: Advance | None = None,
) -> list[Answer]:
    """`answer_all` for a model behind an address.

    Args:
        requests: questions that the server is asked at once. The first is asked alone, so that a server that is not
            there is told as soon as by one. Each answer is kept when it comes, whatever the others wait for.

    Raises:
        ResourceError: the server does not answer; what it has answered is kept.
    """
    log = log or AnswerLog()
    missing = _missing(asked, log)
    done = len(asked) - len(missing)
    shared = endpoint.shared_by(min(requests, len(missing) - 1)) if len(missing) > 1 else endpoint
    for server, part in ((endpoint, missing[:1]), (shared, missing[1:])):
        last = time.perf_counter()
        for messages, found in in_any_order(partial(server.answer, settings=settings, seed=seed), part, requests):
            now = time.perf_counter()
            log.add(messages, Answer(found.text, found.ended, found.tokens, now - last))
            last, done = now, done + 1
            if on_progress:
                on_progress(done, len(asked))
    return [log[messages] for messages in asked]


def choose_all(
    engine: Engine,
    asked: Sequence[Conversation],
    labels: Sequence[str],
    *,
    batch_size: int = 32,
    log: AnswerLog | None = None,
    on_progress: Advance | None = None,
) -> list[Choice]:
    """What `choose` gives, in the order of the questions. One that comes twice is asked once.

    Raises:
        DataError, SettingsError, TrainingError: as `choose`.
    """
    from tunesmith.generate import choose

    log = log or AnswerLog()
    keys = [_key(messages, labels) for messages in asked]
    missing = {key: messages for key, messages in zip(keys, asked, strict=True) if log.found(key) is None}
    waiting = iter(sorted(missing.items(), key=lambda item: _length(item[1]), reverse=True))
    known = len(asked) - len(missing)
    while part := dict(islice(waiting, batch_size)):
        tell = _shifted(on_progress, known, len(asked))
        found = choose(engine, list(part.values()), labels, batch_size=batch_size, on_progress=tell)
        log.keep({key: {"likelihoods": list(one.log_likelihoods)} for key, one in zip(part, found, strict=True)})
        known += len(part)
    return [Choice(tuple(labels), tuple((log.found(key) or {})["likelihoods"])) for key in keys]


def nll_all(engine: Engine, encoded: Sequence[Encoded], *, log: AnswerLog | None = None) -> Floats:
    """What `row_nll` gives: nats and supervised tokens of each row, shape (rows, 2).

    Raises:
        DataError: no row has a supervised token.
    """
    from tunesmith.evaluate.likelihood import row_nll

    log = log or AnswerLog()
    keys = [_row_key(row) for row in encoded]
    missing = {key: row for key, row in zip(keys, encoded, strict=True) if row.target_tokens and log.found(key) is None}
    if not any(row.target_tokens for row in encoded):
        return row_nll(engine.model, encoded)  # which says what is wrong
    waiting = iter(missing.items())
    while part := dict(islice(waiting, _ROWS_AT_ONCE)):
        found = row_nll(engine.model, list(part.values()))
        log.keep({key: {"nll": float(nll)} for key, nll in zip(part, found[:, 0], strict=True)})
    nats = [(log.found(key) or {"nll": 0.0})["nll"] for key in keys]
    return np.array([[nll, row.target_tokens] for nll, row in zip(nats, encoded, strict=True)], dtype=np.float64)


def _missing(asked: Sequence[Conversation], log: AnswerLog) -> list[Conversation]:
    """Questions without an answer so far, each once."""
    return list({_key(messages): messages for messages in asked if messages not in log}.values())


def _length(conversation: Conversation) -> int:
    """In characters: near enough to tokens to put rows together that need little padding."""
    return sum(len(message.content) + len(message.context or "") for message in conversation)


def _shifted(on_progress: Advance | None, known: int, total: int) -> Advance | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(known + done, total)


def _key(conversation: Conversation, labels: Sequence[str] = ()) -> str:
    turns = [[message.role, message.content, message.context] for message in conversation]
    return _digest([turns, list(labels)] if labels else turns)


def _row_key(row: Encoded) -> str:
    return _digest(["row", row.input_ids.tolist(), row.supervised.tolist()])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The whole lines of a log. A line that a crash has torn is computed again."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            content = json.loads(line)
            key = content.pop("question")
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if isinstance(key, str) and content.keys() in _KINDS:
            yield key, content
