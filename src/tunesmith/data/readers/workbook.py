"""xlsx -> Table: every visible sheet, header rows found, merged question cells filled down, numbers as exact text.

Formulas are read as the values that were stored with them. Knows nothing of shapes.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import python_calamine as calamine

from tunesmith.data.readers.delimited import header_findings
from tunesmith.data.readers.header import find_header
from tunesmith.data.readers.kinds import ZIP, recognise
from tunesmith.data.readers.source import Source
from tunesmith.data.readers.workbook_guard import check_workbook
from tunesmith.data.table import Table, cell_text, columns_of
from tunesmith.errors import DataError
from tunesmith.types import Finding, Record

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
    book = _open(source)
    names, findings = _choose_sheets(source, book)
    sheets: dict[str, _Sheet] = {}
    for name in names:
        try:
            sheet = _read_sheet(book, name)
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
                f'sheet "{name}" ({rows} rows) has no headings over several columns, as others have, and was skipped',
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
        format="xlsx",
        records=records,
        columns=columns_of(records),
        sheets=tuple(sheets),
        findings=(*findings, *(finding for sheet in sheets.values() for finding in sheet.findings)),
        sha256=source.sha256,
    )


def _open(source: Source) -> calamine.CalamineWorkbook:
    kind = recognise(source.path, source.content)
    if kind is None or not source.content.startswith(ZIP):
        raise DataError(
            f"{source.path} is not an .xlsx workbook",
            cause=f"an .xlsx file is a zip archive; this is {kind.name if kind else 'none, but may be text'}",
            fix=kind.fix if kind else "set data.format to what it is, such as csv",
        )
    check_workbook(source.path, source.content)
    try:
        return calamine.CalamineWorkbook.from_filelike(io.BytesIO(source.content))
    except calamine.CalamineError as error:
        raise _damaged(source, error) from error


def _choose_sheets(source: Source, book: calamine.CalamineWorkbook) -> tuple[list[str], list[Finding]]:
    worksheets = [sheet for sheet in book.sheets_metadata if sheet.typ == calamine.SheetTypeEnum.WorkSheet]
    names = [sheet.name for sheet in worksheets]
    if source.sheet is not None:
        if source.sheet not in names:
            close = difflib.get_close_matches(source.sheet.lower(), [name.lower() for name in names], n=1)
            nearest = next((f", did you mean {name!r}?" for name in names if [name.lower()] == close), "")
            raise DataError(
                f"{source.path} has no sheet {source.sheet!r}{nearest}",
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


def _read_sheet(book: calamine.CalamineWorkbook, name: str) -> _Sheet:
    sheet = book.get_sheet_by_name(name)
    if sheet.start is None:
        return _Sheet()
    first_row = sheet.start[0]
    rows = [[_text(cell) for cell in row] for row in sheet.to_python(skip_empty_area=True)]
    _fill_merged(rows, sheet.merged_cell_ranges or [], origin=sheet.start)
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    header = find_header(rows)
    numbers = range(first_row + 1, first_row + 1 + len(rows))
    columns = sum(name is not None for name in header.names)
    records = tuple(
        Record(
            numbers[index],
            {name: cell for name, cell in zip(header.names, rows[index], strict=False) if name is not None},
            name,
        )
        for index in range(header.start, len(rows))
    )
    return _Sheet(records, tuple(header_findings(header, numbers, name)), header.index is not None and columns > 1)


def _fill_merged(
    rows: list[list[str]],
    merged: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    *,
    origin: tuple[int, int],
) -> None:
    """A cell merged over several rows means each of them: copy its text down, in its first column.

    Ranges count rows and columns of the sheet from 0; `rows` begin at `origin`.
    """
    for (top, left), (bottom, _) in merged:
        first, column = top - origin[0], left - origin[1]
        if first < 0 or column < 0 or first >= len(rows) or column >= len(rows[first]):
            continue
        for index in range(first + 1, min(bottom - origin[0] + 1, len(rows))):
            rows[index][column] = rows[first][column]


def _text(cell: object) -> str:
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"  # as the sheet shows it
    return cell_text(cell)


def _damaged(source: Source, error: Exception) -> DataError:
    return DataError(
        f"{source.path} is not a readable workbook", cause=str(error), fix="save it again as .xlsx, or export csv"
    )
