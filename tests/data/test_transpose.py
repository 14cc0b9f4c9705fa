"""Tables on their side: a row for each example, told; tables whose rows are examples stay as they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tunesmith.config import DataConfig, RunConfig
from tunesmith.data import prepare
from tunesmith.data.prepare import Prepared
from tunesmith.data.table import Table
from tunesmith.data.transpose import transpose
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
    for number, (asked, given) in enumerate(zip(ASKED, GIVEN, strict=True)):
        rows += [
            ["ID", number],
            ["Question", asked],
            *([["Note", "old"]] if number == 2 else []),
            ["Answer", given],
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
