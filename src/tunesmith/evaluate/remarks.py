"""What a judge said about each answer, for people to read beside its score. Asks nothing new: its log has it all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tunesmith.evaluate.judge import PREFERENCE
from tunesmith.evaluate.material import Rows
from tunesmith.evaluate.paired import finite

_SIDES = ("With this answer as B:\n{}", "With this answer as A:\n{}")


@dataclass(frozen=True, slots=True)
class Remark:
    """metric: what was asked for. score: as `Judge` read it, None where the reply has none. text: the whole reply."""

    metric: str
    score: float | None
    text: str


def remarks(metrics: Collection[str], rows: Rows) -> list[list[Remark]]:
    """What was said of each answer, of those scores that a judge gives to one model."""
    judge = rows.tools.judge
    found: list[list[Remark]] = [[] for _ in rows.predictions]
    for metric in ("judge_score", "judge_pass"):
        if judge is None or metric not in metrics:
            continue
        scores, replies = judge.scores(metric, rows.questions, _references(rows), rows.predictions)
        for said, score, text in zip(found, scores.tolist(), replies, strict=True):
            said.append(Remark(metric, finite(score), text))
    return found


def pair_remarks(metrics: Collection[str], before: Rows, after: Rows) -> list[list[Remark]]:
    """What was said of each answer of the second model beside that of the first; nothing where the two are the same."""
    judge = after.tools.judge
    if judge is None or PREFERENCE not in metrics:
        return [[] for _ in after.predictions]
    scores, replies = judge.preference(after.questions, _references(after), before.predictions, after.predictions)
    return [
        [Remark(PREFERENCE, finite(score), "\n\n".join(map(str.format, _SIDES, texts)))] if texts else []
        for score, texts in zip(scores.tolist(), replies, strict=True)
    ]


def _references(rows: Rows) -> Sequence[str]:
    return rows.references or [""] * len(rows.predictions)
