"""Workbooks of Excel 97 to 2003 and of LibreOffice are read as .xlsx is; one that would fill the memory is refused."""

from __future__ import annotations

import datetime
import io
import struct
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import DataConfig
from tunesmith.data import Table, read
from tunesmith.data.readers import trial, workbook
from tunesmith.data.readers.xls_percents import xls_percents
from tunesmith.errors import DataError

MIME = "application/vnd.oasis.opendocument.spreadsheet"
HEAD = (
    '<?xml version="1.0"?><office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:style="urn:oasis:names:tc:opendocument:xmlns:'
    'style:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" office:version="1.3">'
    '<office:automatic-styles><style:style style:name="off" style:family="table"><style:table-properties '
    'table:display="false"/></style:style></office:automatic-styles><office:body><office:spreadsheet>'
)
TAIL = "</office:spreadsheet></office:body></office:document-content>"
EXPECTED = [
    (2, {"Question": "When?", "Answer": "2024-03-01", "Note": "TRUE"}),
    (3, {"Question": "How much?", "Answer": "12.5", "Note": ""}),
    (4, {"Question": "How many?", "Answer": "7", "Note": ""}),
    (6, {"Question": "Who?", "Answer": "We.", "Note": ""}),
]


def text(value: str) -> str:
    return f'<table:table-cell office:value-type="string"><text:p>{value}</text:p></table:table-cell>'


def typed(kind: str, attribute: str, value: object) -> str:
    shown = "<text:p>as shown</text:p>"
    return f'<table:table-cell office:value-type="{kind}" office:{attribute}="{value}">{shown}</table:table-cell>'


def number(value: float) -> str:
    return typed("float", "value", value)


def row(*cells: str) -> str:
    return f"<table:table-row>{''.join(cells)}</table:table-row>"


def sheet(name: str, *rows: str, style: str = "on") -> str:
    return f'<table:table table:name="{name}" table:style-name="{style}">{"".join(rows)}</table:table>'


def ods(path: Path, *sheets: str, mime: str = MIME) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", mime, zipfile.ZIP_STORED)
        archive.writestr("content.xml", HEAD + "".join(sheets) + TAIL)
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
    return path


@pytest.fixture
def open_document(tmp_path: Path) -> Path:
    date = typed("date", "date-value", "2024-03-01")
    true = typed("boolean", "boolean-value", "true")
    blank = "<table:table-cell/>"
    faq = sheet(
        "FAQ",
        row(text("Question"), text("Answer"), text("Note")),
        row(text("When?"), date, true),
        row(text("How much?"), number(12.5), blank),
        row(text("How many?"), number(7), blank),
        row(blank),
        row(text("Who?"), text("We.")),
    )
    hidden = sheet("Old", row(text("Question"), text("Answer")), row(text("x"), text("y")), style="off")
    return ods(tmp_path / "faq.ods", faq, hidden, sheet("Empty"))


@pytest.fixture
def excel_97(tmp_path: Path) -> Path:
    xlwt = pytest.importorskip("xlwt")
    book = xlwt.Workbook()
    faq = book.add_sheet("FAQ")
    date = xlwt.easyxf(num_format_str="YYYY-MM-DD")
    for column, name in enumerate(["Question", "Answer", "Note"]):
        faq.write(0, column, name)
    faq.write(1, 0, "When?")
    faq.write(1, 1, datetime.date(2024, 3, 1), date)
    faq.write(1, 2, True)
    for line, cells in ((2, ("How much?", 12.5)), (3, ("How many?", 7)), (5, ("Who?", "We."))):
        for column, value in enumerate(cells):
            faq.write(line, column, value)
    hidden = book.add_sheet("Old")
    hidden.visibility = 1
    for line, cells in enumerate((("Question", "Answer"), ("x", "y"))):
        for column, value in enumerate(cells):
            hidden.write(line, column, value)
    book.add_sheet("Empty")
    book.save(str(tmp_path / "faq.xls"))
    return tmp_path / "faq.xls"


def filled(table: Table) -> list[tuple[int, dict[str, str]]]:
    return [(record.row, dict(record.cells)) for record in table.records if any(record.cells.values())]


@pytest.mark.parametrize("kind", ["open_document", "excel_97"])
def test_cells_sheets_and_rows_are_as_in_xlsx(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    table = read(DataConfig(), path)
    assert (table.format, table.sheets) == (path.suffix[1:], ("FAQ",))
    assert filled(table) == EXPECTED
    assert {finding.code for finding in table.findings} == {"hidden_sheet", "empty_sheet", "numbers_among_texts"}
    assert filled(read(DataConfig(sheet="Old"), path)) == [(2, {"Question": "x", "Answer": "y"})]
    with pytest.raises(DataError, match="no sheet 'Fax', did you mean 'FAQ'"):
        read(DataConfig(sheet="Fax"), path)
    other = path.rename(path.with_suffix(".csv"))  # content decides
    assert filled(read(DataConfig(), other)) == EXPECTED


@pytest.mark.parametrize("lines", [3, 2000])
def test_percentages_of_excel_97_are_what_the_sheet_shows(lines: int, tmp_path: Path) -> None:
    """In cells of their own and in rows of short numbers; on a later sheet, and where the file has many sectors."""
    xlwt = pytest.importorskip("xlwt")
    book = xlwt.Workbook()
    styles = {code: xlwt.easyxf(num_format_str=code) for code in ("0%", "0.00%", '0.0" %"', "0.##%;[Red]-0%")}
    for name in ("One", "Ünï"):
        faq = book.add_sheet(name)
        for column, heading in enumerate(["Question", "Answer", "Low", "High"]):
            faq.write(0, column, heading)
        for line in range(1, lines + 1):
            faq.write(line, 0, f"How much is {name} {line}?")
        for line, (value, code) in enumerate([(0.19, "0%"), (1 / 3, "0.00%"), (0.5, '0.0" %"')], start=1):
            faq.write(line, 1, value, styles[code])
        faq.write(1, 2, 25, styles["0%"])
        faq.write(1, 3, 0.5, styles["0.##%;[Red]-0%"])
    book.save(str(tmp_path / "a.xls"))
    table = read(DataConfig(), tmp_path / "a.xls")
    for sheet_name in ("One", "Ünï"):
        rows = [tuple(record.cells.values())[1:] for record in table.records if record.sheet == sheet_name][:3]
        assert rows == [("19%", "2500%", "50%"), ("33.33%", "", ""), ("0.5", "", "")]


@pytest.mark.parametrize("cut", [40, 600, 1200, 3000])
def test_what_is_cut_off_is_one_error(cut: int, excel_97: Path) -> None:
    with pytest.raises(ValueError, match=r"it is cut off|holds no stream"):
        xls_percents(excel_97.read_bytes()[:cut])


@cache
def a_percentage() -> bytes:
    xlwt = pytest.importorskip("xlwt")
    book = xlwt.Workbook()
    book.add_sheet("S").write(0, 0, 0.5, xlwt.easyxf(num_format_str="0%"))
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def with_short_stream(records: bytes) -> bytes:
    """A compound file whose workbook, being short, lies in sectors of 64 bytes: table, directory, their table, them."""
    last, free = 0xFFFFFFFE, 0xFFFFFFFF
    held, minis = -(-len(records) // 512), -(-len(records) // 64)

    def table(chains: list[int]) -> bytes:
        return struct.pack("<128I", *chains, *[free] * (128 - len(chains)))

    def entry(name: str, start: int, size: int) -> bytes:
        raw = f"{name}\0".encode("utf-16-le")
        return struct.pack("<64sH50xII4x", raw, len(raw), start, size)

    header = bytearray(512)
    header[:8] = bytes.fromhex("d0cf11e0a1b11ae1")
    struct.pack_into("<H", header, 30, 9)
    struct.pack_into("<II4xIII", header, 44, 1, 1, 4096, 2, 1)
    struct.pack_into("<II109I", header, 68, last, 0, 0, *[free] * 108)
    directory = entry("Root Entry", 3, held * 512) + entry("Workbook", 0, len(records))
    chained = [0xFFFFFFFD, last, last, *range(4, 3 + held), last]
    parts = [bytes(header), table(chained), directory.ljust(512, b"\0"), table([*range(1, minis), last])]
    return b"".join([*parts, records.ljust(held * 512, b"\0")])


def test_a_workbook_that_is_short_is_read_too() -> None:
    (marks,) = xls_percents(with_short_stream(a_percentage()[512:4096].rstrip(b"\0") + bytes(2))).values()
    assert {column: list(rows) for (column, _), rows in marks.percents.items()} == {1: [1]}


@given(st.binary(max_size=40), st.integers(0, 600) | st.integers(0, 6000))
def test_damage_is_an_error_or_finds_little(damage: bytes, place: int) -> None:
    whole = a_percentage()
    with suppress(ValueError):
        found = xls_percents(whole[:place] + damage + whole[place + len(damage) :])
        assert len(found) <= len(damage) + 1


def percentage(value: float, shown: str, repeated: int = 1) -> str:
    more = f' table:number-columns-repeated="{repeated}"' if repeated > 1 else ""
    return (
        f'<table:table-cell{more} office:value-type="percentage" office:value="{value}"><office:annotation><text:p>7'
        f"</text:p></office:annotation><text:p>{shown}</text:p></table:table-cell>"
    )


def test_percentages_of_open_document_are_what_the_sheet_shows(tmp_path: Path) -> None:
    """Wherever they stand among cells and rows that are written once for several."""
    gap = '<table:table-row table:number-rows-repeated="2"><table:table-cell table:number-columns-repeated="9"/>'
    twice = f'<table:table-row table:number-rows-repeated="2">{text("Same?")}{percentage(0.5, "50%", 2)}'
    faq = sheet(
        "FAQ",
        row(text("Question"), text("Answer"), text("Note")),
        row(text("VAT?"), percentage(0.19, "19 %"), number(0.19)),
        gap + "</table:table-row>",
        row(text("Rate?"), percentage(0.256, "25,60%"), text("none")),
        row(text("Growth?"), percentage(12.5, "1.250%"), percentage(-0.05, "-5%")),
        row(text("Share?"), percentage(0.3333, "some"), text("0.3")),
        twice + "</table:table-row>",
    )
    other = sheet("More", row(text("Question"), text("Answer")), row(text("Why?"), percentage(1, "100%")))
    rows = [tuple(cells.values()) for _, cells in filled(read(DataConfig(), ods(tmp_path / "a.ods", faq, other)))]
    assert rows == [
        ("VAT?", "19%", "0.19"),
        ("Rate?", "25.60%", "none"),
        ("Growth?", "1250%", "-5%"),
        ("Share?", "33.33%", "0.3"),
        ("Same?", "50%", "50%"),
        ("Same?", "50%", "50%"),
        ("Why?", "100%"),
    ]


def test_an_open_document_with_a_document_type_is_refused(tmp_path: Path) -> None:
    path = ods(tmp_path / "a.ods", sheet("S", row(text("a"), text("b")), row(text("c"), text("d"))))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("content.xml").decode().replace("?>", "?><!DOCTYPE x>", 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", MIME)
        archive.writestr("content.xml", content)
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
    with pytest.raises(DataError) as caught:
        read(DataConfig(), path)
    assert "declares a document type" in str(caught.value.cause)


def test_merged_cells_of_excel_97_are_filled_down(tmp_path: Path) -> None:
    xlwt = pytest.importorskip("xlwt")
    book = xlwt.Workbook()
    faq = book.add_sheet("FAQ")
    for place, value in {(0, 0): "Question", (0, 1): "Answer", (1, 1): "one", (2, 1): "two"}.items():
        faq.write(*place, value)
    faq.write_merge(1, 2, 0, 0, "Both?")
    book.save(str(tmp_path / "a.xls"))
    rows = filled(read(DataConfig(), tmp_path / "a.xls"))
    assert rows == [(2, {"Question": "Both?", "Answer": "one"}), (3, {"Question": "Both?", "Answer": "two"})]


@pytest.mark.parametrize(
    ("format_name", "named"), [("xls", "an .xls file is a compound file"), ("ods", "an .ods file is a zip archive")]
)
def test_another_file_is_named_for_what_it_is(format_name: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"%PDF-1.7")
    with pytest.raises(DataError, match=rf"is not an \.{format_name} workbook") as caught:
        read(DataConfig(format=format_name), tmp_path / "a")
    assert caught.value.cause == f"{named}; this is a PDF"


def test_an_open_document_text_is_no_workbook(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an OpenDocument file, but no spreadsheet"):
        read(DataConfig(), ods(tmp_path / "a.ods", mime="application/vnd.oasis.opendocument.text"))


@pytest.mark.parametrize("content", [b"\xd0\xcf\x11\xe0" + "Workbook".encode("utf-16-le") + bytes(600)])
def test_a_damaged_one_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xls").write_bytes(content)
    with pytest.raises(DataError, match="is not a readable workbook"):
        read(DataConfig(), tmp_path / "a.xls")


def far_cell(path: Path, rows: int) -> Path:
    gap = f'<table:table-row table:number-rows-repeated="{rows}"><table:table-cell/></table:table-row>'
    far = '<table:table-cell table:number-columns-repeated="1000"/>' + text("far")
    return ods(path, sheet("S", row(text("a"), text("b")), gap, row(text("c"), far)))


def test_a_stray_cell_far_away_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:  # the parser's own limit
        read(DataConfig(), far_cell(tmp_path / "a.ods", 1_000_000))
    assert "far from all others" in str(caught.value.cause)
    monkeypatch.setattr(workbook, "MAX_CELLS", 20_000)
    with pytest.raises(DataError, match="spans 22,044 cells, over the limit of 20,000") as caught:
        read(DataConfig(), far_cell(tmp_path / "a.ods", 20))
    assert "delete the stray cells" in str(caught.value.fix)


def test_a_parser_that_ends_its_process_or_is_too_slow_is_told(
    open_document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trial, "TIMEOUT_SECONDS", 0.001)
    with pytest.raises(DataError) as caught:
        read(DataConfig(), open_document)
    assert "took more than 0.001 s" in str(caught.value.cause)
    monkeypatch.setattr(trial, "TIMEOUT_SECONDS", 60)
    monkeypatch.setattr(trial, "__file__", str(tmp_path / "child.py"))
    (tmp_path / "child.py").write_text("import os; os.abort()")
    with pytest.raises(DataError) as caught:
        read(DataConfig(), open_document)
    assert "failed or took more than 2 GiB" in str(caught.value.cause)
