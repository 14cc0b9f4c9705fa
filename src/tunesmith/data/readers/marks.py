"""What a sheet's XML says about its cells beyond their values: hidden rows and columns, formulas never computed, error
values, percentages.

Fed by the guard while it walks the XML; the parser of cells does not tell these. Knows nothing of shapes.
"""

from __future__ import annotations

import html
import posixpath
import re
import zipfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from tunesmith.data.readers.percents import Percent
from tunesmith.data.table import counted
from tunesmith.types import Finding

_SHEET = re.compile(r"<(?:\w+:)?sheet\s[^>]*>")
_RELATION = re.compile(r"<(?:\w+:)?Relationship\s[^>]*>")
_ATTRIBUTE = re.compile(r"""([\w:]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_NUMBER = re.compile(r"[0-9]{1,7}")
_YES = ("1", "true")


@dataclass(frozen=True, slots=True)
class SheetMarks:
    """Row numbers, counted from 1: hidden ones; with formulas whose value was never stored; with errors as #N/A.

    hidden_columns: first and last of each stretch of them, counted from 1.
    percents: rows of the cells of a column, counted from 1, that show a percentage in the same way.
    """

    hidden: tuple[int, ...] = ()
    uncomputed: tuple[int, ...] = ()
    errors: tuple[int, ...] = ()
    hidden_columns: tuple[tuple[int, int], ...] = ()
    percents: Mapping[tuple[int, Percent], Sequence[int]] = field(default_factory=dict)


class Marker:
    """Collects the marks of one sheet from the events of its XML parser, in the order of the file."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self._parser = parser
        self._rows: tuple[dict[int, None], ...] = ({}, {}, {})  # hidden, uncomputed, errors
        self._columns: list[tuple[int, int]] = []
        self._percents: dict[tuple[int, Percent], array[int]] = {}
        self._row = 0
        self._type: str | None = None
        self._is_formula = self._has_value = False

    @property
    def marks(self) -> SheetMarks:
        """Of what has been seen."""
        hidden, uncomputed, errors = map(tuple, self._rows)
        return SheetMarks(hidden, uncomputed, errors, tuple(self._columns), self._percents)

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element begins; `name` is without its prefix."""
        if name == "row":
            self._row = int(attributes["r"]) if _NUMBER.fullmatch(attributes.get("r", "")) else self._row + 1
            if attributes.get("hidden") in _YES:
                self._rows[0][self._row] = None
        elif name == "col" and attributes.get("hidden") in _YES:
            ends = [attributes.get(end, "") for end in ("min", "max")]
            if all(map(_NUMBER.fullmatch, ends)):
                self._columns.append((int(ends[0]), int(ends[1])))
        elif name == "c":
            self._type = attributes.get("t")
            self._is_formula = self._has_value = False
            if self._type == "e":
                self._rows[2][self._row] = None
        elif name == "f":
            self._is_formula = True
        elif name == "v" and self._is_formula:
            self._parser.CharacterDataHandler = self._text

    def shows_percent(self, row: int, column: int, percent: Percent) -> None:
        """The number of this cell, if it holds one, is shown so."""
        self._percents.setdefault((column, percent), array("L")).append(row)

    def end(self, name: str) -> None:
        """An element ends. A formula that gives an empty text is stored as a text without characters."""
        if name == "v":
            self._parser.CharacterDataHandler = None
        elif name == "c" and self._is_formula and not self._has_value and self._type != "str":
            self._rows[1][self._row] = None

    def _text(self, characters: str) -> None:
        self._has_value = True


def sheet_names(archive: zipfile.ZipFile) -> dict[str, str]:
    """Entry of each sheet -> its name, as far as the workbook's two tables say."""
    names = {entry.lower(): entry for entry in archive.namelist()}
    tables = [names.get(entry) for entry in ("xl/workbook.xml", "xl/_rels/workbook.xml.rels")]
    book, relations = (archive.read(entry).decode("utf-8", "replace") if entry else "" for entry in tables)
    targets = {one.get("Id", ""): one.get("Target", "") for one in map(_attributes, _RELATION.findall(relations))}
    found: dict[str, str] = {}
    for sheet in map(_attributes, _SHEET.findall(book)):
        relation = next((value for name, value in sheet.items() if name.endswith(":id")), "")
        entry = posixpath.normpath(posixpath.join("/xl", targets.get(relation, ""))).lstrip("/")
        found[names.get(entry.lower(), entry)] = sheet.get("name", "")
    return found


def _attributes(element: str) -> dict[str, str]:
    return {name: html.unescape(first or second) for name, first, second in _ATTRIBUTE.findall(element)}


def marks_findings(marks: SheetMarks, sheet: str, columns: Mapping[int, str]) -> Iterator[Finding]:
    """What an owner of the sheet would want to know.

    columns: names of its columns by their number, counted from 1.
    """
    where = f'sheet "{sheet}": '
    if marks.hidden:
        yield Finding(
            "note",
            "hidden_rows",
            f"{where}hidden rows were read like the others: {len(marks.hidden)}",
            fix="delete them if they are not meant to be learnt",
            rows=marks.hidden,
        )
    hidden = [name for at, name in columns.items() if any(first <= at <= last for first, last in marks.hidden_columns)]
    if hidden:
        named = ", ".join(f'"{name}"' for name in hidden)
        yield Finding(
            "note",
            "hidden_columns",
            f"{where}hidden columns were read like the others: {named}",
            fix="delete them if they are not meant to be learnt",
        )
    if marks.uncomputed:
        yield Finding(
            "warning",
            "formulas",
            f"{where}formulas without a stored value count as empty, in {counted(len(marks.uncomputed), 'row')}",
            fix="open the workbook in a spreadsheet program and save it",
            rows=marks.uncomputed,
        )
    if marks.errors:
        yield Finding(
            "warning",
            "error_cells",
            f"{where}cells with an error such as #N/A count as empty, in {counted(len(marks.errors), 'row')}",
            fix="repair their formulas",
            rows=marks.errors,
        )
