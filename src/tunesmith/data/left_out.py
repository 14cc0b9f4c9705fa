"""What the chosen columns leave out: others that could be the same part, those that mean something, empty cells. And
cells that are no text.

Told, never changed. Knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from tunesmith.data.clean import is_blank
from tunesmith.data.examples import EMPTY
from tunesmith.data.facts import ColumnFacts, as_turns, column_facts
from tunesmith.data.names import PARTIAL_WEIGHT, REJECTED, name_weight, normalise_name
from tunesmith.data.notices import example_place
from tunesmith.data.table import Table, cell_text, counted, shortened
from tunesmith.types import Finding, Place, Record

_CHATS = ("messages", "sharegpt")
_PAIRS: Mapping[str, tuple[str, ...]] = {
    "qa": ("question", "answer"),
    "instruction": ("instruction", "output"),
    "prompt": ("prompt", "completion"),
}
_NOT_WANTED = frozenset({"false", "0", "no"})  # of a label beside a chat
_JUDGING = frozenset(
    {"feedback", "thumb", "reaction", "vote", "verdict"}
)  # in the name of what people thought of answers
_BAD = frozenset(
    {"thumbs down", "thumb down", "thumbsdown", "thumbs-down", "down", "downvote", "dislike", "disliked", "negative"}
    | {"bad", "wrong", "incorrect", "not helpful", "unhelpful", "schlecht", "falsch", "👎", "-1"}
)
_WINNERS = frozenset({"winner", "preferred", "preference", "better"})  # in the name of a column that chooses an answer
_MARKS = frozenset({"a", "b", "c", "d", "1", "2", "3", "4"})  # by which the columns of several answers differ
_MOST_NAMED = 8  # columns in one sentence
_LONGEST_SHOWN = 60  # characters of a cell
_MOST_FORMS = 3  # in one sentence
_MANY_EMPTY = 0.2  # of the rows, from which on it is worth a word of its own


def left_out(
    shape: str, columns: Mapping[str, str], table: Table, *, used: Collection[str | None], used_columns: Collection[str]
) -> Iterable[Finding]:
    """Findings about the columns that are not trained on.

    columns: of each part, on the main sheet. used: the sheets that are read; used_columns: of all of them.
    """
    meant = dict(_of_chats(shape, columns, table))
    yield from meant.values()
    if shape in _CHATS:
        yield from _weights(columns, table)
    records = [record for record in table.records if record.sheet in used]
    for part in _PAIRS.get(shape, ("",))[1:]:
        yield from _as_json(columns[part], records)
    present = {name for record in records for name in record.cells}
    free = column_facts(records, [name for name in table.columns if name in present and name not in used_columns])
    told = set(meant)
    for part in _PAIRS.get(shape, ()):
        rivals = [
            fact.name for fact in free.values() if fact.is_prose and name_weight(fact.name, part) >= PARTIAL_WEIGHT
        ]
        rivals = [name for name in rivals if name not in told]
        if rivals:
            told.update(rivals)
            yield Finding(
                "warning",
                f"other_{part}",
                f'the {part} is column "{columns[part]}"; {_named(rivals)} could be it too and '
                f"{'is' if len(rivals) == 1 else 'are'} not trained on",
                fix=f'to choose: --data.columns.{part} "{rivals[0]}"; to learn from all, give each rows of its own',
            )
    if shape in _PAIRS and (finding := _two_answers(columns[_PAIRS[shape][1]], list(free.values()))):
        yield finding
    rest = [fact.name for fact in free.values() if fact.filled and fact.name not in told]
    if rest:
        yield Finding("note", "columns_left_out", f"not trained on: {_named(rest)}")


def _two_answers(answer: str, free: Sequence[ColumnFacts]) -> Finding | None:
    """Whether another column says which of several answers is the better one, as of "response_a" and "response_b"."""
    says = next((fact.name for fact in free if set(normalise_name(fact.name).split()) & _WINNERS), None)
    stem = set(normalise_name(answer).split()) - _MARKS
    others = [fact.name for fact in free if set(normalise_name(fact.name).split()) - _MARKS == stem and fact.is_prose]
    if says is None or not others:
        return None
    return Finding(
        "warning",
        "better_answer",
        f'column "{says}" says which answer is better; "{answer}" is learnt in every row, never {_named(others)}',
        fix='write the better answer of each row into a column "chosen"',
    )


def _as_json(column: str, records: Sequence[Record]) -> Iterable[Finding]:
    """Whether answers are objects or lists: all, as where fields are to be found in a text, or a few among texts."""
    filled = [(record.row, record.cells[column]) for record in records if not is_blank([record.cells.get(column)])]
    nested = [(row, cell) for row, cell in filled if isinstance(cell, (list, dict))]
    if nested:
        shown = shortened(cell_text(nested[0][1]), _LONGEST_SHOWN)
        are_few = len(nested) < len(filled)
        where = f" in {counted(len(nested), 'row')}" if are_few else ""
        yield Finding(
            "warning" if are_few else "note",
            "json_answers",
            f'column "{column}" holds objects or lists{where}, learnt as JSON, such as {shown}',
            fix="to learn a part of them alone, write it as a text",
            rows=tuple(row for row, _ in nested) if are_few else (),
        )


def empty_cells(
    shape: str, columns: Mapping[str, str], table: Table, dropped: Mapping[str, Sequence[Place]], *, rows: int
) -> Iterable[Finding]:
    """Findings about a part whose column is empty in many rows, or beside an answer that may go on, with what its
    owner may have meant.

    dropped: the rows left out for each reason; rows: how many were read.
    """
    single = (record for record in table.records if record.sheet is None)  # of sheets each has its own columns
    foreign = [record for record in single if not any(column in record.cells for column in columns.values())]
    if foreign:
        yield _of_other_forms(foreign, columns)
    asking, *answering = _PAIRS.get(shape, ("",))
    for part in filter(None, (asking, *answering)):
        elsewhere = {record.row for record in foreign}
        places = [place for place in dropped.get(EMPTY + part, ()) if place not in elsewhere]
        are_many = len(places) >= max(2, _MANY_EMPTY * rows)
        goes_on = part == asking and any(_only(places, columns[other], table) for other in answering)
        if not are_many and not (goes_on and len(table.columns) > 2):  # of two columns every such row looks so
            continue
        facts = column_facts(table.records, table.columns)
        others = [fact.name for fact in facts.values() if fact.name not in columns.values() and fact.is_prose]
        fixes = [f'to use another column: --data.columns.{part} "{others[0]}"'] if others and are_many else []
        if part == asking:
            fixes.insert(0, f"where the {part} is that of the row above, merge the cells or fill it down in the sheet")
        if goes_on:
            fixes.insert(0, f"where the {answering[-1]} goes on from the row above, write it into one cell")
        yield Finding(
            "warning",
            f"many_empty_{part}",
            f'{len(places)} of {rows} rows have nothing in column "{columns[part]}" and were left out',
            fix="; ".join(fixes) or "fill them in",
            rows=tuple(places),
        )


def _only(places: Sequence[Place], column: str, table: Table) -> bool:
    """Whether one of these rows has nothing but a cell of this column, as where the cell above goes on in it."""
    alone = {
        example_place(record, several_sheets=isinstance(places[0], str))
        for record in table.records
        if places and [name for name, cell in record.cells.items() if not is_blank([cell])] == [column]
    }
    return not alone.isdisjoint(places)


def _of_other_forms(records: Sequence[Record], columns: Mapping[str, str]) -> Finding:
    """Rows of JSON that have none of the columns, as where several data sets were put into one file."""
    forms = Counter(tuple(name for name, cell in record.cells.items() if not is_blank([cell])) for record in records)
    shown = "; ".join(f"{_named(list(names))} ({count})" for names, count in forms.most_common(_MOST_FORMS) if names)
    more = f"; and {len(forms) - _MOST_FORMS} other forms" if len(forms) > _MOST_FORMS else ""
    return Finding(
        "warning",
        "other_forms",
        f"{counted(len(records), 'row')} without {_named(list(columns.values()))}, left out; "
        f"found instead: {shown or 'nothing'}{more}",
        fix="write the rows of each form to a file of its own, and name all of the files",
        rows=tuple(record.row for record in records),
    )


def _named(columns: list[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in columns[:_MOST_NAMED])
    more = f" and {len(columns) - _MOST_NAMED} more" if len(columns) > _MOST_NAMED else ""
    return f"column{'s' if len(columns) > 1 else ''} {shown}{more}"


def _of_chats(shape: str, columns: Mapping[str, str], table: Table) -> Iterable[tuple[str, Finding]]:
    """Columns of chat and preference data that mean something to others and are not trained on, and what to say."""
    free = {normalise_name(name): name for name in table.columns if name not in columns.values()}
    is_chat = shape in _CHATS
    for key in sorted(REJECTED & free.keys()):
        yield (
            free[key],
            Finding("note", "rejected_answers", f'column "{free[key]}" holds rejected answers: not trained on'),
        )
    tools = next((name for key, name in free.items() if key.split()[-1:] == ["tool"]), None)
    if is_chat and tools is not None:
        yield (
            tools,
            Finding(
                "warning",
                "tools_left_out",
                f'column "{tools}" describes tools, which are not shown to the model in training',
                fix="write them into the system turn of each conversation",
            ),
        )
    if is_chat and "label" in free:
        bad = _rows_with(table, free["label"], _NOT_WANTED)
        yield free["label"], _marked_bad(free["label"], bad, "warning" if bad else "note")
    judging = next((name for key, name in free.items() if set(key.split()) & _JUDGING), None)
    if judging is not None and (is_chat or shape in _PAIRS) and (bad := _rows_with(table, judging, _BAD)):
        yield judging, _marked_bad(judging, bad, "warning")


def _rows_with(table: Table, column: str, cells: Collection[str]) -> list[int]:
    texts = ((row.row, cell_text(row.cells.get(column)).lower().replace("_", " ").strip()) for row in table.records)
    return [row for row, text in texts if text in cells]


def _marked_bad(column: str, rows: Sequence[int], level: Literal["note", "warning"]) -> Finding:
    return Finding(
        level,
        "labels_left_out",
        f'column "{column}" marks {counted(len(rows), "row")} as bad, trained on like the others',
        fix="remove those rows to learn from the good ones only",
        rows=tuple(rows),
    )


def _weights(columns: Mapping[str, str], table: Table) -> Iterable[Finding]:
    """Turns that OpenAI would not train on, {"role": "assistant", "content": .., "weight": 0}."""
    chats = [(row.row, as_turns(row.cells.get(columns.get("messages", ""))) or []) for row in table.records]
    muted = [
        row for row, turns in chats if any(isinstance(turn, Mapping) and turn.get("weight") == 0 for turn in turns)
    ]
    if muted:
        yield Finding(
            "warning",
            "weights_left_out",
            f"{counted(len(muted), 'conversation')} with answers of weight 0, trained on like the others",
            fix="end those conversations before such an answer, or leave them out of the file",
            rows=tuple(muted),
        )
