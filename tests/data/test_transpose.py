"""Tables on their side: a row for each example, told; tables whose rows are examples stay as they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import DataConfig, RunConfig
from tunesmith.data import prepare
from tunesmith.data.prepare import Prepared
from tunesmith.data.table import Table
from tunesmith.data.transpose import transpose
from tunesmith.errors import DataError
from tunesmith.types import Finding, Record

ASKED = [f"How do I {verb} it?" for verb in ("open", "close", "clean", "move")]
GIVEN = [f"You {verb} it with both hands." for verb in ("open", "close", "clean", "move")]


def prepared(path: Path, rows: list[list[Any]], **data: Any) -> Prepared:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    else:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path)
    config = RunConfig()
    config.data.path = str(path)
    for name, value in {"split": {"validation": 0, "test": 0}, **data}.items():
        setattr(config.data, name, value)
    return prepare(config)


def pairs(found: Prepared) -> set[tuple[str, str]]:
    return {(example.question, example.answer) for example in found.train}


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
@pytest.mark.parametrize(
    "rows",
    [
        [["Question", *ASKED], ["Answer", *GIVEN]],
        [["No.", 1, 2, 3, 4], ["Frage", *ASKED], [], ["Antwort", *GIVEN], ["Stand", *["heute"] * 4]],
        [["", "Open", "Close", "Clean", "Move"], ["Prompt", *ASKED], ["Completion", *GIVEN]],
        [["Customer", *ASKED], ["Agent", *GIVEN]],
    ],
)
def test_fields_in_rows(tmp_path: Path, rows: list[list[Any]], ending: str) -> None:
    found = prepared(tmp_path / f"a.{ending}", rows)
    assert pairs(found) == set(zip(ASKED, GIVEN, strict=True))
    assert {example.row for example in found.train} == {1, 2, 3, 4}
    codes = [finding.code for finding in found.report.findings]
    assert "transposed" in codes
    assert not {"no_header", "columns_guessed", "numbers_among_texts"} & set(codes)


@pytest.mark.parametrize(
    "rows",
    [
        [["Question", "Answer"], *zip(ASKED, GIVEN, strict=True)],
        [row for pair in zip(ASKED, GIVEN, strict=True) for row in zip(("Question", "Answer"), pair, strict=True)],
        [["Term", "Definition"], ["Question", ASKED[0]], ["Answer", GIVEN[0]]],  # a glossary of such words
        [["Metric", "Jan", "Feb", "Mar"], ["Questions received", 1, 2, 3], ["Answers given", 4, 5, 6]],  # of numbers
    ],
)
def test_rows_that_are_examples_stay(tmp_path: Path, rows: list[list[Any]]) -> None:
    found = prepared(tmp_path / "a.csv", rows)
    assert found.train
    assert "transposed" not in {finding.code for finding in found.report.findings}


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
@pytest.mark.parametrize("header", [[], [["Field", "Value"]]])
def test_blocks_of_fields(tmp_path: Path, header: list[list[Any]], ending: str) -> None:
    rows: list[list[Any]] = [*header]
    for number, (asked, answered) in enumerate(zip(ASKED, GIVEN, strict=True)):
        rows += [
            ["ID", number],
            ["Question", asked],
            *([["Note", "old"]] if number == 2 else []),
            ["Answer", answered],
            [],
        ]
    found = prepared(tmp_path / f"a.{ending}", rows)
    assert pairs(found) == set(zip(ASKED, GIVEN, strict=True))
    assert sorted(example.row for example in found.train)[0] == 1 + len(header)
    assert "transposed" in {finding.code for finding in found.report.findings}


def test_a_glossary_of_more_words_than_columns_stays() -> None:
    words = {"Question": "It asks.", "Answer": "It replies.", "Ink": "It dries."}
    records = tuple(Record(row, {"a": word, "b": said, "c": "noun"}) for row, (word, said) in enumerate(words.items()))
    table = Table(
        "a.csv", "csv", records, ("a", "b", "c"), findings=(Finding("note", "no_header", "columns are named"),)
    )
    assert transpose(table, DataConfig()) is table


def test_a_set_column_says_how_the_table_lies(tmp_path: Path) -> None:
    columns = {"question": "column2", "answer": "column3"}
    found = prepared(tmp_path / "a.csv", [["Question", *ASKED], ["Answer", *GIVEN]], columns=columns)
    assert pairs(found) == {tuple(ASKED[:2]), tuple(GIVEN[:2])}


THINGS = [
    ["Product", "What does it weigh?", "Where is it made?"],
    ["Hand press A5", "12 kg with the plate", "In Ulm"],
    ["Ink black", 0.3, None],
    ["Tray", "2 kg", "In Mainz, by two people"],
]


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
@pytest.mark.parametrize("name", ["Product", None])
def test_headings_that_ask_about_the_things_of_the_rows(tmp_path: Path, ending: str, name: str | None) -> None:
    path = tmp_path / f"a.{ending}"
    found = prepared(path, [[name, *THINGS[0][1:]], *THINGS[1:]])
    assert pairs(found) == {
        ("Hand press A5: What does it weigh?", "12 kg with the plate"),
        ("Hand press A5: Where is it made?", "In Ulm"),
        ("Ink black: What does it weigh?", "0.3"),
        ("Tray: What does it weigh?", "2 kg"),
        ("Tray: Where is it made?", "In Mainz, by two people"),
    }
    assert {example.row for example in found.train} == {2, 3, 4}
    assert found.report.dropped == {"empty answer": (3,)}
    told = next(finding for finding in found.report.findings if finding.code == "questions_as_headings")
    assert '5 cells were read as answers to questions such as "Hand press A5: What does it weigh?"' in told.message
    again = prepared(tmp_path / f"b.{ending}", [["Made by", *ASKED], *([f"Press {n}", *GIVEN] for n in range(3))],
                     split={"validation": 0, "test": 0.5}, test_path=str(path))  # fmt: skip
    assert len(again.test) == 5


@pytest.mark.parametrize(
    "rows",
    [
        [THINGS[0], *THINGS[1:], THINGS[1]],
        THINGS[:3],
        [["Which?", *THINGS[0][1:]], *THINGS[1:]],
        [[*THINGS[0], "Remark"], *([*row, "A remark that is long"] for row in THINGS[1:])],
        [THINGS[0], *THINGS[1:3], ["Tray", "Does it weigh much?", "In Mainz"]],
        [["Name", "What is your question?", "What would you like to hear?"], *THINGS[1:]],
        [["Topic", "Where is it?"], ["Opening", "It is in Ulm"], ["Post", "It is in Mainz"], ["Food", "It is here"]],
        [THINGS[0], *([f"It is a long sentence on number {n}.", "1 kg", "In Ulm"] for n in range(4))],
        [THINGS[0], *([f"{n}.4.2024", "1 kg", "In Ulm"] for n in range(4))],
    ],
    ids=["twice", "few", "all ask", "a remark", "asked below", "a form", "one", "sentences", "dates"],
)
@pytest.mark.parametrize("shape", ["auto", "prompt"])
def test_other_headings_that_ask_stay(tmp_path: Path, rows: list[list[Any]], shape: str) -> None:
    try:
        findings = prepared(tmp_path / "a.csv", rows, shape=shape).report.findings
    except DataError:
        return
    assert "questions_as_headings" not in {finding.code for finding in findings}


def test_an_error_says_that_the_first_row_was_read_as_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot tell which columns") as caught:
        prepared(tmp_path / "a.csv", [THINGS[0], *THINGS[1:], THINGS[1]])
    assert "the first one, 'Product', 'What does it weigh?', 'Where is it made?', was read as data" in str(
        caught.value.cause
    )
    assert "write a row of headings above" in str(caught.value.fix)


@given(st.lists(st.tuples(*[st.text("ab1 ?.,", max_size=6)] * 3), min_size=1, max_size=6))
def test_things_lose_no_cell(rows: list[tuple[str, str, str]]) -> None:
    names = ("column1", "What is it?", "Where is it?")
    table = Table(
        "a.csv",
        "csv",
        tuple(Record(row, dict(zip(names, cells, strict=True))) for row, cells in enumerate(rows, start=2)),
        names,
    )
    found = transpose(table, DataConfig())
    if found is not table:
        filled = [row for row in rows if any(cell.strip() for cell in row)]
        assert [record.cells["answer"] for record in found.records] == [cell for row in filled for cell in row[1:]]
        assert len({row[0].strip() for row in filled}) == len(filled) >= 3
