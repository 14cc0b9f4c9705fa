"""Rows of several forms in one file, as where data sets were put one after the other -> a table for each form.

    {"messages": [..]}                      a table of conversations
    {"instruction": .., "output": ..}   ->  a table of instructions
    {"messages": [..]}

Only what the names of the columns settle; preferences and rows with labels are no form. Knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from tunesmith.data.clean import is_blank
from tunesmith.data.columns import named_shape
from tunesmith.data.facts import Kind, cell_kind
from tunesmith.data.names import REJECTED, normalise_name
from tunesmith.data.table import Table, columns_of, counted
from tunesmith.types import Finding, Record

_FORMATS = ("json", "jsonl", "parquet")  # of a sheet, all rows have the same columns
_SAMPLED_ROWS = 50  # of those with the same columns
_MOST_FORMS = 20  # of one file; with more of them the columns are named by something else

Shaped = tuple[str, frozenset[str]]  # a shape and the columns that it needs
Filled = tuple[tuple[str, Kind], ...]  # names and kinds of the cells of a row that are not blank


@dataclass(frozen=True, slots=True)
class Form:
    """Rows that are read alike. `shape` is None where the names do not tell it."""

    shape: str | None
    table: Table


def by_form(table: Table) -> list[Form]:
    """The rows of each form, the most common one first, with the rows of none; a table of one form as it is."""
    whole = [Form(None, table)]
    if table.format not in _FORMATS or not table.records:
        return whole
    filled = [_filled(record) for record in table.records]
    rows_with: dict[Filled, list[Record]] = {}
    for record, cells in zip(table.records, filled, strict=True):
        rows_with.setdefault(cells, []).append(record)
    shape_of = {cells: _shape(cells, rows) for cells, rows in rows_with.items()}
    counts: dict[Shaped, int] = {}
    for cells, rows in rows_with.items():
        if (found := shape_of[cells]) is not None:
            counts[found] = counts.get(found, 0) + len(rows)
    if 2 * sum(counts.values()) < len(table.records) or len(counts) > _MOST_FORMS:
        return whole
    common = sorted(counts, key=lambda form: -counts[form])
    of_rows = [
        _form(record, {name for name, _ in cells}, shape_of[cells], common)
        for record, cells in zip(table.records, filled, strict=True)
    ]
    forms = [form for form in common if form in of_rows]
    if len(forms) == 1:
        return [Form(forms[0][0], table)]
    return _divided(table, of_rows, forms)


def _filled(record: Record) -> Filled:
    return tuple(
        (name, "text" if isinstance(cell, str) else cell_kind(cell))
        for name, cell in record.cells.items()
        if not is_blank([cell])
    )


def _shape(filled: Filled, rows: Sequence[Record]) -> Shaped | None:
    names = [name for name, _ in filled]
    if any(normalise_name(name) in REJECTED for name in names):
        return None
    return named_shape(rows[:_SAMPLED_ROWS], names)


def _form(
    record: Record,
    filled: Collection[str],
    found: Shaped | None,
    common: Sequence[Shaped],
) -> Shaped | None:
    """The form of a row: one that is more common, where the row has its columns with a gap in them, else its own.

    {"instruction": "", "input": "a", "output": "b"} among instructions is none of input and output.
    """
    own = common.index(found) if found is not None else len(common)
    is_chat = found is not None and found[0] in ("messages", "sharegpt")
    for form in [] if is_chat else common[:own]:
        if form[1] <= record.cells.keys() and not form[1].isdisjoint(filled):
            return form
    return found


def _divided(table: Table, of_rows: Sequence[Shaped | None], forms: Sequence[Shaped]) -> list[Form]:
    """The rows of each of these forms; those of none stay with the first ones, which have none of their columns."""
    divided: list[Form] = []
    for shape, columns in forms:
        rows = [
            record
            for record, form in zip(table.records, of_rows, strict=True)
            if form == (shape, columns) or (form is None and not divided)
        ]
        part = replace(table, records=tuple(rows), columns=columns_of(rows), findings=(), unreadable={})
        divided.append(Form(shape, part))
    rows_of = Counter(of_rows)
    listed = ", ".join(
        f"{'/'.join(name for name in table.columns if name in form[1])} ({counted(rows_of[form], 'row')})"
        for form in forms
    )
    told = Finding("note", "several_forms", f"the rows have {len(forms)} forms, each read by its own columns: {listed}")
    first = replace(divided[0].table, findings=(*table.findings, told), unreadable=table.unreadable)
    return [replace(divided[0], table=first), *divided[1:]]
