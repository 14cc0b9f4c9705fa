"""What preparing the data did, for people and for programs. Knows how to print and to serialise, nothing else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tunesmith.data.table import counted
from tunesmith.types import Example, Finding, Place

SCHEMA_VERSION = 1
_ROWS_SHOWN = 3
_LABELS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file and what was in it. `side` is what it was given for: data, validation or test."""

    path: str
    sha256: str
    format: str
    side: str
    rows_read: int
    rows_kept: int
    sheets: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class LengthReport:
    """Lengths in characters; `row` is where the longest is."""

    median: float
    p95: int
    longest: int
    row: Place


@dataclass(frozen=True, slots=True)
class DataReport:
    """Everything that preparing found and did. rows_read = rows_kept + all rows in `dropped`.

    labels: training rows of each label, where the rows are to be classified.
    Of several data sets: `tasks` holds the report of each, which alone say columns and findings, and `shares` the share
    of the training rows that each is mixed with.
    """

    shape: str
    columns: Mapping[str, str]
    score: float
    reason: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, tuple[Place, ...]]
    split: Mapping[str, int]
    files: tuple[FileReport, ...]
    lengths: Mapping[str, LengthReport]
    sheets: tuple[str, ...] = ()
    columns_by_sheet: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    alternatives: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, DataReport] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of the file; of the files' sums in order when there are several."""
        if len(self.files) == 1:
            return self.files[0].sha256
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, text and numbers: what `data inspect --json` prints and a run's manifest stores."""
        plain = asdict(self)
        dropped = {reason: list(rows) for reason, rows in self.dropped.items()}
        return {"schema_version": SCHEMA_VERSION, **plain, "dropped": dropped, "sha256": self.sha256}

    def to_text(self) -> str:
        """Aligned lines for the terminal."""
        return "\n".join(f"{name:<9}{text}" for name, text in _first_of_each(self._lines()))

    def _lines(self) -> list[tuple[str, str]]:
        if self.tasks:
            return [*self._lines_of_tasks(), ("all", f"{len(self.tasks)} data sets: {self._split_clause()}")]
        rows: list[tuple[str, str]] = [("data", self._file_clause(file)) for file in self.files]
        rows.append(("shape", f"{self.shape} ({self.score:.2f}): {self.reason}"))
        rows += [("dropped", f"{len(at)} {reason}: {rows_text(at)}") for reason, at in self.dropped.items()]
        rows.append(("split", self._split_clause()))
        if self.labels:
            rows.append(("labels", _labels_clause(self.labels)))
        for part, lengths in self.lengths.items():
            of = f"{part}: median {lengths.median:g}, 95% up to {lengths.p95}, longest {lengths.longest} characters"
            rows.append(("lengths", f"{of} ({rows_text([lengths.row])})"))
        rows += [(finding.level, _finding_text(finding)) for finding in self.findings]
        return rows

    def _lines_of_tasks(self) -> Iterable[tuple[str, str]]:
        for task, report in self.tasks.items():
            yield "task", f"{task}: {self.shares[task]:.1%} of the rows that training sees"
            yield from report._lines()

    def _split_clause(self) -> str:
        return ", ".join(f"{count} {side}" for side, count in self.split.items())

    def _file_clause(self, file: FileReport) -> str:
        details = [file.format]
        if len(file.sheets) == 1:
            details.append(f'sheet "{file.sheets[0]}"')
        elif file.sheets:
            details.append(f"{len(file.sheets)} sheets")
        details += [file.encoding] if file.encoding and file.encoding != "utf-8" else []
        purpose = "" if file.side == "data" else f" for {file.side}"
        rows = f"{counted(file.rows_read, 'row')} read, {file.rows_kept} kept"
        return f"{_shown(file.path)}{purpose} ({', '.join(details)}): {rows}"


def _shown(path: str) -> str:
    """As one would type it here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def rows_text(rows: Sequence[Place]) -> str:
    """Rows for people, the first few by name.

    >>> rows_text([5, 9, 12, 40, 41])
    'rows 5, 9, 12 and 2 more'
    """
    shown = ", ".join(str(row) for row in rows[:_ROWS_SHOWN])
    more = f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def measure(examples: Iterable[tuple[Example, Place]]) -> dict[str, LengthReport]:
    """Lengths of questions and answers, or of plain texts. `examples` come with the name of their row."""
    sizes: dict[str, list[tuple[int, Place]]] = {}
    for example, place in examples:
        texts = {"text": example.text} if example.text is not None else _question_and_answer(example)
        for part, text in texts.items():
            sizes.setdefault(part, []).append((len(text), place))
    return {part: _lengths(found) for part, found in sizes.items()}


def _labels_clause(labels: Mapping[str, int]) -> str:
    """'2, with training rows: ham (3862), spam (513)', or of many the rarest and the most frequent."""
    ordered = sorted(labels, key=lambda label: labels[label])
    if len(labels) <= _LABELS_SHOWN:
        counts = ", ".join(f"{label} ({labels[label]})" for label in reversed(ordered))
        return f"{len(labels)}, with training rows: {counts}"
    rare, frequent = ordered[0], ordered[-1]
    return f"{len(labels)}, with {labels[rare]} ({rare}) to {labels[frequent]} ({frequent}) training rows each"


def _question_and_answer(example: Example) -> dict[str, str]:
    return {"question": example.question, "answer": example.answer}


def _lengths(found: Sequence[tuple[int, Place]]) -> LengthReport:
    ordered = sorted(size for size, _ in found)
    longest, row = max(found, key=lambda item: item[0])
    return LengthReport(float(median(ordered)), ordered[math.ceil(0.95 * len(ordered)) - 1], longest, row)


def _finding_text(finding: Finding) -> str:
    rows = f" ({rows_text(finding.rows)})" if finding.rows else ""
    fix = f"; {finding.fix}" if finding.fix else ""
    return f"{finding.message}{rows}{fix}"


def _first_of_each(rows: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Blank out a name that repeats the one above it."""
    last = ""
    for name, text in rows:
        yield ("" if name == last else name), text
        last = name
