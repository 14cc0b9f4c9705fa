"""Look through a workbook's zip archive before any parser does: a small file must not be able to fill the memory.

The parser allocates every cell between the first and the last used one, and aborts the whole process when it cannot;
one stray cell in the last row and column is enough. Limits are on what the archive really inflates to, not on what its
directory says. An entry is either well-formed XML, whose cells are measured here, or it holds no sheet.
"""

from __future__ import annotations

import copy
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.parsers import expat

from tunesmith.data.readers.layout import column_number
from tunesmith.data.readers.marks import Marker, SheetMarks, sheet_names
from tunesmith.data.readers.percents import PercentStyles
from tunesmith.errors import DataError

MAX_INFLATED_BYTES = 200 * 2**20
MAX_RATIO = 200  # inflated / packed
MAX_ENTRIES = 10_000
MAX_CELLS = 20_000_000  # between the first and the last used one of a sheet: about 500 MB in the parser
_CHUNK_BYTES = 2**20
_SHEET_MARK = b"sheetData"  # the element without which there are no cells
_CELL = re.compile(r"([A-Za-z]{1,3})([0-9]{1,7})")
_ROW = re.compile(r"()([0-9]{1,7})")


def check_workbook(path: Path, content: bytes) -> dict[str, SheetMarks]:
    """Accept a workbook within the limits. Returns what the XML of each sheet, by its name, says besides its values.

    Raises:
        DataError: it is no workbook, is damaged, or goes over a limit.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            marks = _check(path, archive, packed_bytes=len(content))
            return {name: marks[entry] for entry, name in sheet_names(archive).items() if entry in marks}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        # RuntimeError: an encrypted entry; NotImplementedError: an unknown compression
        raise DataError(
            f"{path} is not a readable workbook", cause=str(error), fix="open and save it again as .xlsx, or export csv"
        ) from error


def _check(path: Path, archive: zipfile.ZipFile, *, packed_bytes: int) -> dict[str, SheetMarks]:
    marks: dict[str, SheetMarks] = {}
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise _refusal(path, f"its archive has {len(entries)} entries, over the limit of {MAX_ENTRIES}")
    if not any(entry.filename.lower() == "xl/workbook.xml" for entry in entries):
        raise DataError(
            f"{path} is not a workbook", cause="its zip archive holds no xl/workbook.xml", fix="save it as .xlsx"
        )
    inflated = 0
    styles = PercentStyles()
    for entry in sorted(entries, key=lambda entry: not entry.filename.lower().endswith("styles.xml")):
        sheet = _SheetExtent(styles)  # of every entry: a sheet may lie anywhere in the archive
        for chunk in _inflate(archive, entry):
            inflated += len(chunk)
            if inflated > MAX_INFLATED_BYTES:
                raise _refusal(path, f"it inflates to more than {MAX_INFLATED_BYTES >> 20} MiB")
            if inflated > MAX_RATIO * max(packed_bytes, _CHUNK_BYTES // MAX_RATIO):
                raise _refusal(path, f"it inflates to more than {MAX_RATIO} times its size")
            sheet.feed(chunk)
        problem = sheet.problem()
        if problem is not None:
            raise DataError(
                f"{path} is not a readable workbook",
                cause=f"{entry.filename}: {problem}",
                fix="open and save it again as .xlsx, or export csv",
            )
        if sheet.cells > MAX_CELLS:
            raise DataError(
                f"{path} has a sheet that spans {sheet.cells:,} cells, over the limit of {MAX_CELLS:,}",
                cause=f"{entry.filename} uses rows {sheet.rows[0]} to {sheet.rows[1]}; one is far from the others",
                fix="delete the stray cells at the far end (Ctrl+End shows them), or export the rows as csv",
            )
        marks[entry.filename] = sheet.marker.marks
    return marks


def _inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """All bytes that really come out, even if the directory claims fewer."""
    honest = copy.copy(entry)
    honest.file_size = MAX_INFLATED_BYTES + _CHUNK_BYTES
    with archive.open(honest) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


class _SheetExtent:
    """First and last row and column that the row and cell elements of an entry name, if it is XML.

    styles: those that are known already; an entry that has some adds them.
    """

    def __init__(self, styles: PercentStyles) -> None:
        self.rows = (2**31, 0)
        self.columns = (2**31, 0)
        self._holds_sheet = False
        self._tail = b""
        self._failure: str | None = None
        self._parser = expat.ParserCreate()
        self._styles = styles
        self.marker = Marker(self._parser)
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, chunk: bytes) -> None:
        """Parse the next piece; after a failure only look for a sheet that another parser might still see."""
        self._holds_sheet = self._holds_sheet or _SHEET_MARK in self._tail + chunk
        self._tail = chunk[-len(_SHEET_MARK) :]
        if self._failure is None:
            self._parse(chunk, last=False)

    def problem(self) -> str | None:
        """Why the entry must not reach the parser of sheets. To be asked once, at its end."""
        if self._failure is None:
            self._parse(b"", last=True)
        return self._failure if self._holds_sheet else None

    @property
    def cells(self) -> int:
        """Cells in the rectangle that the parser will allocate."""
        return max(0, self.rows[1] - self.rows[0] + 1) * max(0, self.columns[1] - self.columns[0] + 1)

    def _parse(self, chunk: bytes, *, last: bool) -> None:
        try:
            self._parser.Parse(chunk, last)
        except (expat.ExpatError, LookupError, _Malformed) as error:  # LookupError: an encoding nobody knows
            self._failure = str(error)

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        local = name.rpartition(":")[2]
        self.marker.start(local, attributes)
        pattern = {"c": _CELL, "row": _ROW}.get(local)
        reference = attributes.get("r")
        if pattern is None or reference is None:
            self._styles.start(local, attributes)
            return
        match = pattern.fullmatch(reference)
        if match is None:
            raise _Malformed(f"{reference[:20]!r} is no place in a sheet")
        row, column = int(match[2]), column_number(match[1]) or 1
        self.rows = (min(self.rows[0], row), max(self.rows[1], row))
        self.columns = (min(self.columns[0], column), max(self.columns[1], column))
        percent = self._styles.found.get(attributes.get("s", "")) if local == "c" else None
        if percent is not None:
            self.marker.shows_percent(row, column, percent)

    def _end(self, name: str) -> None:
        self.marker.end(name.rpartition(":")[2])

    def _doctype(self, *_: object) -> None:
        raise _Malformed("it declares a document type, which workbooks never do")


class _Malformed(Exception):
    """XML that no spreadsheet program writes."""


def _refusal(path: Path, cause: str) -> DataError:
    return DataError(f"{path} was not opened: it looks like an archive bomb", cause=cause, fix="export the rows as csv")
