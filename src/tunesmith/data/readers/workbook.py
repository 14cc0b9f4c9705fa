"""Workbook -> Table: every visible sheet, header rows found, tables side by side, merged cells, numbers as exact text.

Formulas are read as the values that were stored with them. Knows nothing of shapes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import python_calamine as calamine

from tunesmith.data.readers.delimited import header_findings
from tunesmith.data.readers.header import Header, column_names, find_header
from tunesmith.data.readers.kinds import ZIP, recognise
from tunesmith.data.readers.layout import Area, column_letters, fill_down, join_headings, tables_beside
from tunesmith.data.readers.marks import SheetMarks, marks_findings
from tunesmith.data.readers.ods_percents import ods_percents
from tunesmith.data.readers.source import Source
from tunesmith.data.readers.trial import largest_sheet
from tunesmith.data.readers.workbook_guard import MAX_CELLS, check_workbook
from tunesmith.data.readers.xls_percents import xls_percents
from tunesmith.data.table import Table, cell_text, columns_of, counted
from tunesmith.errors import DataError, did_you_mean
from tunesmith.types import Finding, Record

_PERCENTS = {"xls": xls_percents, "ods": ods_percents}
_FULL_CELL = 32_767  # characters
_FEWEST_TEXTS = 0.2  # of the cells, from which on a column is one of texts: fewer are slips among numbers
_LONGEST_NOTE = 20  # rows: a skipped sheet that is longer may have been meant


@dataclass(frozen=True, slots=True)
class _Sheet:
    records: tuple[Record, ...] = ()
    findings: tuple[Finding, ...] = ()
    is_table: bool = False  # it has headings over two columns or more


def read_xlsx(source: Source) -> Table:
    """Visible sheets with rows, or the one that `source.sheet` names, hidden or not. Rows are numbered as in the sheet.

    Raises:
        DataError: no workbook, an unknown sheet, no sheet with rows, or a guard's limit.
    """
    _require_kind(source, "xlsx")
    marks = check_workbook(source.path, source.content)
    return _read(source, _open(source), marks, "xlsx")


def read_xls(source: Source) -> Table:
    """As `read_xlsx`, of Excel 97 to 2003. Hidden rows and formulas without values are not told: the parser hides them.

    Raises:
        DataError: as there.
    """
    return _read_tried(source, "xls")


def read_ods(source: Source) -> Table:
    """As `read_xls`, of LibreOffice and OpenOffice.

    Raises:
        DataError: as there.
    """
    return _read_tried(source, "ods")


def _read_tried(source: Source, format_name: str) -> Table:
    _require_kind(source, format_name)
    try:
        cells = largest_sheet(source.content)
    except calamine.CalamineError as error:
        raise _damaged(source, error) from error
    if cells > MAX_CELLS:
        raise DataError(
            f"{source.path} has a sheet that spans {cells:,} cells, over the limit of {MAX_CELLS:,}",
            cause="one used cell is far from the others",
            fix="delete the stray cells at the far end (Ctrl+End shows them), or export the rows as csv",
        )
    try:
        marks = _PERCENTS[format_name](source.content)
    except ValueError as error:
        raise _damaged(source, error) from error
    return _read(source, _open(source), marks, format_name)


def _read(source: Source, book: calamine.CalamineWorkbook, marks: Mapping[str, SheetMarks], format_name: str) -> Table:
    names, findings = _choose_sheets(source, book)
    sheets: dict[str, _Sheet] = {}
    for name in names:
        try:
            sheet = _read_sheet(book, name, marks.get(name, SheetMarks()))
        except calamine.CalamineError as error:
            raise _damaged(source, error) from error
        if sheet.records:
            sheets[name] = sheet
        else:
            findings.append(Finding("note", "empty_sheet", f'sheet "{name}" has no rows and was skipped'))
    for name in _notes_among(sheets):
        rows = len(sheets.pop(name).records)
        findings.append(
            Finding(
                "warning" if rows > _LONGEST_NOTE else "note",
                "notes_sheet",
                f'sheet "{name}" ({counted(rows, "row")}) has no headings over several columns, as others have, '
                "and was skipped",
                fix=f'to read it set data.sheet to "{name}"',
            )
        )
    if not sheets:
        raise DataError(
            f"{source.path} has no sheet with rows below a header",
            cause="; ".join(finding.message for finding in findings),
            fix="put the headings in one row and the examples below, or name a hidden sheet with data.sheet",
        )
    records = tuple(record for sheet in sheets.values() for record in sheet.records)
    return Table(
        path=str(source.path),
        format=format_name,
        records=records,
        columns=columns_of(records),
        sheets=tuple(sheets),
        findings=(*findings, *(finding for sheet in sheets.values() for finding in sheet.findings)),
        sha256=source.sha256,
    )


def _require_kind(source: Source, format_name: str) -> None:
    kind = recognise(source.path, source.content)
    wanted, is_ours = {
        "xlsx": ("an .xlsx file is a zip archive", source.content.startswith(ZIP)),
        "xls": ("an .xls file is a compound file", kind is not None and kind.format == "xls"),
        "ods": ("an .ods file is a zip archive", kind is not None and kind.format == "ods"),
    }[format_name]
    if kind is None or not is_ours:
        raise DataError(
            f"{source.path} is not an .{format_name} workbook",
            cause=f"{wanted}; this is {kind.name if kind else 'none, but may be text'}",
            fix=kind.fix if kind else "set data.format to what it is, such as csv",
        )


def _open(source: Source) -> calamine.CalamineWorkbook:
    try:
        return calamine.CalamineWorkbook.from_filelike(io.BytesIO(source.content))
    except calamine.CalamineError as error:
        raise _damaged(source, error) from error


def _choose_sheets(source: Source, book: calamine.CalamineWorkbook) -> tuple[list[str], list[Finding]]:
    worksheets = [sheet for sheet in book.sheets_metadata if sheet.typ == calamine.SheetTypeEnum.WorkSheet]
    names = [sheet.name for sheet in worksheets]
    if source.sheet is not None:
        if source.sheet not in names:
            raise DataError(
                f"{source.path} has no sheet {source.sheet!r}{did_you_mean(source.sheet, names)}",
                cause=f"its sheets are {', '.join(map(repr, names))}",
                fix="set data.sheet to one of them",
            )
        return [source.sheet], []
    hidden = [sheet.name for sheet in worksheets if sheet.visible != calamine.SheetVisibleEnum.Visible]
    findings = [
        Finding(
            "note",
            "hidden_sheet",
            f'sheet "{name}" is hidden and was skipped',
            fix=f'to read it set data.sheet to "{name}"',
        )
        for name in hidden
    ]
    return [name for name in names if name not in hidden], findings


def _notes_among(sheets: Mapping[str, _Sheet]) -> list[str]:
    """Sheets that are no table, if any other is one: they are read-me pages and notes."""
    notes = [name for name, sheet in sheets.items() if not sheet.is_table]
    return notes if len(notes) < len(sheets) else []


def _read_sheet(book: calamine.CalamineWorkbook, name: str, marks: SheetMarks) -> _Sheet:
    sheet = book.get_sheet_by_name(name)
    if sheet.start is None:
        return _Sheet()
    top, left = sheet.start
    values = sheet.to_python(skip_empty_area=True)
    _show_percents(values, marks, top, left)
    rows = [[_text(cell) for cell in row] for row in values]
    merged = [Area(up - top, from_ - left, down - top, to - left) for (up, from_), (down, to) in _merged(sheet)]
    fill_down(rows, merged)
    join_headings(rows, merged)
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    header = find_header(rows)
    numbers = range(top + 1, top + 1 + len(rows))
    columns = sum(name is not None for name in header.names)
    named = {left + column + 1: heading for column, heading in enumerate(header.names) if heading is not None}
    findings = [*header_findings(header, numbers, name), *marks_findings(marks, name, named)]
    findings += _cut_cells(rows, numbers, name)
    tables = tables_beside(rows[header.index]) if header.index is not None else []
    if tables:
        records = _records_beside(rows, header, numbers, tables, name)
        findings.append(_beside(tables, left, name))
    else:
        records = [
            Record(
                numbers[index],
                {name: cell for name, cell in zip(header.names, rows[index], strict=False) if name is not None},
                name,
            )
            for index in range(header.start, len(rows))
        ]
        findings += _numbers_among_texts(values, header, numbers, name)
    return _Sheet(tuple(records), tuple(findings), header.index is not None and columns > 1)


def _show_percents(values: Sequence[list[Any]], marks: SheetMarks, top: int, left: int) -> None:
    """Write the numbers that the sheet shows as percentages as it does. `top`, `left`: place of the first value."""
    for (number, percent), rows in marks.percents.items():
        column = number - 1 - left
        for row in (number - 1 - top for number in rows):
            if 0 <= row < len(values) and 0 <= column < len(values[row]) and type(values[row][column]) in (int, float):
                values[row][column] = percent.text(values[row][column])


def _merged(sheet: calamine.CalamineSheet) -> Sequence[tuple[tuple[int, int], tuple[int, int]]]:
    return sheet.merged_cell_ranges or []


def _records_beside(
    rows: Sequence[Sequence[str]], header: Header, numbers: Sequence[int], tables: Sequence[range], sheet: str
) -> list[Record]:
    """The rows of each table in turn; a row that only another table has is not blank, it is not there."""
    records: list[Record] = []
    for columns in tables:
        cut = [[row[column] if column < len(row) else "" for column in columns] for row in rows]
        names = column_names(cut[header.index or 0], cut[header.start :])
        for index in range(header.start, len(rows)):
            if any(cell.strip() for cell in cut[index]) or (
                columns is tables[0] and not any(cell.strip() for cell in rows[index])
            ):
                cells = {name: cell for name, cell in zip(names, cut[index], strict=True) if name is not None}
                records.append(Record(numbers[index], cells, sheet))
    return records


def _beside(tables: Sequence[range], left: int, sheet: str) -> Finding:
    places = [f"{column_letters(left + columns[0])} to {column_letters(left + columns[-1])}" for columns in tables]
    return Finding(
        "note",
        "tables_beside",
        f'sheet "{sheet}": {len(tables)} tables with the same headings stand side by side (columns '
        f"{', '.join(places)}); they were read one below the other",
    )


def _numbers_among_texts(
    values: Sequence[Sequence[object]], header: Header, numbers: Sequence[int], sheet: str
) -> Iterator[Finding]:
    """Columns with texts beside numbers or dates in their cells: what is stored is not what the sheet shows."""
    for column, name in enumerate(header.names):
        typed: dict[int, object] = {}
        texts = 0
        for index in range(header.start, len(numbers)):
            value = values[index][column]
            if isinstance(value, str):
                texts += bool(value.strip())
            elif not isinstance(value, bool):
                typed[numbers[index]] = value
        if name is not None and typed and texts >= _FEWEST_TEXTS * (texts + len(typed)):
            yield Finding(
                "note",
                "numbers_among_texts",
                f'sheet "{sheet}": column "{name}" has numbers or dates among its texts ({len(typed)}), read as they '
                f'are stored, such as "{cell_text(next(iter(typed.values())))}", whatever their format shows',
                fix="if they matter, make them text in the sheet",
                rows=tuple(typed),
            )


def _cut_cells(rows: Sequence[Sequence[str]], numbers: Sequence[int], sheet: str) -> Iterator[Finding]:
    """Cells that are as long as Excel lets them be: what was longer is gone."""
    cut = tuple(
        number for number, row in zip(numbers, rows, strict=True) if any(len(cell) >= _FULL_CELL for cell in row)
    )
    if cut:
        yield Finding(
            "warning",
            "full_cells",
            f'sheet "{sheet}": cells with {_FULL_CELL:,} characters, the most in Excel, so their end may be gone',
            fix="compare them with their source; csv and JSON have no such limit",
            rows=cut,
        )


def _text(cell: object) -> str:
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"  # as the sheet shows it
    return cell_text(cell)


def _damaged(source: Source, error: Exception) -> DataError:
    cause = str(error)
    if "detect file format" in cause:  # what the parser says of any .xls or .ods that it cannot open
        cause = "it is damaged, has a password, or uses a cell that is far from all others"
    return DataError(
        f"{source.path} is not a readable workbook", cause=cause, fix="save it again as .xlsx, or export csv"
    )
