"""Multiple choice: the choices go into the question and the right one's text is the answer, where nearly all answers
name one; other tables stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest

from tunesmith.config import DataConfig, load_config
from tunesmith.data import prepare
from tunesmith.data.choices import unfold_choices
from tunesmith.data.table import Table
from tunesmith.errors import DataError
from tunesmith.types import Record

COLOURS = ["red", "blue", "green"]


def table_of(names: list[str], rows: list[list[Any]]) -> Table:
    records = tuple(Record(row, dict(zip(names, cells, strict=True))) for row, cells in enumerate(rows, start=2))
    return Table("a.csv", "csv", records, tuple(names))


def asked(answers: list[object], names: list[str] | None = None, answer: str = "Answer") -> Table:
    """A row for each answer, all with the same three choices."""
    names = names or ["A", "B", "C"]
    return table_of(["Question", *names, answer], [["Which?", *COLOURS, said] for said in answers])


def pairs(table: Table, answer: str = "Answer") -> list[tuple[object, object]]:
    return [(record.cells["Question"], record.cells[answer]) for record in table.records]


@pytest.mark.parametrize(
    "names", [["A", "B", "C"], ["option_a", "option_b", "option_c"], [f"Antwort {x}" for x in "ABC"]]
)
def test_letters_become_texts(names: list[str]) -> None:
    table = unfold_choices(asked(["B", "a)", "(c)", "Option B", "b. Blue", "Green", ""], names), DataConfig())
    assert {question for question, _ in pairs(table)} == {"Which?\nA. red\nB. blue\nC. green"}
    assert [answer for _, answer in pairs(table)] == ["blue", "red", "green", "blue", "blue", "green", ""]
    assert table.columns == ("Question", "Answer")
    assert [finding.code for finding in table.findings] == ["flattened"]
    assert f'columns "{names[0]}" to "{names[2]}"' in table.findings[0].message


def test_a_filled_in_template_of_kahoot() -> None:
    names = ["Answer 1 - max 75 characters", "Answer 2 - max 75 characters", "Answer 3 – max 75 characters"]
    right = "Correct answer(s) - choose at least one"
    rows = [["Which?", *COLOURS, 20, said] for said in ("2", "1,3", "3")]
    table = table_of(["Question - max 120 characters", *names, "Time limit (sec)", right], rows)
    found = unfold_choices(table, DataConfig())
    assert [record.cells[right] for record in found.records] == ["blue", "red\ngreen", "green"]
    assert found.records[0].cells["Question - max 120 characters"] == "Which?\n1. red\n2. blue\n3. green"
    unmarked = table_of(["Question", *(name.replace("Answer", "Option") for name in names)], [["Which?", *COLOURS]])
    with pytest.raises(DataError, match="no column that says which"):
        unfold_choices(unmarked, DataConfig())


@pytest.mark.parametrize(
    ("answers", "names", "texts"),
    [
        (["1", "3", "2"], ["A", "B", "C"], ["red", "green", "blue"]),
        (["0", "2", "1"], ["A", "B", "C"], ["red", "green", "blue"]),
        (["1", "2", "2"], ["Option 1", "Option 2", "Option 3"], ["red", "blue", "blue"]),
        (["1", "2", "2"], ["choice0", "choice1", "choice2"], ["blue", "green", "green"]),
        (["1, 3", "2", "2"], ["Option 1", "Option 2", "Option 3"], ["red\ngreen", "blue", "blue"]),
    ],
)
def test_numbers_count_from_what_the_answers_or_headings_begin_with(
    answers: list[object], names: list[str], texts: list[str]
) -> None:
    table = unfold_choices(asked(answers, names), DataConfig())
    assert [answer for _, answer in pairs(table)] == texts


def test_choices_that_are_numbers_are_named_by_themselves() -> None:
    said = [1, 3, 2, 1, 1, 3, 2, 3, 2, "o"]  # with a slip
    table = unfold_choices(
        table_of(
            ["Question", "A", "B", "C", "Answer"], [[f"Which? {n}", 3, 1, 2, text] for n, text in enumerate(said)]
        ),
        DataConfig(),
    )
    assert pairs(table)[0] == ("Which? 0\nA. 3\nB. 1\nC. 2", "1")
    assert [answer for _, answer in pairs(table)] == [str(text) for text in said]


@pytest.mark.parametrize("marked", ["A) red", "(A) red", "A. red", "red"])
def test_a_list_of_choices(marked: str) -> None:
    rows = [["Which?", [marked, "blue"], 1], ["Which one?", [marked, "blue"], 0]]
    table = unfold_choices(table_of(["Question", "choices", "Answer"], rows), DataConfig())
    assert pairs(table) == [("Which?\nA. red\nB. blue", "blue"), ("Which one?\nA. red\nB. blue", "red")]


def test_rows_with_fewer_choices_and_slips() -> None:
    rows = [["Which?", *COLOURS, "C"]] * 19 + [["", *COLOURS, "C"], ["Is it?", "yes", "no", "", "B"]]
    rows += [["Which?", *COLOURS, "F"]]
    table = unfold_choices(table_of(["Question", "A", "B", "C", "Answer"], rows), DataConfig())
    assert pairs(table)[19:] == [
        ("", "green"),
        ("Is it?\nA. yes\nB. no", "no"),
        ("Which?\nA. red\nB. blue\nC. green", "F"),
    ]
    assert [(finding.code, finding.rows) for finding in table.findings] == [
        ("flattened", ()),
        ("unknown_choices", (23,)),
    ]


def test_other_tables_stay_as_they_are() -> None:
    written = asked(["It is red.", "It is blue.", "None of them."])
    uncounted = asked(["1", "2", "2"])  # of three choices that are called by letters: from 0 or from 1
    draft = table_of(["Question", "Answer 1", "Answer 2", "Answer"], [["Which?", "Red.", "Blue.", "Red."]] * 3)
    for table in (written, uncounted, draft, table_of(["Question", "Answer"], [["Which?", "A"]])):
        assert unfold_choices(table, DataConfig()) is table
    table = asked(["A", "B", "C"])
    assert unfold_choices(table, DataConfig(shape="text")) is table
    assert unfold_choices(table, DataConfig(columns={"question": "Question", "answer": "B"})) is table


@pytest.mark.parametrize("marks", [ascii_uppercase, [str(number) for number in range(120)]])
def test_a_column_for_every_mark_there_is(marks: Sequence[str]) -> None:
    """As where a table is named by the letters of its columns, or a data frame by numbers."""
    table = table_of([*marks, "Question", "Answer"], [[*marks, "Which?", "Because."]] * 3)
    assert unfold_choices(table, DataConfig()) is table


def test_it_is_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "quiz.csv"
    header = "Question,A,B,Context,Correct Option"
    rows = [f"Which is {number}?,red {number},blue {number},,{'ab'[number % 2]}" for number in range(5)]
    path.write_text("\n".join([header, *rows, header]))
    prepared = prepare(load_config(overrides={"data.path": str(path), "data.split": {"validation": 0, "test": 0}}))
    first = prepared.train[0]
    assert (first.question, first.answer) == ("Which is 0?\nA. red 0\nB. blue 0", "red 0")
    assert prepared.report.dropped == {"repeats the header": (7,)}


@pytest.mark.parametrize("names", [["A", "B", "C"], ["Option 1", "Option 2", "Option 3"]])
def test_choices_without_the_right_one_are_refused(names: list[str]) -> None:
    table = table_of(["Question", *names], [["Which?", *COLOURS]] * 3)
    with pytest.raises(DataError, match="which of them is right") as error:
        unfold_choices(table, DataConfig())
    assert error.value.fix is not None
    assert f'--data.columns.answer "{names[0]}"' in error.value.fix
    assert unfold_choices(table, DataConfig(columns={"answer": names[0]})) is table


@pytest.mark.parametrize("names", [["Answer 1", "Answer 2"], ["2023", "2024"], ["1", "2", "3"]])
def test_columns_that_may_be_answers_of_their_own_are_left(names: list[str]) -> None:
    table = table_of(["Question", *names], [["Which?", *COLOURS[: len(names)]]] * 3)
    assert unfold_choices(table, DataConfig()) is table
