"""A table on its side, with fields in rows, or one of things with questions as headings -> a row for each example.

    Question | Where is it? | Who are you?       question: Where is it?   answer: There.
    Answer   | There.       | A press.      ->   question: Who are you?   answer: A press.

    ID       | 1                                 ID: 1   question: Where is it?   answer: There.
    Question | Where is it?                 ->
    Answer   | There.
    ID       | 2

    Product | What is it?  | Is it loud?      question: Paper: What is it?   answer: Pulp.
    Paper   | Pulp.        |             ->   question: Paper: Is it loud?   answer:
    Press   | A machine.   | Yes.             question: Press: What is it?   answer: A machine.

Done where the first column names the parts of an example and no heading does, or where all other headings ask. Knows
nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from tunesmith.config import DataConfig
from tunesmith.data.clean import is_blank
from tunesmith.data.facts import is_code
from tunesmith.data.names import PARTIAL_WEIGHT, is_known_name, name_weight
from tunesmith.data.readers.header import are_names
from tunesmith.data.table import Table, cell_text
from tunesmith.types import Finding, Record

_SHEETS = ("xlsx", "xls", "ods", "csv", "tsv")
_EXAMPLES = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
_OF_COLUMNS = frozenset({"no_header", "numbers_among_texts"})  # findings about columns that are none
_FEWEST_BLOCKS = 3
_MOST_REGULAR = 0.9  # of the rows, from which on those of rare fields belong to their blocks
_MOST_NAMED = 4  # fields in one sentence


def transpose(table: Table, config: DataConfig) -> Table:
    """The table with a row for each example, or as it is where its rows are examples."""
    if table.format not in _SHEETS or len(table.columns) < 2 or len({row.sheet for row in table.records}) != 1:
        return table
    others = table.columns[1:]
    if config.shape == "text" or set(config.columns.values()) & set(table.columns) or any(map(is_known_name, others)):
        return table
    rows = [row for row in table.records if not is_blank(row.cells.values())]
    if not rows:
        return table
    if not any(finding.code == "no_header" for finding in table.findings):  # what was taken for one is a field too
        rows.insert(0, replace(rows[0], row=rows[0].row - 1, cells={name: name for name in table.columns}))
    found = _beside(rows, table.columns) or _below(rows, table.columns)
    if found is None:
        return _of_things(table) if config.shape in ("auto", "qa") else table
    records, where = found
    fields = list(dict.fromkeys(name for record in records for name in record.cells))
    shown = ", ".join(f'"{field}"' for field in fields[:_MOST_NAMED]) + (" .." if len(fields) > _MOST_NAMED else "")
    told = Finding("note", "transposed", f"the table lies on its side, with {shown} in rows: {where}")
    kept = [finding for finding in table.findings if finding.code not in _OF_COLUMNS]
    return replace(table, records=tuple(records), columns=tuple(fields), findings=(*kept, told))


def _beside(rows: Sequence[Record], columns: Sequence[str]) -> tuple[list[Record], str] | None:
    """Each field once, and an example in each further column, of which there are as many as fields: no glossary."""
    names, *others = columns
    fields = {_cell(row, names): row for row in rows}
    read = [field for field, row in fields.items() if not all(is_code(_cell(row, column)) for column in others)]
    if "" in fields or len(fields) < len(rows) or len(fields) > len(others) or not _are_parts(read):
        return None
    records = [
        Record(number, {field: row.cells.get(column, "") for field, row in fields.items()}, rows[0].sheet)
        for number, column in enumerate(others, start=1)
    ]
    return records, "each further column was read as an example, counted from 1"


def _below(rows: Sequence[Record], columns: Sequence[str]) -> tuple[list[Record], str] | None:
    """Fields again and again, a block for each example; "Question" and "Answer" alone are marks, as in a text."""
    names, *others = columns
    counts = Counter(_cell(row, names) for row in rows)
    if counts[_cell(rows[0], names)] == 1:  # a heading above the blocks
        counts.pop(_cell(rows[0], names))
        rows = rows[1:]
    fields = [name for name, count in counts.items() if count >= _FEWEST_BLOCKS]
    is_regular = sum(counts[name] for name in fields) >= _MOST_REGULAR * len(rows)
    if len(others) != 1 or "" in counts or not is_regular or len(fields) < 3 or not _are_parts(fields):
        return None
    records: list[Record] = []
    block: dict[str, object] = {}
    for row in rows:
        field = _cell(row, names)
        if not block or field in block:
            block = {}
            records.append(replace(row, cells=block))
        block[field] = row.cells.get(others[0], "")
    return records, "each block of them was read as an example"


def _of_things(table: Table) -> Table:
    """The table with a row for each question about each thing, or as it is where its rows are no things."""
    names, *asked = table.columns
    rows = [row for row in table.records if not is_blank(row.cells.values())]
    if (
        len(asked) < 2
        or not all(map(_asks, asked))
        or _asks(names)
        or not are_names([_cell(row, names) for row in rows])
    ):
        return table
    if any(name_weight(question, part) for question in asked for part in _EXAMPLES[0]):  # "What is your question?"
        return table
    records = [
        replace(row, cells={"question": f"{_cell(row, names)}: {question}", "answer": row.cells.get(question, "")})
        for row in rows
        for question in asked
    ]
    answers = [answer for record in records if (answer := _cell(record, "answer"))]
    if any(map(_asks, answers)):
        return table
    told = Finding(
        "note",
        "questions_as_headings",
        f'the headings ask about what is named in column "{names}": {len(answers)} cells were read as answers to '
        f'questions such as "{records[0].cells["question"]}"',
        fix="to have them asked in other words, write a row for each question with its answer",
    )
    kept = [finding for finding in table.findings if finding.code not in _OF_COLUMNS]
    return replace(table, records=tuple(records), columns=("question", "answer"), findings=(*kept, told))


def _asks(text: str) -> bool:
    return text.endswith(("?", "？", "؟"))


def _cell(row: Record, name: str) -> str:
    return cell_text(row.cells.get(name)).strip()


def _are_parts(fields: Collection[str]) -> bool:
    """Whether a question and its answer, or the like, are among them by name."""
    return any(
        all(any(name_weight(field, part) >= PARTIAL_WEIGHT for field in fields) for part in parts)
        for parts in _EXAMPLES
    )
