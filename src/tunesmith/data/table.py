"""Table: what every reader returns. Also how a cell of any type becomes text, exactly.

Knows nothing of files, shapes or training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal

from tunesmith.types import Finding, Record


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    `columns` are in order of first appearance, over all sheets. `unreadable` maps a reason to rows that are in the file
    but in no record. `continuous` marks consecutive pieces of one document. `sha256` is that of the file on disk.
    """

    path: str
    format: str
    records: tuple[Record, ...]
    columns: tuple[str, ...]
    sheets: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None
    unreadable: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    continuous: bool = False
    sha256: str = ""

    @property
    def rows_read(self) -> int:
        """Every row of the file, those in no record included."""
        return len(self.records) + sum(map(len, self.unreadable.values()))


def cell_text(value: object) -> str:
    """A cell as a person would write it. Missing values are empty, nested ones are JSON.

    >>> [cell_text(value) for value in (501.0, 1.5, "00501", True, None, date(2024, 1, 5))]
    ['501', '1.5', '00501', 'true', '', '2024-01-05']
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float():
            return _number_text(value)
        case Decimal():
            return format(value, "f")
        case bytes():
            return value.decode("utf-8", errors="replace")
        case datetime() | date() | time() | timedelta():
            return _moment_text(value)
        case list() | dict() | tuple():
            return json.dumps(value, ensure_ascii=False, default=cell_text)
        case _:
            return str(value)


def counted(number: int, noun: str) -> str:
    """How many there are of something.

    >>> counted(1, "row"), counted(30, "row")
    ('1 row', '30 rows')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shortened(text: str, characters: int) -> str:
    """The beginning of a text that is too long to show, with two dots; else all of it.

    >>> shortened("a long text", 6), shortened("a text", 6)
    ('a long..', 'a text')
    """
    return text if len(text) <= characters else f"{text[:characters]}.."


def columns_of(records: Iterable[Record]) -> tuple[str, ...]:
    """Every column that occurs, in order of first appearance."""
    return tuple(dict.fromkeys(name for record in records for name in record.cells))


def _number_text(value: float) -> str:
    if math.isnan(value):
        return ""  # how data frames write a missing value
    if value.is_integer():
        return str(int(value))
    return format(value, ".15g") if float(format(value, ".15g")) == value else repr(value)


def _moment_text(value: datetime | date | time | timedelta) -> str:
    if isinstance(value, timedelta):
        minutes, seconds = divmod(round(abs(value.total_seconds())), 60)
        return f"{'-' if value < timedelta() else ''}{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return value.isoformat()
