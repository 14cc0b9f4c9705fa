"""Where the header of a table is, if it has one, and the names of its columns. Shared by workbooks and delimited text.

Knows nothing of files or shapes; rows come in as lists of text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from tunesmith.data.facts import is_code
from tunesmith.data.names import is_known_name, plain_heading, without_remark

_SEARCHED_ROWS = 50  # a header is among the first rows that are not blank
_SAMPLED_ROWS = 200
_LONGEST_HEADING = 60  # characters
_MOST_WORDS = 6
_LONGEST_SENTENCE = 200  # characters of a heading that asks, as in a form
_DIGIT = re.compile(r"\d")
_YEAR = re.compile(r"(19|20)\d\d")
_FEWEST_EXAMPLES = 3  # rows above a header, from which on they may be another table
_FEWEST_NAMES = 3  # of things, from which on it is no chance that all are different
_QUESTION_MARKS = ("?", "？", "؟")
_FEWEST_VALUES = 3  # numbers or dates below a word, from which on it is a heading
_YES_OR_NO = frozenset({"true", "false", "yes", "no", "y", "n", "0", "1", "ja", "nein", "oui", "non"})
# words for a missing value
_NOTHING = frozenset({"n/a", "na", "none", "null", "nil", "nan", "unknown", "unbekannt", "tbd", "k.a."})

Cells = Sequence[str]


@dataclass(frozen=True, slots=True)
class Header:
    """`start`: index of the first data row. `names`: one per column, None where a column has neither name nor value.

    `index` is that of the header row, None without one; `titles` are the rows with text above it; `examples` those of
    them that may be rows of another table; `below` those that look like the headers of other tables below this one.
    """

    start: int
    names: tuple[str | None, ...]
    index: int | None
    titles: tuple[int, ...] = ()
    examples: tuple[int, ...] = ()
    below: tuple[int, ...] = ()


def find_header(rows: Sequence[Cells]) -> Header:
    """The row that names the columns: blank rows and titles above it are passed over.

    Known names ("Question", "Antwort") decide. Without them it is the first row as wide as the table that looks like
    headings: short, all different, no numbers but years, no sentences, nothing that comes again below; or sentences, as
    forms have them, with a word over a column of numbers or dates; or questions, beside names of what they ask about.
    Only narrower rows may stand above it, such as "As of:" with a date: a table without a header begins with a row that
    is data.
    """
    filled = [index for index, row in enumerate(rows) if any(cell.strip() for cell in row)]
    if not filled:
        return Header(len(rows), (), None)
    candidate = _named_row(rows, filled)
    if candidate is None:
        wide = _ever_wider_rows(rows, filled)
        candidate = next((index for index in wide if _looks_like_headings(rows, index)), None)
        if candidate is None:
            candidate = wide[0]
            first = filled[0] if _width(rows[filled[0]]) > 1 or _width(rows[candidate]) == 1 else candidate
            return Header(first, column_names((), rows[first:]), None, _above(filled, first))
    titles = _above(filled, candidate)
    return Header(
        candidate + 1,
        column_names(rows[candidate], rows[candidate + 1 :]),
        candidate,
        titles,
        _examples(rows, titles),
        tuple(_headers_below(rows, filled, candidate)),
    )


def _above(filled: Sequence[int], first: int) -> tuple[int, ...]:
    return tuple(index for index in filled if index < first)


def _examples(rows: Sequence[Cells], titles: Sequence[int]) -> tuple[int, ...]:
    """Rows of several cells of which one is longer than a heading: a few are notes, many a table of their own."""
    found = [index for index in titles if _width(rows[index]) > 1 and max(map(len, rows[index])) > _LONGEST_HEADING]
    return tuple(found) if len(found) >= _FEWEST_EXAMPLES else ()


def _headers_below(rows: Sequence[Cells], filled: Sequence[int], header: int) -> Iterator[int]:
    """Rows after blank ones, perhaps with a title between, that look like headings and have more to show for it.

    That is two known names, or no digit over a column in which every cell has one. The header once more is none.
    """
    starts = [index for before, index in pairwise(filled) if before >= header and index > before + 1]
    for start, end in pairwise([*starts, len(rows)]):
        block = [index for index in range(start, end) if _width(rows[index]) > 0]
        if len(block) > 1 and _width(rows[block[0]]) == 1:
            block = block[1:]
        first, body = rows[block[0]], [rows[index] for index in block[1:_SAMPLED_ROWS]]
        if _width(first) < 2 or not body or [*map(str.strip, first)] == [*map(str.strip, rows[header])]:
            continue
        below = [
            [row[column] for row in body if column < len(row) and row[column].strip()] for column in range(len(first))
        ]
        shows_numbers = not _DIGIT.search("".join(first)) and any(
            heading.strip() and len(cells) >= _FEWEST_VALUES and all(map(_DIGIT.search, cells))
            for heading, cells in zip(first, below, strict=True)
        )
        if (shows_numbers or _known_names(first, settling=False) > 1) and _looks_like_headings([first, *body], 0):
            yield block[0]


def _named_row(rows: Sequence[Cells], filled: Sequence[int]) -> int | None:
    """The row with most known names, if they are at least two, or all of a row with one column below it.

    In the first row any known name counts; further down only settling ones, since rows above would be lost as titles.
    """
    known = {index: _known_names(rows[index], settling=index != filled[0]) for index in filled[:_SEARCHED_ROWS]}
    best = max(known, key=lambda index: (known[index], -index))
    if known[best] >= 2:
        return best
    first = filled[0]
    alone = _width(rows[first]) == 1 and known[first] == 1
    return first if alone and all(_width(rows[index]) == 1 for index in filled[1:_SAMPLED_ROWS]) else None


def _known_names(row: Cells, *, settling: bool) -> int:
    cells = [cell for cell in row if cell.strip()]
    if any(len(without_remark(cell)) > _LONGEST_HEADING for cell in cells):
        return 0
    return sum(is_known_name(cell, settling=settling) for cell in cells)


def _ever_wider_rows(rows: Sequence[Cells], filled: Sequence[int]) -> list[int]:
    """The first row at least half as wide as most are, and wider ones below it up to one as wide as most are."""
    usual = Counter(_width(rows[index]) for index in filled[:_SAMPLED_ROWS]).most_common(1)[0][0]
    least = max(2, -(-usual // 2)) if usual > 1 else 1
    found: list[int] = []
    for index in filled[:_SEARCHED_ROWS]:
        width = _width(rows[index])
        if width >= least:
            found.append(index)
            least = width + 1
        if width >= usual:
            break
    return found or [filled[0]]


def _looks_like_headings(rows: Sequence[Cells], candidate: int) -> bool:
    headings = {column: cell.strip() for column, cell in enumerate(rows[candidate]) if cell.strip()}
    if len({heading.casefold() for heading in headings.values()}) < len(headings):
        return False
    body = rows[candidate + 1 : candidate + 1 + 10 * _SAMPLED_ROWS]
    if len(headings) > 1:  # the whole header may come again, for printing or between groups of rows
        body = [row for row in body if [*map(str.strip, row)] != [*map(str.strip, rows[candidate])]]
    below = {
        column: [row[column].strip() for row in body if column < len(row) and row[column].strip()]
        for column in headings
    }
    if any(heading.casefold() in {cell.casefold() for cell in below[column]} for column, heading in headings.items()):
        return False
    # "ok?" is a heading among several; among few columns it is more likely a question, unless yes or no stands below it
    asks = {
        heading
        for column, heading in headings.items()
        if heading.endswith("?")
        and (_is_answered(below[column]) or (len(headings) > 2 and re.fullmatch(r"\w+\?", heading)))
    }
    other = asks | _years(headings, below)
    is_short = all(could_be_heading(without_remark(heading)) for heading in headings.values() if heading not in other)
    if not is_short and not _stand_over_values(headings, below) and not _ask_of_things(headings, body):
        return False
    if len(headings) == 1:  # one column: only a heading over questions, or one much shorter than what stands below it
        ((column, heading),) = headings.items()
        asks_below = len(below[column]) >= _FEWEST_VALUES and all(cell.endswith("?") for cell in below[column])
        return bool(below[column]) and (asks_below or median(map(len, below[column])) > 2 * len(heading))
    return True


def _is_answered(below: Sequence[str]) -> bool:
    """Whether every cell under a heading is yes or no."""
    return len(below) >= _FEWEST_VALUES and all(cell.casefold() in _YES_OR_NO for cell in below)


def _years(headings: Mapping[int, str], below: Mapping[int, Sequence[str]]) -> set[str]:
    """Headings that are years, "Price | 2023 | 2024": two at least, evenly spaced, beside a word, over no years."""
    years = {column: int(heading) for column, heading in headings.items() if _YEAR.fullmatch(heading)}
    steps = {second - first for first, second in pairwise(years.values())}
    cells = [cell for column in years for cell in below[column]]
    is_data = 2 * sum(bool(_YEAR.fullmatch(cell)) for cell in cells) > len(cells)
    return set(map(str, years.values())) if len(steps) == 1 and len(years) < len(headings) and not is_data else set()


def _stand_over_values(headings: Mapping[int, str], below: Mapping[int, Sequence[str]]) -> bool:
    """Whether one of them is a word over nothing but numbers, dates or ids, and none is as long as an answer can be."""
    if any(len(heading) > _LONGEST_SENTENCE for heading in headings.values()):
        return False
    return any(
        len(below[column]) >= _FEWEST_VALUES
        and could_be_heading(heading)
        and not is_code(heading)
        and heading.casefold() not in _NOTHING
        and all(map(is_code, below[column]))
        for column, heading in headings.items()
    )


def _ask_of_things(headings: Mapping[int, str], body: Sequence[Cells]) -> bool:
    """Whether two of them at least ask, all but one over the first column, and nothing that stands below them does.

    Product       | What does it weigh? | Where is it made?
    Hand press A5 | 12 kg               | In Ulm
    """
    asking = [column for column, heading in headings.items() if heading.endswith(_QUESTION_MARKS)]
    if len(asking) < 2 or 0 in asking or headings.keys() - {0, *asking}:
        return False
    if any(len(heading) > _LONGEST_SENTENCE for heading in headings.values()):
        return False
    rows = [row for row in body if _width(row) > 0]
    names = [row[0].strip() for row in rows]
    is_asked_again = any(cell.strip().endswith(_QUESTION_MARKS) for row in rows for cell in row)
    return not is_asked_again and are_names(names)


def are_names(cells: Sequence[str]) -> bool:
    """Whether they could be the names of things, one each: short, all different, no numbers or dates."""
    are_short = all(could_be_heading(cell) and not is_code(cell) for cell in cells)
    return len(cells) >= _FEWEST_NAMES and are_short and len({cell.casefold() for cell in cells}) == len(cells)


def could_be_heading(cell: str) -> bool:
    """Short, on two lines at most, with a letter, and no sentence."""
    if len(cell) > _LONGEST_HEADING or cell.count("\n") > 1 or len(cell.split()) > _MOST_WORDS:
        return False
    if not any(char.isalpha() for char in cell):
        return False
    return not (cell.endswith(("?", "!")) or (cell.endswith(".") and " " in cell))


def column_names(headings: Cells, body: Sequence[Cells]) -> tuple[str | None, ...]:
    """Headings on one line; "column2" for a column without one, "Answer (2)" for a second of that name."""
    used = {column for row in body for column, cell in enumerate(row) if cell.strip()}
    width = max([len(headings), *(column + 1 for column in used)])
    names: list[str | None] = []
    for column in range(width):
        heading = plain_heading(headings[column]) if column < len(headings) else ""
        if not heading and column not in used:
            names.append(None)
            continue
        wanted = heading or f"column{column + 1}"
        name, copies = wanted, 1
        while name in names:
            copies += 1
            name = f"{wanted} ({copies})"
        names.append(name)
    return tuple(names)


def _width(row: Cells) -> int:
    return sum(bool(cell.strip()) for cell in row)
