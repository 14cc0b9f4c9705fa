"""Which cells of an .ods workbook show their number as a percentage: the file holds the number and what is shown of it.

Knows nothing of the other cells.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from array import array
from collections.abc import Mapping
from xml.parsers import expat

from tunesmith.data.readers.marks import SheetMarks
from tunesmith.data.readers.percents import Percent

_CHUNK_BYTES = 2**20
_NOT_DIGITS = re.compile(r"[^0-9]+")
_MOST_DECIMALS = 15
_CELLS = ("table-cell", "covered-table-cell")


def ods_percents(content: bytes) -> dict[str, SheetMarks]:
    """The percentages of each sheet, by its name. To be asked of a workbook whose size is known to be bearable.

    Raises:
        ValueError: its content is no XML, or declares a document type.
    """
    walk = _Walk()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("content.xml") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                walk.parser.Parse(chunk, False)
            walk.parser.Parse(b"", True)
    except (expat.ExpatError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"content.xml: {error}") from error
    return {name: SheetMarks(percents=percents) for name, percents in walk.sheets.items()}


class _Walk:
    """Follows the rows and cells of content.xml, which say where they are only by how often each is repeated."""

    def __init__(self) -> None:
        self.sheets: dict[str, dict[tuple[int, Percent], array[int]]] = {}
        self._percents: dict[tuple[int, Percent], array[int]] = {}
        self._row = self._rows_repeated = self._column = 0
        self._number: float | None = None
        self._columns_repeated = 1
        self._shown: list[str] = []
        self._notes = 0  # a comment in a cell has paragraphs too
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        local = name.rpartition(":")[2]
        if local == "table":
            self._percents = self.sheets.setdefault(attributes.get("table:name", ""), {})
            self._row = self._rows_repeated = 0
        elif local == "table-row":
            self._row += self._rows_repeated
            self._rows_repeated = int(attributes.get("table:number-rows-repeated", 1))
            self._column = 0
        elif local in _CELLS:
            self._columns_repeated = int(attributes.get("table:number-columns-repeated", 1))
            is_percentage = attributes.get("office:value-type") == "percentage"
            self._number = float(attributes.get("office:value", "nan")) if is_percentage else None
            self._shown = []
        elif local == "annotation":
            self._notes += 1

    def _end(self, name: str) -> None:
        local = name.rpartition(":")[2]
        if local == "annotation":
            self._notes -= 1
        elif local in _CELLS:
            if self._number is not None and not math.isnan(self._number):
                percent = _as_shown("".join(self._shown), self._number)
                for column in range(self._column, self._column + self._columns_repeated):
                    rows = self._percents.setdefault((column + 1, percent), array("L"))
                    rows.extend(range(self._row + 1, self._row + 1 + self._rows_repeated))
            self._number = None
            self._column += self._columns_repeated

    def _text(self, characters: str) -> None:
        if self._number is not None and not self._notes:
            self._shown.append(characters)

    def _doctype(self, *_: object) -> None:
        raise ValueError("content.xml declares a document type, which workbooks never do")


def _as_shown(shown: str, number: float) -> Percent:
    """With as many decimals as the sheet shows, in whatever country; all of them where that does not tell.

    >>> _as_shown("25,60 %", 0.256), _as_shown("1.250%", 12.5), _as_shown("a quarter", 0.25)
    (Percent(least=2, most=2), Percent(least=0, most=0), Percent(least=0, most=15))
    """
    digits = _NOT_DIGITS.sub("", shown)
    exact = (Percent(decimals, decimals) for decimals in range(_MOST_DECIMALS))
    return next(
        (percent for percent in exact if _NOT_DIGITS.sub("", percent.text(number)) == digits),
        Percent(0, _MOST_DECIMALS),
    )
