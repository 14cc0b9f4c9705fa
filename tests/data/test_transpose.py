"""Tables on their side: a row for each example, told; tables whose rows are examples stay as they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tunesmith.config import RunConfig
from tunesmith.data import prepare
from tunesmith.data.prepare import Prepared

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


def test_a_set_column_says_how_the_table_lies(tmp_path: Path) -> None:
    columns = {"question": "column2", "answer": "column3"}
    found = prepared(tmp_path / "a.csv", [["Question", *ASKED], ["Answer", *GIVEN]], columns=columns)
    assert pairs(found) == {tuple(ASKED[:2]), tuple(GIVEN[:2])}
