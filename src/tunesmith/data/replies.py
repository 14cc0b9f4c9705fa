"""Rows that answer other rows, by an id -> a question and an answer a row.

    Id | PostTypeId | ParentId | Body
    1  | 1          |          | Where is it?  ->   question: Where is it?   answer: There.
    2  | 2          | 1        | There.

Done where a column says that rows are answers, not only that they belong to others. Knows nothing of files.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tunesmith.data.facts import column_facts
from tunesmith.data.names import HEADINGS, normalise_name
from tunesmith.data.table import Table, cell_text
from tunesmith.types import Finding, Record

# A column that names the row which this one answers; a parent alone may be an epic or a category.
_ANSWERED = re.compile(
    r"(in )?(reply|response|answer) to( (statu|tweet|post|message|comment))?( id)?"  # of normalised names
    r"|(antwort auf|en reponse a|en respuesta a|in risposta a)( id)?"
)
_PARENT = "parent id"
_TELLS_ANSWERS = frozenset({"post type id", "accepted answer id"})  # of Stack Exchange, beside the parent
_ACCEPTED = "accepted answer id"
_FEWEST_REPLIES = 3
_MOST_KNOWN = 0.9  # of the replies, from which on they are to rows of this table


def replies(table: Table) -> Table | None:
    """A row for each answer: the one that was accepted, else every one. None where rows are no such thing.

    Replies to replies are a conversation, in which nobody says who helps: they are left as they are.
    """
    by_name = {normalise_name(name): name for name in reversed(table.columns)}
    has_types = bool(_TELLS_ANSWERS & by_name.keys())
    answered = [name for key, name in by_name.items() if _ANSWERED.fullmatch(key) or (key == _PARENT and has_types)]
    facts = column_facts(table.records, table.columns)
    texts = [fact for fact in facts.values() if fact.is_prose and normalise_name(fact.name) not in HEADINGS]
    if len(answered) != 1 or not texts:
        return None
    parent = answered[0]
    rows = _by_id(table, parent)
    answers: dict[str, list[str]] = {}
    for key, row in rows.items():
        answers.setdefault(_id(row, parent), []).append(key)
    given = [key for asked in answers.keys() & rows.keys() for key in answers[asked]]
    if len(given) < _FEWEST_REPLIES or answers.keys() & set(given):
        return None
    text = max(texts, key=lambda fact: fact.median_length).name
    heading = next((name for key, name in by_name.items() if key in HEADINGS), text)
    records: list[Record] = []
    for key, row in rows.items():
        if _id(row, parent) in rows:
            continue
        asked = _cell(row, text) or _cell(row, heading)
        if _id(row, parent):  # an answer to a row that is not here
            records.append(replace(row, cells={"question": "", "answer": asked}))
            continue
        accepted = _id(row, by_name.get(_ACCEPTED, ""))
        found = answers.get(key, [])
        said = [_cell(rows[answer], text) for answer in ([accepted] if accepted in found else found)]
        records += (replace(row, cells={"question": asked, "answer": answer}) for answer in said or [""])
    told = Finding(
        "note",
        "replies_gathered",
        f'{len(given)} of {len(rows)} rows answer others, by column "{parent}": put together with what they answer, '
        f'by "{text}"; of a question with an accepted answer that one alone',
        fix="to learn each row by itself set data.shape to text",
    )
    return replace(
        table,
        records=tuple(records),
        columns=("question", "answer"),
        continuous=False,
        findings=(*table.findings, told),
    )


def _by_id(table: Table, parent: str) -> dict[str, Record]:
    """The rows by the column, all of whose cells differ, that has the parents; empty where there is none."""
    parents = {_id(row, parent) for row in table.records} - {""}
    for name in table.columns:
        rows = {_id(row, name): row for row in table.records}
        is_id = name != parent and "" not in rows and len(rows) == len(table.records)
        if is_id and len(parents & rows.keys()) >= _MOST_KNOWN * len(parents):
            return rows
    return {}


def _id(row: Record, name: str) -> str:
    return _cell(row, name).removesuffix(".0")  # data frames write ids beside empty cells so


def _cell(row: Record, name: str) -> str:
    return cell_text(row.cells.get(name)).strip()
