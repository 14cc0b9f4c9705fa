"""Which cells of an .xls workbook show their number as a percentage, by the number formats of their styles.

The workbook is a stream of records, [MS-XLS], in a small file system of its own, [MS-CFB]. Knows nothing of values.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from tunesmith.data.readers.marks import SheetMarks
from tunesmith.data.readers.percents import Percent, PercentStyles

_FREE = 0xFFFFFFFA  # from here on a sector's number is a mark, such as the end of a chain
_SECTOR_BYTES = (512, 4096)
_MINI_BYTES = 64  # sectors of short streams
_ENTRY_BYTES = 128
_STREAMS = ("Workbook", "Book")  # of Excel 97, and of Excel 5 and 95

_BEGIN, _END, _SHEET, _FORMAT, _STYLE = 0x0809, 0x000A, 0x0085, 0x041E, 0x00E0
_CELLS = (0x0203, 0x027E, 0x0006)  # a number, a short number, a formula: row, column, style
_SHORT_NUMBERS = 0x00BD  # of a row: row, first column, (style, number) .., last column
_EXCEL_97 = 0x0600


def xls_percents(content: bytes) -> dict[str, SheetMarks]:
    """The percentages of each sheet, by its name. To be asked of a workbook that the parser of cells has accepted.

    Raises:
        ValueError: it is cut off, or its parts do not lie where it says.
    """
    try:
        stream = _stream(content)
        version = 0
        styles = PercentStyles()
        styles.start("cellXfs", {})  # there is no other list of styles
        sheets: dict[str, int] = {}
        for kind, body in _records(stream, 0):
            if kind == _BEGIN:
                (version,) = struct.unpack_from("<H", body)
            elif kind == _FORMAT:
                number, wide = struct.unpack_from("<H", body)[0], version == _EXCEL_97
                code = _text(body, 5, flags=body[4]) if wide else _text(body, 3, flags=0)
                styles.start("numFmt", {"numFmtId": str(number), "formatCode": code})
            elif kind == _STYLE:
                styles.start("xf", {"numFmtId": str(struct.unpack_from("<H", body, 2)[0])})
            elif kind == _SHEET:
                name = _text(body, 8, flags=body[7]) if version == _EXCEL_97 else _text(body, 7, flags=0)
                sheets[name] = struct.unpack_from("<I", body)[0]
        by_style = {int(style): percent for style, percent in styles.found.items()}
        return {name: SheetMarks(percents=_percents(stream, start, by_style)) for name, start in sheets.items()}
    except (struct.error, IndexError) as error:
        raise ValueError(f"it is cut off: {error}") from error


def _percents(stream: bytes, start: int, by_style: dict[int, Percent]) -> dict[tuple[int, Percent], array[int]]:
    found: dict[tuple[int, Percent], array[int]] = {}
    for kind, body in _records(stream, start):
        if kind in _CELLS:
            row, column, style = struct.unpack_from("<3H", body)
            styles = [style]
        elif kind == _SHORT_NUMBERS:
            row, column = struct.unpack_from("<2H", body)
            styles = [style for style, _ in struct.iter_unpack("<HI", body[4:-2])]
        else:
            continue
        for place, style in enumerate(styles, start=column + 1):
            if style in by_style:
                found.setdefault((place, by_style[style]), array("L")).append(row + 1)
    return found


def _records(stream: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each, from a beginning to its end; charts among them begin and end too."""
    depth = 0
    while start + 4 <= len(stream):
        kind, size = struct.unpack_from("<2H", stream, start)
        depth += (kind == _BEGIN) - (kind == _END)
        if depth < 1:
            return
        if depth == 1:
            yield kind, stream[start + 4 : start + 4 + size]
        start += 4 + size


def _text(body: bytes, start: int, *, flags: int) -> str:
    """Characters from `start` on, of two bytes each if the lowest of the flags is set."""
    return body[start:].decode("utf-16-le" if flags & 1 else "latin-1", "replace")


class _Entry(NamedTuple):
    name: str
    start: int
    size: int


def _stream(content: bytes) -> bytes:
    """The stream of the workbook's records."""
    sector_bytes = 1 << struct.unpack_from("<H", content, 30)[0]
    if sector_bytes not in _SECTOR_BYTES:
        raise ValueError("its sectors have a size that no workbook has")
    directory, cutoff, mini_table = (struct.unpack_from("<I", content, place)[0] for place in (48, 56, 60))

    def sector(number: int) -> bytes:
        if (number + 1) * sector_bytes >= len(content):
            raise IndexError(f"there is no sector {number}")
        return content[(number + 1) * sector_bytes : (number + 2) * sector_bytes].ljust(sector_bytes, b"\0")

    tables = list(struct.unpack_from("<109I", content, 76))
    (more,) = struct.unpack_from("<I", content, 68)
    while more < _FREE and len(tables) * sector_bytes < len(content):
        *numbers, more = _numbers(sector(more))
        tables += numbers
    table = [number for place in tables if place < _FREE for number in _numbers(sector(place))]

    def chain(start: int) -> bytes:
        # a chain that is longer than the file goes in a circle
        return b"".join(map(sector, islice(_chain(table, start), len(content) // sector_bytes)))

    entries = [_entry(raw) for (raw,) in struct.iter_unpack(f"{_ENTRY_BYTES}s", chain(directory))]
    found = next((entry for name in _STREAMS for entry in entries if entry.name == name), None)
    if found is None:
        raise ValueError("it holds no stream of a workbook")
    if found.size >= cutoff:
        return chain(found.start)[: found.size]
    minis, places = chain(entries[0].start), _chain(_numbers(chain(mini_table)), found.start)
    return b"".join(minis[place * _MINI_BYTES : (place + 1) * _MINI_BYTES] for place in places)[: found.size]


def _numbers(sector: bytes) -> Sequence[int]:
    return struct.unpack(f"<{len(sector) // 4}I", sector)


def _chain(table: Sequence[int], start: int) -> Iterator[int]:
    """Numbers of the sectors of a stream, no more than there are.

    Raises:
        IndexError: it leads out of the table.
    """
    for _ in range(len(table)):
        if start >= _FREE:
            return
        yield start
        start = table[start]


def _entry(raw: bytes) -> _Entry:
    length, start, size = (
        struct.unpack_from(form, raw, place)[0] for form, place in (("<H", 64), ("<I", 116), ("<I", 120))
    )
    return _Entry(raw[: max(0, min(length, 64) - 2)].decode("utf-16-le", "replace"), start, size)
