"""A language model as a judge of answers. Asks it and reads its replies; knows no other score.

judge_score       1 to 10 for an answer
judge_pass        pass or fail
judge_preference  which of two answers is better, asked twice with the sides swapped: one that is preferred on both
                  sides wins, anything else is a tie: a judge's liking for a side cancels out (Zheng et al. 2023,
                  arXiv:2306.05685)

A reply counts only when its last line has the form that was asked for, and nothing else; a row without such a reply has
no score. Replies are kept as they come: what a judge has said is not asked again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.config import GenerateConfig
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate.answers import Answer, AnswerLog, ask_all
from tunesmith.evaluate.paired import Floats
from tunesmith.types import Advance, Message

if TYPE_CHECKING:
    from tunesmith.generate import Endpoint

PREFERENCE = "judge_preference"
# Room for two sentences and the last line, and for a model that thinks before.
LONGEST_REPLY_TOKENS = 1024
# How it writes its replies.
JUDGING = GenerateConfig(max_new_tokens=LONGEST_REPLY_TOKENS, temperature=0.0)
_NO_REFERENCE = "(there is none)"
_TEXTS = ("question", "reference", "answer", "other")
_TAG = re.compile(r"<(?=/?(?:question|reference|answer|answer_a|answer_b)>)")
_SLOT = re.compile(r"\{(criteria|question|reference|answer|other|form)\}")


@dataclass(frozen=True, slots=True)
class _Form:
    """How the last line of a reply must look: as it is asked for, and as it is read."""

    asked: str
    read: re.Pattern[str]
    value: Callable[[str], float]


def _form(asked: str, pattern: str, value: Callable[[str], float]) -> _Form:
    # nothing but emphasis around it, which models add unasked
    return _Form(asked, re.compile(rf"[*_ ]*{pattern}[*_ ]*\.?", re.IGNORECASE), value)


_FORMS: Mapping[str, _Form] = {
    "judge_score": _form(
        "Then end with a line of its own: SCORE: and a whole number from 1 (useless) to 10 (perfect).",
        r"SCORE:[*_ ]*(10|[1-9])(?:/10)?",
        float,
    ),
    "judge_pass": _form(
        "Then end with a line of its own: VERDICT: pass, if the answer is good enough, or VERDICT: fail.",
        r"VERDICT:[*_ ]*(pass|fail)",
        lambda said: float(said.lower() == "pass"),
    ),
    PREFERENCE: _form(
        "Then end with a line of its own: BETTER: A, BETTER: B, or BETTER: tie if neither is.",
        r"BETTER:[*_ ]*(A|B|tie)",
        lambda said: {"a": 1.0, "b": 0.0, "tie": 0.5}[said.lower()],
    ),
}


def read_reply(kind: str, reply: Answer) -> float | None:
    """The score in the last line of a reply: 1 to 10; 1 or 0; 1 for A, 0 for B, 0.5 for a tie. None if it has none."""
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    form = _FORMS[kind]
    found = form.read.fullmatch(lines[-1]) if lines and reply.ended else None
    return form.value(found[1]) if found else None


def prompt(kind: str, *, criteria: str, question: str, reference: str, answer: str, other: str = "") -> str:
    """What the judge is asked about one answer, or about two."""
    text = _text("pair" if kind == PREFERENCE else "single")
    values = {
        **{"criteria": criteria, "question": question, "reference": reference or _NO_REFERENCE},
        **{"answer": answer, "other": other, "form": _FORMS[kind].asked},
    }
    # An answer that closes its own tag would speak for itself: those of our own are marked where a text has them.
    texts = {name: _TAG.sub("&lt;", value) if name in _TEXTS else value for name, value in values.items()}
    return _SLOT.sub(lambda slot: texts[slot[1]], text)  # in one go: an answer may contain "{form}"


@cache
def _text(name: str) -> str:
    folder = resources.files("tunesmith.evaluate") / "judges"
    return (folder / f"{name}.txt").read_text(encoding="utf-8").strip()


@dataclass(frozen=True, slots=True)
class Judge:
    """A model behind an address. log: of its replies. criteria: what it is told to look at. requests: at once."""

    endpoint: Endpoint
    log: AnswerLog
    criteria: str
    requests: int = 1
    on_progress: Advance | None = None

    @staticmethod
    def of(
        address: str,
        *,
        log: AnswerLog | None = None,
        criteria: str | None = None,
        timeout_seconds: float | None = None,
        requests: int = 1,
        on_progress: Advance | None = None,
    ) -> Judge:
        """The judge of the settings.

        Raises:
            SettingsError: the address names no model of a server.
        """
        from tunesmith.generate import Endpoint

        endpoint = Endpoint.parse(address)
        if endpoint is None:
            raise SettingsError(
                f"eval.judge {address!r} is no address",
                fix="ollama:NAME, or the address of the API and the model's name: http://127.0.0.1:8080/v1#NAME",
            )
        timed = Endpoint(endpoint.url, endpoint.model, timeout_seconds)
        return Judge(timed, log or AnswerLog(), criteria or _text("criteria"), requests, on_progress)

    def scores(
        self, kind: str, questions: Sequence[str], references: Sequence[str], answers: Sequence[str]
    ) -> tuple[Floats, list[str]]:
        """Scores of answers, NaN where a reply has none, and the replies.

        Args:
            kind: judge_score or judge_pass. references: empty where there is none.

        Raises:
            ResourceError: the judge does not answer; what it has said is kept.
        """
        rows = zip(questions, references, answers, strict=True)
        asked = [
            prompt(kind, criteria=self.criteria, question=question, reference=reference, answer=answer)
            for question, reference, answer in rows
        ]
        replies = self._ask(asked)
        return _read(kind, replies), [reply.text for reply in replies]

    def preference(
        self, questions: Sequence[str], references: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> tuple[Floats, list[tuple[str, ...]]]:
        """For each row 1 where the second answer is preferred on both sides, 0 the first, 0.5 a tie, NaN unknown.

        The same answer twice is a tie, and not asked.

        Returns:
            the scores, and of each row the replies: with the first answer as A, and with the second; none where it was
            not asked.

        Raises:
            ResourceError: the judge does not answer; what it has said is kept. DataError: no reply names a side.
        """
        found = np.full(len(first), 0.5)
        said: list[tuple[str, ...]] = [()] * len(first)
        rows = [row for row, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]]
        if not rows:
            return found, said
        replies = self._ask(
            [
                prompt(
                    PREFERENCE,
                    criteria=self.criteria,
                    question=questions[row],
                    reference=references[row],
                    answer=shown[row],
                    other=other[row],
                )
                for shown, other in ((first, second), (second, first))
                for row in rows
            ]
        )
        texts = [reply.text for reply in replies]
        is_a = self.readable(PREFERENCE, _read(PREFERENCE, replies), texts)
        for_second = (1 - is_a[: len(rows)]) + is_a[len(rows) :]  # 2: on both sides
        found[rows] = np.select([np.isnan(for_second), for_second == 2, for_second == 0], [np.nan, 1.0, 0.0], 0.5)
        for row, pair in zip(rows, zip(texts[: len(rows)], texts[len(rows) :], strict=True), strict=True):
            said[row] = pair
        return found, said

    def _ask(self, asked: Sequence[str]) -> list[Answer]:
        conversations = [(Message("user", text),) for text in asked]
        return ask_all(
            self.endpoint,
            conversations,
            JUDGING,
            requests=self.requests,
            log=self.log,
            on_progress=self.on_progress,
        )

    def readable(self, kind: str, scores: Floats, replies: Sequence[str]) -> Floats:
        """The scores, if there are any.

        Raises:
            DataError: no reply has one.
        """
        if np.isnan(scores).all():
            raise DataError(
                f"none of the {len(replies)} replies of the judge {self.endpoint.model} ends as it was asked to",
                cause=f"the first one: {replies[0][-200:]!r}" if replies else "there are no answers to judge",
                fix=f"take a judge that follows what it is asked: {_FORMS[kind].asked}",
            )
        return scores


def _read(kind: str, replies: Sequence[Answer]) -> Floats:
    found = [read_reply(kind, reply) for reply in replies]
    return np.array([np.nan if value is None else value for value in found])
