"""One training file or several -> examples on three sides: each file by itself, then kept apart from the others.

Every data set is divided by itself, so that validation and test hold rows of each task. What one shares with another is
dropped and named: no row is trained on whose question another data set is measured with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.config import DataConfig, RunConfig, task_names
from tunesmith.data.clean import question_key
from tunesmith.data.mix import apportion, mixing_shares
from tunesmith.data.notices import example_place
from tunesmith.data.prepare import Prepared, prepare_file
from tunesmith.data.report import DataReport, measure
from tunesmith.data.split import SIDES
from tunesmith.errors import DataError
from tunesmith.types import Example, Message, Place


def prepare(config: RunConfig) -> Prepared:
    """Read the training file or files, and their validation and test files, into clean, divided examples.

    Examples of several data sets carry their task. See `prepare_file` for what is done with each file.

    Raises:
        DataError: a file cannot be used, or no row of it can be trained on.
        SettingsError: a setting of the data names what does not exist.
    """
    each = config.data.each()
    if len(each) == 1:
        return prepare_file(config.model_copy(update={"data": each[0]}))
    parts = [
        _Part.of(task, prepare_file(config.model_copy(update={"data": one})))
        for task, one in zip(task_names(config.data.sets), each, strict=True)
    ]
    _keep_apart(parts)
    if config.data.drop_duplicates:
        _drop_repeated(parts)
    for part in parts:
        part.refuse_empty()
    train, validation, test = ([row for part in parts for row in part.sides[side]] for side in SIDES)
    return Prepared(train, validation, test, _merged(parts, config.data))


def spread_over_tasks(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """At most `limit` examples, the first of each task, in proportion to how many it has."""
    by_task: dict[str | None, list[Example]] = {}
    for example in examples:
        by_task.setdefault(example.task, []).append(example)
    if limit is None or limit >= len(examples) or not examples:
        return list(examples)
    counts = apportion([len(rows) / len(examples) for rows in by_task.values()], limit)
    return [row for rows, count in zip(by_task.values(), counts, strict=True) for row in rows[:count]]


@dataclass(slots=True)
class _Part:
    """One data set on its way."""

    task: str
    sides: dict[str, list[Example]]
    report: DataReport

    @classmethod
    def of(cls, task: str, prepared: Prepared) -> _Part:
        sides = {side: [replace(row, task=task) for row in getattr(prepared, side)] for side in SIDES}
        return cls(task, sides, prepared.report)

    def place(self, row: Example, side: str) -> Place:
        """How a row is named among those of this data set: with its file where it has several."""
        name = example_place(row, several_sheets=len(self.report.columns_by_sheet) > 1)
        if len(self.report.files) == 1:
            return name
        given = next((file for file in self.report.files if file.side == side), self.report.files[0])
        return f"{Path(given.path).name}:{name}"

    def drop(self, side: str, reasons: Mapping[int, str]) -> None:
        """Leave rows of a side out, by position, and account for them."""
        if not reasons:
            return
        rows = self.sides[side]
        dropped = {reason: list(places) for reason, places in self.report.dropped.items()}
        for position, reason in reasons.items():
            dropped.setdefault(reason, []).append(self.place(rows[position], side))
        self.sides[side] = [row for position, row in enumerate(rows) if position not in reasons]
        source = side if any(file.side == side for file in self.report.files) else "data"
        self.report = replace(
            self.report,
            rows_kept=self.report.rows_kept - len(reasons),
            dropped={reason: tuple(places) for reason, places in dropped.items()},
            split={**self.report.split, side: len(self.sides[side])},
            files=tuple(
                replace(file, rows_kept=file.rows_kept - len(reasons)) if file.side == source else file
                for file in self.report.files
            ),
            lengths=measure(self.placed(self.place)),
        )

    def placed(self, name: Callable[[Example, str], Place]) -> Iterable[tuple[Example, Place]]:
        """Every row with its name."""
        return ((row, name(row, side)) for side, rows in self.sides.items() for row in rows)

    def refuse_empty(self) -> None:
        """Raises DataError: no row is left to train on."""
        if not self.sides["train"]:
            reasons = "; ".join(f"{len(rows)} {reason}" for reason, rows in self.report.dropped.items())
            raise DataError(
                f"{self.report.files[0].path} (task {self.task}) has no row left to train on",
                cause=reasons or None,
                fix="leave the file out of the data sets, or give other rows",
            )


def _keep_apart(parts: Sequence[_Part]) -> None:
    """Drop rows whose question another data set has in its test side, then those that one has for validation."""
    guarded: list[tuple[str, _Part, set[str]]] = []
    for side in reversed(SIDES):
        keys = [[question_key(row) for row in part.sides[side]] for part in parts]
        for part, own in zip(parts, keys, strict=True):
            reasons: dict[int, str] = {}
            for other_side, other, questions in guarded:
                if other is not part:
                    reason = f"question is in the {other_side} rows of {other.task}"
                    shared = (position for position, key in enumerate(own) if key in questions)
                    for position in shared:
                        reasons.setdefault(position, reason)
            part.drop(side, reasons)
        guarded += [(side, part, set(own)) for part, own in zip(parts, keys, strict=True)]


def _drop_repeated(parts: Sequence[_Part]) -> None:
    """Drop training rows that an earlier data set has too, word for word."""
    first: dict[tuple[tuple[Message, ...], str | None], _Part] = {}
    for part in parts:
        rows = part.sides["train"]
        owners = [first.setdefault((row.messages, row.text), part) for row in rows]
        part.drop(
            "train",
            {
                position: f"exact duplicate of a row of {owner.task}"
                for position, owner in enumerate(owners)
                if owner is not part
            },
        )


def _merged(parts: Sequence[_Part], config: DataConfig) -> DataReport:
    """What was done with all of them, and with each under its task."""
    reports = {part.task: part.report for part in parts}
    file_names = [Path(file.path).name for report in reports.values() for file in report.files]

    def place(part: _Part, name: Place) -> Place:
        if len(part.report.files) > 1:
            return f"{part.task}/{name}"
        file = Path(part.report.files[0].path).name
        return f"{file if file_names.count(file) == 1 else part.task}:{name}"

    dropped: dict[str, list[Place]] = {}
    for part in parts:
        for reason, rows in part.report.dropped.items():
            dropped.setdefault(reason, []).extend(place(part, row) for row in rows)
    named = ((row, place(part, name)) for part in parts for row, name in part.placed(part.place))
    shapes = [report.shape for report in reports.values()]
    sizes = [report.split["train"] for report in reports.values()]
    shares = mixing_shares(sizes, weights=list(config.weights.values()), temperature=config.temperature)
    return DataReport(
        shape=next((shape for shape in shapes if shape != "text"), "text"),
        columns={},
        score=min(report.score for report in reports.values()),
        reason=f"{len(parts)} data sets",
        rows_read=sum(report.rows_read for report in reports.values()),
        rows_kept=sum(report.rows_kept for report in reports.values()),
        dropped={reason: tuple(rows) for reason, rows in dropped.items()},
        split={side: sum(len(part.sides[side]) for part in parts) for side in SIDES},
        files=tuple(file for report in reports.values() for file in report.files),
        lengths=measure(named),
        tasks=reports,
        shares=dict(zip(reports, shares, strict=True)),
    )
