"""Percentages of a workbook: read as the sheet shows them, wherever its styles lie; nothing else is changed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import openpyxl
import pytest

from tunesmith.data.readers.percents import Percent
from tunesmith.data.readers.source import Source
from tunesmith.data.readers.workbook import read_xlsx


def content(cells: list[tuple[object, str]]) -> bytes:
    """A workbook with a value and its number format a row, below a title in the second column."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.cell(2, 2, "Question")
    sheet.cell(2, 3, "Answer")
    for row, (value, code) in enumerate(cells, start=3):
        sheet.cell(row, 2, f"What is the share of {row}?")
        sheet.cell(row, 3, value).number_format = code
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def answers(workbook: bytes) -> list[object]:
    return [record.cells["Answer"] for record in read_xlsx(Source(Path("a.xlsx"), workbook)).records]


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        (0.25, "0%", "25%"),
        (0.256, "0%", "26%"),
        (0.145, "0%", "15%"),  # 14.499.. in binary; a sheet rounds what it shows
        (0.256, "0.00%", "25.60%"),
        (0.256, "0.##%", "25.6%"),
        (0.25, "0.##%", "25%"),
        (1, "0.0%", "100.0%"),
        (-0.05, "0%;[Red]-0%", "-5%"),
        (12.5, "#,##0%", "1250%"),
        (0.25, '0.00" %"', "0.25"),
        (0.25, "General", "0.25"),
        (0.25, "0.0", "0.25"),
        ("a quarter", "0%", "a quarter"),
        (True, "0%", "TRUE"),
    ],
)
def test_a_percentage_is_what_the_sheet_shows(value: object, code: str, text: str) -> None:
    assert answers(content([(value, code), ("none", "General")])) == [text, "none"]


def test_percentages_are_no_numbers_among_texts() -> None:
    table = read_xlsx(Source(Path("a.xlsx"), content([("none", "0%"), ("all", "0%"), (0.5, "0%")])))
    assert not table.findings


def test_styles_may_lie_anywhere_in_the_archive() -> None:
    made = zipfile.ZipFile(io.BytesIO(content([(0.25, "0.0%")])))
    for last in ("xl/styles.xml", "xl/worksheets/sheet1.xml"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name in sorted(made.namelist(), key=lambda name: name == last):
                archive.writestr(name, made.read(name))
        assert answers(stream.getvalue()) == ["25.0%"]


def test_any_number_can_be_shown() -> None:
    assert Percent.of("0." + "0" * 250 + "%") == Percent(250, 250)
    assert len(Percent(250, 250).text(-1.7e308)) == len("-") + 311 + len(".") + 250 + len("%")
    assert Percent(0, 0).text(5e-324) == "0%"
