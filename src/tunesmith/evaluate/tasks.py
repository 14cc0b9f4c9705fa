"""The same measurements task by task, where the test rows are of several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.likelihood import Likelihood
from tunesmith.evaluate.text import EVALUATORS
from tunesmith.types import Encoded


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Of one task: metrics as in `Evaluation`, and the test rows that were measured."""

    metrics: dict[str, float]
    row_count: int


def by_task(encoded: Sequence[Encoded]) -> dict[str | None, list[Encoded]]:
    """Rows of each task, in order of appearance. One empty task when there is no row."""
    found: dict[str | None, list[Encoded]] = {} if encoded else {None: []}
    for row in encoded:
        found.setdefault(row.task, []).append(row)
    return found


def together(likelihoods: Sequence[Likelihood]) -> Likelihood:
    """The likelihood of all their rows."""
    return Likelihood(sum(one.nll for one in likelihoods), sum(one.tokens for one in likelihoods))


def task_scores(
    likelihoods: Mapping[str | None, Likelihood], rows: Sequence[Mapping[str, Any]], texts: Sequence[str | None]
) -> dict[str, TaskScores]:
    """Scores of each task; nothing when there is one.

    Args:
        likelihoods: of the rows of each task. rows: the answers, with their task. texts: tasks of the plain texts.
    """
    if len(likelihoods) < 2:
        return {}
    scores = {}
    for task, likelihood in likelihoods.items():
        answered = [row for row in rows if row.get("task") == task]
        metrics = {"perplexity": likelihood.perplexity}
        if answered:
            written, wanted = [row["prediction"] for row in answered], [row["reference"] for row in answered]
            metrics |= {name: score(written, wanted) for name, score in EVALUATORS.items()}
        scores[str(task)] = TaskScores(metrics, len(answered) + texts.count(task))
    return scores
