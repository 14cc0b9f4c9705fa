"""How people lay tables out on a sheet: merged cells, headings over two rows, the same table several times in a row.

Works on rows of text, and on places counted from 0 within them. Knows nothing of files or shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tunesmith.data.names import is_known_name
from tunesmith.data.readers.header import Cells, could_be_heading


@dataclass(frozen=True, slots=True)
class Area:
    """Cells that were merged into one: first and last row and column."""

    top: int
    left: int
    bottom: int
    right: int


def fill_down(rows: list[list[str]], merged: Sequence[Area]) -> None:
    """A cell merged over several rows means each of them: copy its text down, in its first column."""
    for area in merged:
        if 0 <= area.top < len(rows) and 0 <= area.left < len(rows[area.top]):
            for index in range(area.top + 1, min(area.bottom + 1, len(rows))):
                rows[index][area.left] = rows[area.top][area.left]


def join_headings(rows: list[list[str]], merged: Sequence[Area]) -> None:
    """Make one row of headings of two: "Question" merged over "EN" and "DE" becomes "Question EN" and "Question DE".

    Done where the upper row has as many names of parts as the lower one; else the lower one is the header by itself.
    The upper row is emptied, so that the lower one is found.
    """
    for index in sorted({area.top for area in merged if area.right > area.left and area.top == area.bottom}):
        if not 0 <= index < len(rows) - 1:
            continue
        over = {
            column: area.left
            for area in merged
            if area.top == area.bottom == index and area.right > area.left >= 0
            for column in range(area.left, min(area.right + 1, len(rows[index])))
        }
        upper, lower = rows[index], rows[index + 1]
        known = [sum(map(is_known_name, row)) for row in (upper, lower)]
        is_below = all(lower[column].strip() and could_be_heading(lower[column]) for column in over)
        is_alone = all(not cell.strip() or cell == upper[at] for at, cell in enumerate(lower) if at not in over)
        if known[0] and known[0] >= known[1] and is_below and is_alone:
            tops = [upper[over[at]].strip() if at in over else upper[at].strip() for at in range(len(upper))]
            rows[index + 1] = [
                f"{top} {lower[at].strip()}" if at in over else top or lower[at] for at, top in enumerate(tops)
            ]
            rows[index] = [""] * len(upper)


def tables_beside(headings: Cells) -> list[range]:
    """The columns of each of several tables that have the same headings: A to B, D to E. Empty if it is one table."""
    filled = [(column, " ".join(cell.split()).casefold()) for column, cell in enumerate(headings) if cell.strip()]
    starts = [place for place, (_, heading) in enumerate(filled) if heading == filled[0][1]] if filled else []
    if len(starts) < 2:
        return []
    width = starts[1]
    names = [heading for _, heading in filled]
    tables = [names[start : start + width] for start in starts]
    is_regular = starts == list(range(0, len(filled), width)) and all(table == tables[0] for table in tables)
    if not is_regular or sum(map(is_known_name, tables[0])) < 2:
        return []
    return [range(filled[start][0], filled[start + width - 1][0] + 1) for start in starts]


def column_letters(column: int) -> str:
    """How a spreadsheet calls a column counted from 0.

    >>> [column_letters(column) for column in (0, 25, 26, 702)]
    ['A', 'Z', 'AA', 'AAA']
    """
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


@cache
def column_number(letters: str) -> int:
    """Which column, counted from 1, a spreadsheet calls so.

    >>> [column_number(letters) for letters in ("A", "Z", "aa", "AAA")]
    [1, 26, 27, 703]
    """
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number
