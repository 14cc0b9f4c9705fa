"""What scores are made of: rows with their answers, and the tools that some scores need besides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import SettingsError
from tunesmith.evaluate.answers import Answer, AnswerLog
from tunesmith.evaluate.checks import build_check
from tunesmith.evaluate.judge import Judge
from tunesmith.evaluate.paired import Floats
from tunesmith.evaluate.semantic import Encoder
from tunesmith.types import Advance, Example

if TYPE_CHECKING:
    from tunesmith.config import EvalConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What some scores need besides rows: settings of `eval`, the encoder and the judge."""

    encoder: Encoder = field(default_factory=Encoder)
    checks: Mapping[str, object] = field(default_factory=dict)
    judge: Judge | None = None

    @staticmethod
    def of(
        settings: EvalConfig,
        *,
        log: AnswerLog | None = None,
        vectors: AnswerLog | None = None,
        on_progress: Advance | None = None,
    ) -> Tools:
        """Those of the settings. log: of the judge's replies; vectors: of the encoder's. Unset, they are not kept.

        Raises:
            SettingsError: `eval.judge` names no model of a server, or a check is wrong.
        """
        for name, wanted in settings.checks.items():
            built_check(name, wanted)
        judge = settings.judge and Judge.of(
            settings.judge,
            log=log,
            criteria=settings.judge_criteria,
            timeout_seconds=settings.judge_timeout,
            requests=settings.requests,
            on_progress=on_progress,
        )
        return Tools(encoder=Encoder(settings.encoder, vectors), checks=settings.checks, judge=judge or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is scored, a row each; a score that needs what is empty here is not to be measured.

    nll: (n, 3), nats, supervised tokens and bytes of the right answers; its rows need not be those of the answers.
    labels: further ones than occur. probabilities: of what was chosen. reference_log_probabilities: of the
        right label, which may be too unlikely for a float; None where it is no label.
    """

    questions: Sequence[str] = ()
    predictions: Sequence[str] = ()
    references: Sequence[str] = ()
    ended: Sequence[bool] = ()
    labels: Collection[str] = ()
    probabilities: Sequence[float] = ()
    reference_log_probabilities: Sequence[float | None] = ()
    nll: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    tools: Tools = field(default_factory=Tools)


def asked_of(example: Example) -> dict[str, Any]:
    """The question, and of a chat the whole conversation, as they are written into files of answers."""
    turns = [{"role": message.role, "content": message.text} for message in example.conversation]
    return {"question": example.question, **({"conversation": turns} if turns else {})}


def _whole_question(example: Example) -> str:
    """What a judge reads: the question, or the turns of a chat, since alone its last one may say nothing."""
    turns = [f"{message.role}: {message.text}" for message in example.conversation]
    return "\n\n".join(turns) if turns else example.question


def rows_of(asked: Sequence[Example], answers: Sequence[Answer]) -> Rows:
    """What written answers are scored by."""
    return Rows(
        questions=[_whole_question(example) for example in asked],
        predictions=[answer.text for answer in answers],
        references=[example.answer for example in asked],
        ended=[answer.ended for answer in answers],
    )


def built_check(name: str, wanted: object) -> Callable[[str], bool]:
    """A check of `eval.checks`.

    Raises:
        SettingsError: there is none of that name, or what is wanted is not what it takes.
    """
    try:
        return build_check(name, wanted)
    except ValueError as error:
        raise SettingsError(f"eval.checks: {error}", fix="docs/evaluation.md has an example of each check") from error
