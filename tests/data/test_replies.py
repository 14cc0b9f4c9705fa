"""Rows that answer others by an id: put together and told; parents that are no questions stay as they are."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.config import DataConfig
from tunesmith.data.gather import gather
from tunesmith.data.table import Table
from tunesmith.types import Record

NAMES = ["Id", "PostTypeId", "ParentId", "AcceptedAnswerId", "Title", "Body"]
POSTS = [
    ["1", "1", "", "5", "Paper", "Which paper can I take?"],
    ["2", "1", "", "", "Ink", "How long does the ink have to dry?"],
    ["3", "2", "1.0", "", "", "Any, as far as I know."],
    ["4", "2", "2.0", "", "", "An hour in summer."],
    ["5", "2", "1.0", "", "", "Cotton paper, up to 300 grams."],
    ["6", "2", "2.0", "", "", "A day in winter."],
    ["7", "1", "", "", "Type", ""],
    ["8", "2", "99", "", "", "To a question that is not here."],
]


def table_of(rows: list[list[Any]], names: list[str] = NAMES) -> Table:
    records = tuple(Record(row, dict(zip(names, cells, strict=True))) for row, cells in enumerate(rows, start=2))
    return Table("posts.csv", "csv", records, tuple(names))


def pairs(table: Table) -> list[tuple[object, object]]:
    return [(record.cells["question"], record.cells["answer"]) for record in table.records]


@pytest.mark.parametrize("name", ["Antwort auf", "in_response_to_tweet_id", "In reply to status ID", "reply_to"])
def test_what_a_column_of_replies_is_called(name: str) -> None:
    rows = [row[:1] + row[2:3] + row[5:] for row in POSTS[:6]]
    assert len(pairs(gather(table_of(rows, ["ID", name, "Text"]), DataConfig()))) == 4
    stays = table_of(rows, ["ID", "in_reply_to_user_id", "Text"])
    assert gather(stays, DataConfig()) is stays


def test_the_accepted_answer_else_every_one() -> None:
    with_parents = [row for row in POSTS if row[2] != "99"]
    table = gather(table_of(with_parents), DataConfig())
    assert pairs(table) == [
        ("Which paper can I take?", "Cotton paper, up to 300 grams."),
        ("How long does the ink have to dry?", "An hour in summer."),
        ("How long does the ink have to dry?", "A day in winter."),
        ("Type", ""),
    ]
    assert [record.row for record in table.records] == [2, 3, 3, 8]
    assert [finding.code for finding in table.findings] == ["replies_gathered"]
    assert '4 of 7 rows answer others, by column "ParentId"' in table.findings[0].message


def test_an_answer_to_nothing_has_no_question() -> None:
    many = [[str(number), "1", "", "", "", f"What is {number}?"] for number in range(10, 30)]
    many += [[str(number + 20), "2", str(number), "", "", "A number."] for number in range(10, 30)]
    table = gather(table_of([*many, POSTS[-1]]), DataConfig())
    assert ("", "To a question that is not here.") in pairs(table)
    assert len(pairs(table)) == 21


def test_a_column_that_says_so_needs_no_types() -> None:
    names = ["message id", "reply to", "text"]
    rows = [[f"m{n}", "" if n < 4 else f"m{n - 3}", f"Text number {n}."] for n in range(1, 7)]
    assert pairs(gather(table_of(rows, names), DataConfig())) == [
        (f"Text number {n}.", f"Text number {n + 3}.") for n in range(1, 4)
    ]


@pytest.mark.parametrize(
    ("names", "parents"),
    [
        (["Id", "ParentId", "Description"], ["", "1", "1", "1"]),  # parts of a larger task
        (["Id", "Reply to", "Text"], ["", "1", "2", "3"]),  # a conversation: nobody says who helps
        (["Id", "Reply to", "Text"], ["7", "8", "9", "10"]),
    ],
)
def test_what_may_be_no_answer_stays(names: list[str], parents: list[str]) -> None:
    table = table_of([[str(n), parent, f"Text number {n}."] for n, parent in enumerate(parents, start=1)], names)
    assert gather(table, DataConfig()) is table
