"""The same measurements task by task, where the test rows are of several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.evaluate.paired import Sums

Tasks = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Of one task: metrics as in `Evaluation`, and the test rows that were measured."""

    metrics: dict[str, float]
    row_count: int


def task_scores(
    perplexity: Sums, encoded: Tasks, answered: Mapping[str, Sums], asked: Tasks, texts: Tasks
) -> dict[str, TaskScores]:
    """Scores of each task; nothing when there is one.

    Args:
        perplexity: of the encoded rows, whose tasks are in `encoded`. answered: the scores of the answers, whose tasks
            are in `asked`. texts: tasks of the plain texts, which are among the encoded rows.
    """
    names = list(dict.fromkeys(encoded))
    if len(names) < 2:
        return {}
    scores = {}
    for name in names:
        rows = _rows_of(name, asked)
        metrics = {"perplexity": perplexity.only(_rows_of(name, encoded)).value}
        if rows:
            metrics |= {metric: sums.only(rows).value for metric, sums in answered.items()}
        scores[str(name)] = TaskScores(metrics, len(rows) + texts.count(name))
    return scores


def _rows_of(name: str | None, tasks: Tasks) -> list[int]:
    return [row for row, task in enumerate(tasks) if task == name]
