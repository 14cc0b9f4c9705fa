"""The user's own column of difficulties: numbers, or words for them. Knows nothing of order or training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tunesmith.data.report import rows_text
from tunesmith.data.table import Table, cell_text
from tunesmith.errors import DataError, did_you_mean
from tunesmith.types import Example, Place

# words that people grade with -> where they stand among each other
GRADES: Mapping[str, float] = {
    **{"very easy": 0.0, "easy": 1.0, "medium": 2.0, "hard": 3.0, "very hard": 4.0},
    **{"beginner": 1.0, "intermediate": 2.0, "advanced": 3.0, "expert": 4.0},
    **{"low": 1.0, "normal": 2.0, "moderate": 2.0, "difficult": 3.0, "high": 3.0},
}


def difficulty_of(cell: object) -> float | None:
    """A cell as a number, small for easy; None when it is neither a finite number nor a grade.

    >>> [difficulty_of(cell) for cell in ("2.5", " Hard ", "", "who knows")]
    [2.5, 3.0, None, None]
    """
    text = cell_text(cell).strip().lower()
    try:
        number = float(text)
    except ValueError:
        return GRADES.get(text)
    return number if math.isfinite(number) else None


def with_difficulties(
    examples: Sequence[Example], table: Table, column: str, *, place: Callable[[Example], Place]
) -> list[Example]:
    """Examples of a table with the difficulty that stands in their row.

    Raises:
        DataError: there is no such column, or a row has no difficulty in it.
    """
    if column not in table.columns:
        raise DataError(
            f"{table.path} has no column {column!r} (train.curriculum_column)"
            f"{did_you_mean(column, table.columns, cutoff=0.5)}",
            cause=f"its columns are {', '.join(map(repr, table.columns))}",
            fix="set train.curriculum_column to one of them, or take train.curriculum_by length or loss",
        )
    cells = {(record.sheet, record.row): record.cells.get(column) for record in table.records}
    found = [difficulty_of(cells[example.sheet, example.row]) for example in examples]
    bad = [example for example, difficulty in zip(examples, found, strict=True) if difficulty is None]
    if bad:
        shown = cell_text(cells[bad[0].sheet, bad[0].row])
        raise DataError(
            f"{table.path}: column {column!r} holds no difficulty in {rows_text([place(example) for example in bad])}",
            cause=f"the first of them holds {shown!r}" if shown.strip() else "the first of them is empty",
            fix=f"write a number, small for easy, or one of: {', '.join(GRADES)}",
        )
    return [replace(example, difficulty=value) for example, value in zip(examples, found, strict=True)]
