"""Answers are asked for once, kept at once, and found again after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tunesmith.config import GenerateConfig
from tunesmith.errors import ResourceError
from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, ask_all
from tunesmith.generate import Endpoint, Engine
from tunesmith.types import Message

SETTINGS = GenerateConfig()


def questions(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in texts]


class Echo:
    """An engine and an endpoint that say what they were asked, and fail after `lives` questions."""

    def __init__(self, lives: int = 10**6) -> None:
        self.asked: list[str] = []
        self.lives = lives

    def generate(
        self, conversations: Sequence[Sequence[Message]], settings: GenerateConfig, **_: Any
    ) -> list[SimpleNamespace]:
        return [self._say(messages[-1].content) for messages in conversations]

    def answer(self, messages: Sequence[Message], settings: GenerateConfig, *, seed: int) -> SimpleNamespace:
        return self._say(messages[-1].content)

    def _say(self, text: str) -> SimpleNamespace:
        if len(self.asked) == self.lives:
            raise ResourceError("killed")
        self.asked.append(text)
        return SimpleNamespace(text=f"{text}!", finish_reason="stop", ended=True, token_ids=(1, 2), tokens=2)


def local(echo: Echo, asked: list[tuple[Message, ...]], log: AnswerLog | None = None) -> list[str]:
    found = answer_all(cast(Engine, echo), asked, SETTINGS, batch_size=1, log=log)
    return [answer.text for answer in found]


def remote(echo: Echo, asked: list[tuple[Message, ...]], log: AnswerLog | None = None) -> list[str]:
    return [answer.text for answer in ask_all(cast(Endpoint, echo), asked, SETTINGS, log=log)]


@pytest.mark.parametrize("ask", [local, remote])
def test_a_question_is_asked_once_and_answered_in_its_place(ask: Any) -> None:
    echo = Echo()
    assert ask(echo, questions("b", "a", "b")) == ["b!", "a!", "b!"]
    assert echo.asked == ["b", "a"]


@pytest.mark.parametrize("ask", [local, remote])
def test_a_second_call_asks_only_what_is_new(tmp_path: Path, ask: Any) -> None:
    path = tmp_path / "answers" / "model.jsonl"
    ask(Echo(), questions("a", "b"), AnswerLog(path))
    echo = Echo()
    assert ask(echo, questions("a", "c", "b"), AnswerLog(path)) == ["a!", "c!", "b!"]
    assert echo.asked == ["c"]


@pytest.mark.parametrize(("ask", "kept"), [(local, 16), (remote, 19)])
def test_what_was_written_before_a_failure_is_kept(tmp_path: Path, ask: Any, kept: int) -> None:
    """A local model is asked in parts of eight batches, a server row by row."""
    path = tmp_path / "model.jsonl"
    asked = questions(*map(str, range(30)))
    with pytest.raises(ResourceError, match="killed"):
        ask(Echo(lives=19), asked, AnswerLog(path))
    echo = Echo()
    assert ask(echo, asked, AnswerLog(path)) == [f"{number}!" for number in range(30)]
    assert len(echo.asked) == 30 - kept


def test_a_torn_line_is_asked_again_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "model.jsonl"
    local(Echo(), questions("one\u2028line", "b"), AnswerLog(path))
    path.write_bytes(path.read_bytes()[:-9])
    echo = Echo()
    assert local(echo, questions("one\u2028line", "b", "c"), AnswerLog(path)) == ["one\u2028line!", "b!", "c!"]
    assert echo.asked == ["b", "c"]
    assert local(Echo(0), questions("one\u2028line", "b", "c"), AnswerLog(path))[1] == "b!"


def test_the_roles_and_the_context_make_the_question() -> None:
    log = AnswerLog()
    log.add(questions("a")[0], Answer("x", True, 1, 0.1))
    assert questions("a")[0] in log
    assert (Message("system", "s"), *questions("a")[0]) not in log
    assert (Message("user", "a", context="c"),) not in log


def test_progress_counts_what_is_known_already() -> None:
    log = AnswerLog()
    log.add(questions("a")[0], Answer("x", True, 1, 0.1))
    seen: list[tuple[int, int]] = []
    ask_all(cast(Endpoint, Echo()), questions("a", "b", "c"), SETTINGS, log=log, on_progress=lambda *n: seen.append(n))
    assert seen == [(2, 3), (3, 3)]
