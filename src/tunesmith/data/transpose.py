"""A table on its side, with fields in rows and examples in columns -> a row for each example.

    Question | Where is it? | Who are you?       question: Where is it?   answer: There.
    Answer   | There.       | A press.      ->   question: Who are you?   answer: A press.

Done where the first column names the parts of an example, each once, and no heading does. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.config import DataConfig
from tunesmith.data.clean import is_blank
from tunesmith.data.names import ORDINARY_WEIGHT, is_known_name, name_weight
from tunesmith.data.table import Table, cell_text
from tunesmith.types import Finding, Record

_SHEETS = ("xlsx", "xls", "ods", "csv", "tsv")
_EXAMPLES = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
_OF_COLUMNS = frozenset({"no_header", "numbers_among_texts"})  # findings about columns that are none
_MOST_FIELDS = 40
_MOST_NAMED = 4  # fields in one sentence


def transpose(table: Table, config: DataConfig) -> Table:
    """The table with a row for each example, or as it is where its rows are examples."""
    if table.format not in _SHEETS or len(table.columns) < 2 or len({row.sheet for row in table.records}) != 1:
        return table
    names, *others = table.columns
    if config.shape == "text" or set(config.columns.values()) & set(table.columns) or any(map(is_known_name, others)):
        return table
    rows = [dict(row.cells) for row in table.records if not is_blank(row.cells.values())]
    if not any(finding.code == "no_header" for finding in table.findings):
        rows.insert(0, {name: name for name in table.columns})  # what was taken for the headings is a field too
    fields = {cell_text(row.get(names)).strip(): row for row in rows}
    if "" in fields or len(fields) < len(rows) or len(fields) > _MOST_FIELDS or not _are_parts(list(fields)):
        return table
    sheet = table.records[0].sheet
    records = tuple(
        Record(number, {field: row.get(column, "") for field, row in fields.items()}, sheet)
        for number, column in enumerate(others, start=1)
    )
    shown = ", ".join(f'"{field}"' for field in list(fields)[:_MOST_NAMED])
    told = Finding(
        "note",
        "transposed",
        f"the table lies on its side, with {shown}{' ..' if len(fields) > _MOST_NAMED else ''} in rows: each further "
        "column was read as an example, counted from 1",
    )
    kept = [finding for finding in table.findings if finding.code not in _OF_COLUMNS]
    return replace(table, records=records, columns=tuple(fields), findings=(*kept, told))


def _are_parts(fields: Sequence[str]) -> bool:
    """Whether a question and its answer, or the like, are among them by names that settle it."""
    return any(
        all(any(name_weight(field, part) > ORDINARY_WEIGHT for field in fields) for part in parts)
        for parts in _EXAMPLES
    )
