"""Answers are asked for once, kept at once, and found again after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tunesmith.config import GenerateConfig
from tunesmith.errors import ResourceError
from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, ask_all, choose_all, nll_all, tokens_per_second
from tunesmith.generate import Choice, Endpoint, Engine
from tunesmith.types import Encoded, Message

SETTINGS = GenerateConfig()


def questions(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in texts]


class Echo:
    """An engine and an endpoint that say what they were asked, and fail after `lives` questions."""

    def __init__(self, lives: int = 10**6) -> None:
        self.asked: list[str] = []
        self.lives = lives

    def generate(
        self, conversations: Sequence[Sequence[Message]], settings: GenerateConfig, *, on_answers: Any, **_: Any
    ) -> list[SimpleNamespace]:
        said = []
        for place, messages in enumerate(conversations):
            said.append(self._say(messages[-1].content))
            on_answers({place: said[-1]})
        return said

    def shared_by(self, requests: int) -> Echo:
        return self

    def answer(self, messages: Sequence[Message], settings: GenerateConfig, *, seed: int) -> SimpleNamespace:
        return self._say(messages[-1].content)

    def _say(self, text: str) -> SimpleNamespace:
        if len(self.asked) == self.lives:
            raise ResourceError("killed")
        self.asked.append(text)
        return SimpleNamespace(text=f"{text}!", finish_reason="stop", ended=True, token_ids=(1, 2), tokens=2)


def local(echo: Echo, asked: list[tuple[Message, ...]], log: AnswerLog | None = None) -> list[str]:
    found = answer_all(cast(Engine, echo), asked, SETTINGS, batch_size=4, log=log)
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


@pytest.mark.parametrize("ask", [local, remote])
def test_what_was_written_before_a_failure_is_kept(tmp_path: Path, ask: Any) -> None:
    path = tmp_path / "model.jsonl"
    asked = questions(*map(str, range(30)))
    with pytest.raises(ResourceError, match="killed"):
        ask(Echo(lives=19), asked, AnswerLog(path))
    echo = Echo()
    assert ask(echo, asked, AnswerLog(path)) == [f"{number}!" for number in range(30)]
    assert len(echo.asked) == 30 - 19


def test_answers_that_took_no_time_have_no_speed() -> None:
    assert tokens_per_second([Answer("a", True, 3, 0.5), Answer("b", True, 1, 1.5)]) == 2
    assert tokens_per_second([Answer("a", True, 3, 0.0)]) == 0
    assert tokens_per_second([]) == 0


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


def row(*ids: int, supervised: int = 1) -> Encoded:
    return Encoded(np.array(ids), np.arange(len(ids)) >= len(ids) - supervised, row=ids[0])


def test_likelihoods_are_computed_once_and_kept_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def likelihoods(_: Any, rows: Sequence[Encoded]) -> Any:
        asked.extend(one.row for one in rows)
        return np.array([[one.input_ids.sum() / 3, one.target_tokens] for one in rows])

    monkeypatch.setattr("tunesmith.evaluate.likelihood.row_nll", likelihoods)
    engine = cast(Engine, SimpleNamespace(model=None))
    first, second = row(1, 2, 3), row(4, 5, 6, supervised=2)
    found = nll_all(engine, [first, second, first], log=AnswerLog(tmp_path / "log.jsonl"))
    assert found.tolist() == [[2.0, 1.0], [5.0, 2.0], [2.0, 1.0]]
    assert asked == [1, 4]
    again = [row(1, 2, 3, supervised=2), row(7, 8, supervised=0), second]  # other supervised tokens, none, the same
    found = nll_all(engine, again, log=AnswerLog(tmp_path / "log.jsonl"))
    assert found.tolist() == [[2.0, 2.0], [0.0, 0.0], [5.0, 2.0]]
    assert asked == [1, 4, 1]


def test_choices_are_kept_by_question_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def choices(_: Any, conversations: Any, labels: Sequence[str], **__: Any) -> list[Choice]:
        asked.extend(messages[-1].content for messages in conversations)
        return [Choice(tuple(labels), tuple(-1.5 - place for place in range(len(labels)))) for _ in conversations]

    monkeypatch.setattr("tunesmith.generate.labels.choose", choices)
    engine = cast(Engine, None)
    first = choose_all(engine, questions("a", "b", "a"), ["x", "y"], log=AnswerLog(tmp_path / "log.jsonl"))
    assert choose_all(engine, questions("a", "b", "a"), ["x", "y"], log=AnswerLog(tmp_path / "log.jsonl")) == first
    assert asked == ["a", "b"]
    assert [choice.label for choice in first] == ["x", "x", "x"]
    choose_all(engine, questions("a"), ["x", "z"], log=AnswerLog(tmp_path / "log.jsonl"))
    assert asked == ["a", "b", "a"]


def test_the_engine_has_all_questions_at_once_so_that_waiting_ones_can_take_places() -> None:
    parts: list[int] = []

    class Counting(Echo):
        def generate(self, conversations: Any, *more: Any, **options: Any) -> Any:
            parts.append(len(conversations))
            return super().generate(conversations, *more, **options)

    local(Counting(), questions(*map(str, range(10))))
    assert parts == [10]
