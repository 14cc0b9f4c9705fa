"""Test rows that a run has trained on: found, told with file and row on both sides, and left out of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunesmith.api.look import is_pretrained
from tunesmith.config import RunConfig, load_config
from tunesmith.data import overlaps, prepare
from tunesmith.errors import DataError
from tunesmith.evaluate import Evaluation, is_likelihood, report_labels, task_scores
from tunesmith.runs import Run
from tunesmith.types import Example, Place


@dataclass(frozen=True, slots=True)
class Leak:
    """A test row and the nearest row of the run's training or validation rows.

    kind: same text, same question or near. similarity: of their texts, 0 to 1. side: train or validation.
    """

    index: int
    file: str
    row: Place
    kind: str
    similarity: float
    seen_file: str
    seen_row: Place
    side: str


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What was found. `unchecked` says why nothing could be; then `leaks` is empty."""

    leaks: tuple[Leak, ...]
    unchecked: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Under `leakage` in eval/summary.json."""
        return {"unchecked": self.unchecked, "rows": [asdict(leak) for leak in self.leaks]}


def find_leaks(run: Run, config: RunConfig, test: Sequence[Example], *, source: str | None = None) -> LeakReport:
    """Compare test rows with the rows that the run was trained and chosen on, as its own settings divide its own file.

    Other test rows than the run's own may have been given in `config`: leaving their repetitions out of a training that
    is over would hide them.

    Args:
        source: the file that the test rows are from, where it is none of the run's own.
    """
    if is_pretrained(run):
        return LeakReport((), f"{run.name} was pre-trained on texts")
    stored = load_config(stored=run.config_path)
    try:
        prepared = prepare(stored)
    except DataError as error:
        return LeakReport((), f"the training rows cannot be read: {error.message}")
    if prepared.report.sha256 != run.manifest["data"]["sha256"]:
        return LeakReport((), f"{stored.data.path} has changed since {run.name} was trained")
    data = stored.data
    of_task = {one.task: one.path for one in data.sets}
    sides = [("train", of_task.get(row.task, data.path), row) for row in prepared.train]
    sides += [
        ("validation", of_task.get(row.task, data.validation_path or data.path), row) for row in prepared.validation
    ]
    return LeakReport(
        tuple(
            Leak(
                index=found.first,
                file=str(source or of_task.get(test[found.first].task, config.data.test_path or config.data.path)),
                row=_place(test[found.first]),
                kind=found.kind,
                similarity=round(found.similarity, 4),
                seen_file=str(sides[found.second][1]),
                seen_row=_place(sides[found.second][2]),
                side=sides[found.second][0],
            )
            for found in overlaps(test, [row for _, _, row in sides])
        )
    )


def without(evaluation: Evaluation, examples: Sequence[Example], leaks: LeakReport) -> Evaluation | None:
    """The same measurement of the test rows that are not leaks. None when nothing is left to score.

    Args:
        evaluation: of the examples.
    """
    leaked = {leak.index for leak in leaks.leaks}
    answered = [row for row, index in enumerate(evaluation.places) if index not in leaked]
    likely = [row for row, index in enumerate(evaluation.scored) if index not in leaked]
    if not likely or (evaluation.asked and not answered):
        return None
    rows = [evaluation.rows[row] for row in answered]
    by_label = evaluation.by_label and report_labels(
        [row["prediction"] for row in rows], [row["reference"] for row in rows]
    )
    scores = {name: sums.only(likely if is_likelihood(name) else answered) for name, sums in evaluation.scores.items()}
    asked = [evaluation.asked[row] for row in answered]
    scored = [evaluation.scored[row] for row in likely]
    texts = [example.task for index, example in enumerate(examples) if example.text is not None and index not in leaked]
    return replace(
        evaluation,
        scores=scores,
        rows=rows,
        row_count=len(asked) + len(texts),
        by_label=by_label,
        asked=asked,
        answers=[evaluation.answers[row] for row in answered],
        places=[evaluation.places[row] for row in answered],
        scored=scored,
        tasks=task_scores(scores, [examples[index].task for index in scored], [one.task for one in asked], texts),
    )


def _place(example: Example) -> Place:
    return example.row if example.sheet is None else f"{example.sheet}!{example.row}"
