"""xlsx: sheets, headers, merged cells, exact values, and archives that must not be opened."""

from __future__ import annotations

import io
import struct
import zipfile
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.config import DataConfig, RunConfig
from tunesmith.data import Table, prepare, read
from tunesmith.data.readers.layout import column_letters
from tunesmith.data.readers.source import Source
from tunesmith.data.readers.workbook import read_xlsx
from tunesmith.data.readers.workbook_guard import check_workbook
from tunesmith.errors import DataError

Rows = list[list[Any]]
FAQ: Rows = [["Question", "Answer"], ["What is it?", "A press."], ["Who made it?", "We did."]]


def workbook(sheets: dict[str, Rows]) -> Any:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    return book


def content_of(book: Any) -> bytes:
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def parse(book: Any, sheet: str | None = None) -> Table:
    return read_xlsx(Source(Path("a.xlsx"), content_of(book), sheet=sheet))


def rows_of(table: Table) -> list[tuple[object, ...]]:
    return [tuple(record.cells.values()) for record in table.records]


def codes(table: Table) -> list[str]:
    return [finding.code for finding in table.findings]


def test_rows_are_numbered_as_in_the_sheet() -> None:
    table = parse(workbook({"FAQ": [*FAQ[:2], [None, None], FAQ[2], [None, " "]]}))
    assert rows_of(table) == [("What is it?", "A press."), ("", ""), ("Who made it?", "We did.")]
    assert [(record.sheet, record.row) for record in table.records] == [("FAQ", 2), ("FAQ", 3), ("FAQ", 4)]
    assert table.sheets == ("FAQ",)
    assert table.format == "xlsx"


def test_values_become_exact_text() -> None:
    values = [501, 1.5, "00501", True, False, date(2024, 1, 5), datetime(2024, 1, 5, 10, 30), time(9, 5), 0.1]
    table = parse(workbook({"S": [["Question", "Answer"], *([value, "x"] for value in values)]}))
    assert [row[0] for row in rows_of(table)] == [
        "501", "1.5", "00501", "TRUE", "FALSE", "2024-01-05", "2024-01-05T10:30:00", "09:05:00", "0.1",
    ]  # fmt: skip


def test_durations_and_large_numbers() -> None:
    table = parse(workbook({"S": [["Question", "Answer"], [timedelta(hours=30, minutes=5), 10**15]]}))
    assert rows_of(table) == [("30:05:00", "1000000000000000")]


def test_formulas_are_read_as_their_stored_values() -> None:
    book = workbook({"S": [["Question", "Answer"], ["a?", "=1+1"]]})
    content = io.BytesIO(content_of(book))
    changed = io.BytesIO()
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"<v />", b"<v>2</v>").replace(b"<v></v>", b"<v>2</v>"))
    assert rows_of(read_xlsx(Source(Path("a.xlsx"), changed.getvalue()))) == [("a?", "2")]


def test_titles_and_blank_rows_above_the_header_are_passed_over() -> None:
    book = workbook({"S": [["Our questions"], [], *FAQ]})
    book["S"].merge_cells("A1:B1")
    table = parse(book)
    assert [record.row for record in table.records] == [4, 5]
    assert [(finding.code, finding.rows) for finding in table.findings] == [("title_rows", (1,))]


def test_a_table_that_does_not_begin_at_a1() -> None:
    book = workbook({"S": []})
    for row, cells in enumerate(FAQ, start=5):
        for column, cell in enumerate(cells, start=3):
            book["S"].cell(row, column, cell)
    table = parse(book)
    assert table.columns == ("Question", "Answer")
    assert [record.row for record in table.records] == [6, 7]


def test_merged_questions_are_filled_down() -> None:
    book = workbook({"S": [["Question", "Answer"], ["a?", "1"], [None, "2"], [None, "3"], ["b?", "4"], [None, "5"]]})
    book["S"].merge_cells("A2:A4")
    assert [row[0] for row in rows_of(parse(book))] == ["a?", "a?", "a?", "b?", ""]


def test_merged_cells_of_a_table_away_from_a1() -> None:
    book = workbook({"S": []})
    for row, cells in enumerate([["Question", "Answer"], ["a?", "1"], [None, "2"]], start=4):
        for column, cell in enumerate(cells, start=2):
            book["S"].cell(row, column, cell)
    book["S"].merge_cells("B5:B6")
    assert rows_of(parse(book)) == [("a?", "1"), ("a?", "2")]


def mixed_book() -> Any:
    notes: Rows = [["About this file"], ["It holds questions and answers for the help desk, see the other sheets."]]
    book = workbook(
        {"Read me": notes, "FAQ": FAQ, "More": [["Answer", "Question"], ["b", "a?"]], "Blank": [], "Old": FAQ}
    )
    book["Old"].sheet_state = "hidden"
    book.create_chartsheet("Chart")
    return book


def test_visible_sheets_with_a_table_are_read() -> None:
    table = parse(mixed_book())
    assert table.sheets == ("FAQ", "More")
    assert [(record.sheet, record.row) for record in table.records] == [("FAQ", 2), ("FAQ", 3), ("More", 2)]
    assert table.columns == ("Question", "Answer")
    assert sorted(codes(table)) == ["empty_sheet", "hidden_sheet", "notes_sheet"]


def test_sheet_setting_reads_one_even_if_hidden() -> None:
    table = parse(mixed_book(), sheet="Old")
    assert table.sheets == ("Old",)
    assert table.rows_read == 2


def test_unknown_sheet_lists_the_sheets() -> None:
    with pytest.raises(DataError, match=r"no sheet 'faq', did you mean 'FAQ'\?") as caught:
        parse(mixed_book(), sheet="faq")
    assert "'Read me', 'FAQ', 'More', 'Blank', 'Old'" in str(caught.value.cause)


@pytest.mark.parametrize("sheets", [{"S": []}, {"S": [["Question", "Answer"]]}])
def test_workbook_without_rows(sheets: dict[str, Rows]) -> None:
    with pytest.raises(DataError, match="no sheet with rows"):
        parse(workbook(sheets))


def test_workbook_with_only_hidden_sheets_says_so() -> None:
    book = workbook({"Old": FAQ, "Blank": []})
    book["Old"].sheet_state = "hidden"
    with pytest.raises(DataError) as caught:
        parse(book)
    assert '"Old" is hidden' in str(caught.value.cause)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"question,answer\n", "may be text"), (b"\xd0\xcf\x11\xe0" + b"x" * 600, "a compound file")],
)
def test_not_a_workbook(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not an \.xlsx workbook") as caught:
        read(DataConfig(format="xlsx"), path)
    assert named in str(caught.value.cause)


def changed_archive(changes: dict[str, bytes], base: bytes | None = None) -> bytes:
    """The FAQ workbook with entries replaced or added."""
    source = io.BytesIO(base or content_of(workbook({"FAQ": FAQ})))
    target = io.BytesIO()
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            copy.writestr(name, changes.pop(name, archive.read(name)))
        for name, content in changes.items():
            copy.writestr(name, content)
    return target.getvalue()


def refusal(content: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        read_xlsx(Source(Path("a.xlsx"), content))
    return caught.value


def test_archive_that_is_no_workbook() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "a")
    assert "is not a workbook" in refusal(stream.getvalue()).message


def test_archive_bomb_is_refused() -> None:
    assert "200 times its size" in str(refusal(changed_archive({"xl/media/x.bin": b"\0" * 100_000_000})).cause)


def test_archive_that_lies_about_its_size_is_refused() -> None:
    content = bytearray(changed_archive({"xl/media/x.bin": b"\0" * 100_000_000}))
    entry = content.rfind(b"PK\x01\x02", 0, content.rfind(b"xl/media/x.bin"))
    content[entry + 24 : entry + 28] = struct.pack("<I", 10)
    assert "200 times its size" in str(refusal(bytes(content)).cause)


def test_archive_with_too_many_entries_is_refused() -> None:
    assert "entries" in str(refusal(changed_archive({f"x/{index}": b"" for index in range(10_001)})).cause)


SHEET = "xl/worksheets/sheet1.xml"
STRAY = b'<row r="1048576"><c r="%b1048576" t="inlineStr"><is><t>x</t></is></c></row></sheetData>'


def sheet_xml(old: bytes, new: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content_of(workbook({"FAQ": FAQ})))) as archive:
        xml = archive.read(SHEET)
    assert old in xml
    return xml.replace(old, new)


def test_a_merge_far_beyond_the_rows_is_clipped() -> None:
    merge = b'</sheetData><mergeCells count="1"><mergeCell ref="A2:A1048576"/></mergeCells>'
    table = read_xlsx(Source(Path("a.xlsx"), changed_archive({SHEET: sheet_xml(b"</sheetData>", merge)})))
    assert rows_of(table) == [("What is it?", "A press."), ("What is it?", "We did.")]


def test_a_stray_cell_at_the_far_end_is_refused_before_the_parser_allocates_the_sheet() -> None:
    """Without the guard the parser asks for half a terabyte and the process is aborted."""
    book = workbook({"FAQ": FAQ})
    book["FAQ"]["XFD1048576"] = "stray"
    error = refusal(content_of(book))
    assert "spans 17,179,869,184 cells" in error.message
    assert "rows 1 to 1048576" in str(error.cause)


@pytest.mark.parametrize(
    "xml",
    [
        pytest.param(sheet_xml(b"</sheetData>", STRAY % b"XFD"), id="far"),
        pytest.param(sheet_xml(b"</sheetData>", STRAY % b"AZZZZ"), id="column beyond the last"),
        pytest.param(
            sheet_xml(b"</sheetData>", b"<row r='1048576'><c z='r=\"A1\"' r = 'XFD1'/></row></sheetData>"),
            id="disguised",
        ),
        pytest.param(b"<!DOCTYPE x []>" + sheet_xml(b"<sheetData>", b"<sheetData>"), id="document type"),
        pytest.param(sheet_xml(b"</sheetData>", (STRAY % b"XFD").replace(b"</row>", b"</wor>")), id="not well-formed"),
        pytest.param(b"junk" + sheet_xml(b"<sheetData>", b"<sheetData>"), id="no xml but a sheet"),
        pytest.param(
            b'<?xml version="1.0" encoding="odd"?>' + sheet_xml(b"<sheetData>", b"<sheetData>"), id="encoding"
        ),
    ],
)
def test_sheets_that_could_harm_the_parser_never_reach_it(xml: bytes) -> None:
    with pytest.raises(DataError):
        check_workbook(Path("a.xlsx"), changed_archive({SHEET: xml}))


def test_a_sheet_elsewhere_in_the_archive_is_measured_too() -> None:
    moved = sheet_xml(b"</sheetData>", STRAY % b"XFD")
    assert "cells, over the limit" in refusal(changed_archive({"xl/custom/data.bin": moved})).message


def test_broken_drawings_do_not_matter() -> None:
    """Comments are drawn in a dialect of XML that is often not well-formed."""
    content = changed_archive({"xl/drawings/vmlDrawing1.vml": b"<xml><br>text</xml>"})
    assert read_xlsx(Source(Path("a.xlsx"), content)).rows_read == 2


def test_damage_inside_the_archive_is_one_error() -> None:
    content = content_of(workbook({"FAQ": FAQ}))
    for position in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        try:
            read_xlsx(Source(Path("a.xlsx"), bytes(damaged)))
        except DataError as error:
            assert error.fix  # noqa: PT017 - most damage is refused, some falls where nothing is read


# what openpyxl can write: no control characters, no escapes such as _x000D_, no formulas, line ends as in XML
WRITABLE = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff_\u2028\x85"),
    min_size=1,
    max_size=15,
).filter(lambda text: text.strip() and not text.startswith("="))


@settings(max_examples=40)
@given(st.lists(st.tuples(WRITABLE, WRITABLE | st.just("two\nlines")), min_size=1, max_size=5))
def test_what_openpyxl_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    book = workbook({"S": [["Question", "Answer"]]})
    for number, row in enumerate(rows, start=2):
        for column, text in enumerate(row, start=1):
            cell = book["S"].cell(number, column)
            cell.value, cell.data_type = text, "s"
    assert rows_of(parse(book)) == rows


@settings(max_examples=40)
@given(st.integers(-(10**15), 10**15) | st.decimals(-(10**6), 10**6, places=4))
def test_numbers_are_read_back_as_typed(number: Any) -> None:
    book = workbook({"S": [["Question", "Answer"], [number, "x"]]})
    assert float(str(rows_of(parse(book))[0][0])) == float(number)
    assert not str(rows_of(parse(book))[0][0]).endswith(".0")


def messy_sheet() -> Rows:
    """As offices keep them: a title, a line with a date, gaps, ids, a heading with a question mark, totals, a note."""
    head = [None, "Ticket-ID", "Category", "Customer asks", "Our reply", "Last updated", "Views", None, "ok?"]
    rows: Rows = [
        [None, "ACME Printing - Customer FAQ"],
        [None, "as of:", date(2026, 10, 1), None, "Rev. 2", "Owner: J. Doe"],
        [],
        head,
    ]
    for number in range(6):
        asks = f"How do I change order {number} after proof?"
        rows.append(
            [None, 10001 + number, "Orders", asks, f"Press Edit {number}.", date(2026, 3, 9), "1,007", None, "x"]
        )
    return [*rows, [None, "Total", None, None, None, None, 6042], [None, "* views since January; ask Jane"]]


def test_a_header_below_titles_as_offices_write_them() -> None:
    table = parse(workbook({"Helpdesk": messy_sheet(), "FAQ": FAQ}))
    assert table.sheets == ("Helpdesk", "FAQ")
    first = table.records[0]
    assert (first.row, first.cells["Ticket-ID"], first.cells["Views"]) == (5, "10001", "1,007")
    assert list(first.cells) == [
        *("Ticket-ID", "Category", "Customer asks", "Our reply"),
        *("Last updated", "Views", "ok?"),
    ]


def test_its_questions_and_answers_are_found(tmp_path: Path) -> None:
    path = tmp_path / "helpdesk.xlsx"
    workbook({"Helpdesk": messy_sheet()}).save(path)
    config = RunConfig()
    config.data.path = str(path)
    report = prepare(config).report
    assert (report.shape, report.columns) == ("qa", {"question": "Customer asks", "answer": "Our reply"})
    assert report.rows_kept == 6
    assert report.dropped == {"empty question": (11, 12)}


def test_a_table_without_a_header_keeps_its_first_row() -> None:
    rows: Rows = [["red", "warm"], ["blue", "cold"], ["green", "fresh", "grass"], ["pink", "sweet"], ["red", "hot"]]
    assert len(parse(workbook({"One": rows})).records) == 5


@pytest.mark.parametrize(("rows", "level"), [(3, "note"), (40, "warning")])
def test_a_skipped_sheet_of_many_rows_is_a_warning(rows: int, level: str) -> None:
    table = parse(
        workbook({"FAQ": FAQ, "Notes": [[f"Remember the {number}th thing, and do it."] for number in range(rows)]})
    )
    (finding,) = (finding for finding in table.findings if finding.code == "notes_sheet")
    assert finding.level == level
    assert f"({rows} rows)" in finding.message


def test_headings_over_two_rows_become_one() -> None:
    rows: Rows = [
        ["Nr", "Question", None, "Answer", None],
        [None, "EN", "DE", "EN", "DE"],
        [1, "What?", "Was?", "A.", "B."],
    ]
    book = workbook({"S": rows})
    for area in ("B1:C1", "D1:E1"):
        book["S"].merge_cells(area)
    table = parse(book)
    assert table.columns == ("Nr", "Question EN", "Question DE", "Answer EN", "Answer DE")
    assert rows_of(table) == [("1", "What?", "Was?", "A.", "B.")]


def test_a_band_above_the_header_is_no_heading() -> None:
    rows: Rows = [["Customer", None, "Us"], ["Question", "Channel", "Answer"], ["What?", "mail", "That."]]
    book = workbook({"S": rows})
    book["S"].merge_cells("A1:B1")
    assert parse(book).columns == ("Question", "Channel", "Answer")


def test_tables_side_by_side_are_read_one_below_the_other() -> None:
    rows: Rows = [
        ["Question", "Answer", None, "Question", "Answer"],
        ["a?", "b", None, "c?", "d"],
        ["e?", "f", None, None, None],
        [None] * 5,
        ["g?", "h", None, None, None],
    ]
    table = parse(workbook({"S": rows}))
    assert rows_of(table) == [("a?", "b"), ("e?", "f"), ("", ""), ("g?", "h"), ("c?", "d")]
    assert [record.row for record in table.records] == [2, 3, 4, 5, 2]
    assert "A to B, D to E" in table.findings[0].message


@pytest.mark.parametrize(
    "headings",
    [["Question", "Answer", "Question"], ["Text", "x", "Text", "x"], ["Question", "Answer", "Question", "Note"]],
)
def test_columns_that_repeat_otherwise_are_one_table(headings: list[str]) -> None:
    assert len(parse(workbook({"S": [headings, ["a", "b", "c", "d"]]})).records) == 1


@given(st.integers(0, 16_383))
def test_column_letters_are_those_of_openpyxl(column: int) -> None:
    assert column_letters(column) == openpyxl.utils.get_column_letter(column + 1)


def test_what_the_cells_do_not_show_is_told() -> None:
    rows: Rows = [["Question", "Answer"], *([f"q{index}?", f"a{index}"] for index in range(6))]
    book = workbook({"Other": FAQ, "S": rows})
    sheet = book["S"]
    sheet["B3"] = "=1+1"  # openpyxl stores no values of formulas
    sheet["B4"].data_type, sheet["B4"]._value = "e", "#N/A"
    sheet["B5"] = 0.19
    sheet.row_dimensions[6].hidden = True
    book.move_sheet("S", -1)  # so that the order of the sheets is not that of the entries
    found = {finding.code: (finding.message, finding.rows) for finding in parse(book).findings}
    assert {code: rows for code, (_, rows) in found.items()} == {
        "hidden_rows": (6,),
        "formulas": (3,),
        "error_cells": (4,),
        "numbers_among_texts": (5,),
    }
    assert all(message.startswith('sheet "S"') for message, _ in found.values())
    assert '"0.19"' in found["numbers_among_texts"][0]


def test_hidden_columns_are_told_by_their_headings() -> None:
    book = workbook(
        {"S": [[None, "Question", "Draft", "Answer"], *([None, f"q{index}?", "x", "a"] for index in range(6))]}
    )
    book["S"].column_dimensions["C"].hidden = True
    book["S"].column_dimensions.group("F", "XFD", hidden=True)
    (finding,) = parse(book).findings
    assert finding.message == 'sheet "S": hidden columns were read like the others: "Draft"'


def test_headings_with_remarks_are_found() -> None:
    answer = "Answer\n(whole sentences please, at most 300 words, no abbreviations, no names of staff)"
    rows: Rows = [["FAQ"], ["No.", "Question\n(as asked)", answer], [1, "What?", "That."], [2, "Who?", "We."]]
    assert parse(workbook({"S": rows})).columns == ("No.", "Question (as asked)", " ".join(answer.split()))


@given(st.sampled_from(["\u200b", "\u200e", "\u2060", "\ufeff", ""]), st.sampled_from(["Lösung", "Lo\u0308sung"]))
def test_headings_can_be_typed(mark: str, heading: str) -> None:
    rows: Rows = [[f"{mark}Frage", f"{heading}{mark}"], ["Was?", "Das."], [f"{mark}Frage", heading], ["Wer?", "Wir."]]
    assert parse(workbook({"S": rows})).columns == ("Frage", "Lösung")


def test_cells_that_are_full_are_told() -> None:
    rows: Rows = [["Question", "Answer"], ["a?", "x" * 32_767], ["b?", "x" * 32_766]]
    found = {finding.code: finding.rows for finding in parse(workbook({"S": rows})).findings}
    assert found == {"full_cells": (2,)}


def test_a_workbook_of_formulas_without_values_says_what_to_do(tmp_path: Path) -> None:
    rows: Rows = [["Question", "Answer"], *([f"q{index}?", "=1+1"] for index in range(3))]
    workbook({"S": rows}).save(tmp_path / "a.xlsx")
    config = RunConfig()
    config.data.path = str(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="no row to train on") as caught:
        prepare(config)
    assert "formulas without a stored value" in str(caught.value.cause)
    assert "open the workbook in a spreadsheet program and save it" in str(caught.value.fix)


def test_a_formula_that_gives_an_empty_text_is_computed() -> None:
    row = b'<row r="9"><c r="A9" t="str"><f>""</f><v></v></c><c r="B9"><f>1+1</f><v>2</v></c></row></sheetData>'
    marks = check_workbook(Path("a.xlsx"), changed_archive({SHEET: sheet_xml(b"</sheetData>", row)}))
    assert marks["FAQ"].uncomputed == ()
    marks = check_workbook(
        Path("a.xlsx"), changed_archive({SHEET: sheet_xml(b"</sheetData>", row.replace(b' t="str"', b""))})
    )
    assert marks["FAQ"].uncomputed == (9,)


def test_a_header_that_comes_again_is_a_header() -> None:
    """Its names tell nothing, so that the rows below do."""
    rows: Rows = [["Stichwort", "Inhalt"], ["Storno", "Bis zum 3. Tag."], ["Stichwort", "Inhalt"], ["Konto", "Frei."]]
    table = parse(workbook({"S": rows}))
    assert table.columns == ("Stichwort", "Inhalt")
    assert [record.row for record in table.records] == [2, 3, 4]


@pytest.mark.parametrize(("texts", "told"), [(2, True), (1, False)])
def test_numbers_are_told_where_a_fifth_of_a_column_is_text(texts: int, told: bool) -> None:
    rows: Rows = [["Question", "Answer"], *([f"Price {number}?", number] for number in range(6))]
    rows += [[f"Trial {number}?", "Yes."] for number in range(texts)]
    assert ("numbers_among_texts" in codes(parse(workbook({"S": rows})))) == told


LONG = "Open the settings, choose the account and follow the steps there."


@pytest.mark.parametrize(("answer", "count", "told"), [(LONG, 3, True), (LONG, 2, False), ("Jana", 3, False)])
def test_rows_above_a_header_that_may_be_examples_are_told(answer: str, count: int, told: bool) -> None:
    above: Rows = [["Bereich", "Inhalt"], *([f"Topic {number}", answer] for number in range(count)), []]
    table = parse(workbook({"S": [*above, *FAQ]}))
    assert table.columns == ("Question", "Answer")
    found = [finding for finding in table.findings if finding.code == "rows_above"]
    assert [(finding.level, finding.rows) for finding in found] == [("warning", (2, 3, 4))] * told
