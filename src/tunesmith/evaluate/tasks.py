"""The same measurements task by task, where the test rows are of several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.evaluate.evaluators import is_likelihood
from tunesmith.evaluate.paired import Sums

Tasks = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Of one task: metrics as in `Evaluation`, and the test rows that were measured."""

    metrics: dict[str, float]
    row_count: int


def task_scores(scores: Mapping[str, Sums], encoded: Tasks, asked: Tasks, texts: Tasks) -> dict[str, TaskScores]:
    """Scores of each task; nothing when there is one.

    Args:
        encoded: tasks of the rows whose likelihood was measured. asked: of the questions that were answered. texts: of
            the plain texts, which are among the encoded rows.
    """
    names = list(dict.fromkeys(encoded))
    if len(names) < 2:
        return {}
    found = {}
    for name in names:
        rows = {True: _rows_of(name, encoded), False: _rows_of(name, asked)}
        metrics = {
            metric: sums.only(kept).value for metric, sums in scores.items() if (kept := rows[is_likelihood(metric)])
        }
        found[str(name)] = TaskScores(metrics, len(rows[False]) + texts.count(name))
    return found


def _rows_of(name: str | None, tasks: Tasks) -> list[int]:
    return [row for row, task in enumerate(tasks) if task == name]
