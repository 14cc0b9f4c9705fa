"""csv and tsv -> Table: delimiter, quoting and header are found from the content. Cells stay text, exactly.

Knows nothing of shapes.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tunesmith.data.names import is_known_name
from tunesmith.data.readers.anki import is_anki, with_header
from tunesmith.data.readers.header import Header, find_header
from tunesmith.data.readers.source import Source, decode
from tunesmith.data.table import Table, counted
from tunesmith.types import Finding, Record

_DELIMITERS = (",", ";", "\t", "|")
_NO_DELIMITER = "\x1f"  # unit separator: stands in for a delimiter where the file has one column
_SAMPLE_CHARACTERS = 65536
_LEAST_CONSISTENCY = 0.6  # share of rows with the usual number of cells below which a character delimits nothing
_OF_PROSE = 0.2  # less for one that stands as in a sentence: of two that cut all rows alike, "Where?;Here, above."

# the first line of a file that Excel is to open, whatever the country: "sep=;"
_TOLD_DELIMITER = re.compile(r"\s*\"?sep=(?P<delimiter>[^\r\n])\"?[^\w\r\n]*(\r\n|\r|\n)", re.IGNORECASE)

TOO_MANY_CELLS = "too many cells"


@dataclass(frozen=True, slots=True)
class _Line:
    """One row: the line of the file that it starts on, counted from 1, and its cells."""

    number: int
    cells: list[str]


def read_csv(source: Source) -> Table:
    """Comma-separated text, or whatever the delimiter turns out to be."""
    return _read(source, "csv", preferred=",")


def read_tsv(source: Source) -> Table:
    """Tab-separated text."""
    return _read(source, "tsv", preferred="\t")


def _read(source: Source, format_name: str, *, preferred: str) -> Table:
    text, encoding, findings = decode(source)
    text, told = with_header(text) if is_anki(text) else _without_told(text)
    delimiter = source.delimiter or told or _sniff_delimiter(text, preferred)
    lines, quoting_findings = _parse(text, delimiter)
    while lines and not any(cell.strip() for cell in lines[-1].cells):
        lines.pop()
    header = find_header([line.cells for line in lines])
    heading = lines[header.index].cells if header.index is not None else []
    body, joined_findings = _join_prose(heading, lines[header.start :], delimiter)
    names = header.names[: _width(heading, body)]
    records, uneven_findings, too_long = _records(body, names)
    return Table(
        path=str(source.path),
        format=format_name,
        records=tuple(records),
        columns=tuple(name for name in names if name is not None),
        encoding=encoding,
        delimiter=None if delimiter == _NO_DELIMITER else delimiter,
        unreadable={TOO_MANY_CELLS: too_long} if too_long else {},
        findings=(
            *findings,
            *quoting_findings,
            *header_findings(header, [line.number for line in lines]),
            *joined_findings,
            *_unnamed_findings(heading, body, names),
            *uneven_findings,
        ),
        sha256=source.sha256,
    )


def _without_told(text: str) -> tuple[str, str | None]:
    """Without a first line that says the delimiter, which is None where none does."""
    told = _TOLD_DELIMITER.match(text)
    return (text, None) if told is None else ("\n" + text[told.end() :], told["delimiter"])  # rows keep their numbers


def names_columns(source: Source) -> bool:
    """Whether the first line of a text is names of columns alone, parted by what parts the next line too.

    So Excel's "Unicode Text" is a table, though it is called .txt; and so are the cards that Anki exports.

    Raises:
        DataError: it is no text.
    """
    text, _, _ = decode(source)
    if is_anki(text):
        return True
    lines = [line for line in text[:_SAMPLE_CHARACTERS].splitlines() if line.strip()][:2]
    for delimiter in _DELIMITERS:
        names, *rest = (line.split(delimiter) for line in lines)
        names = [name.strip(' "') for name in names]
        if len(names) > 1 and all(map(is_known_name, names)) and all(len(cells) >= len(names) for cells in rest):
            return bool(rest)
    return False


def header_findings(header: Header, numbers: Sequence[int], sheet: str | None = None) -> Iterator[Finding]:
    """What the search for the header passed over or found besides. `numbers`: row numbers of what was searched."""
    where = f'sheet "{sheet}": ' if sheet else ""
    if header.titles:
        rows = tuple(numbers[index] for index in header.titles)
        below = "header" if header.index is not None else "table"
        yield Finding("note", "title_rows", f"{where}text above the {below} was passed over", rows=rows)
    if header.examples:
        yield Finding(
            "warning",
            "rows_above",
            f"{where}{len(header.examples)} of the rows above the header look like examples and were passed over",
            fix="if they are, give them the same headings, in a sheet or file of their own or without a second header",
            rows=tuple(numbers[index] for index in header.examples),
        )
    if header.index is None and header.names:
        named = ", ".join(name for name in header.names if name)
        yield Finding(
            "note",
            "no_header",
            f"{where}the first row is data, not a header; columns are named {named}",
            fix="if it is a header, give it names such as Question and Answer",
        )
    if header.below:
        more = f" (and {len(header.below) - 1} more)" if len(header.below) > 1 else ""
        yield Finding(
            "warning",
            "tables_below",
            f"{where}row {numbers[header.below[0]]}{more} looks like the header of another table; it and the rows "
            "below are read like those of the first",
            fix="give each table a sheet or file of its own",
            rows=tuple(numbers[index] for index in header.below),
        )


def _sniff_delimiter(text: str, preferred: str) -> str:
    """The candidate that cuts most rows into the same number of cells, two at least. None of them: one column."""
    sample = text[:_SAMPLE_CHARACTERS]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1] or sample
    scores = {delimiter: _delimiter_score(sample, delimiter) for delimiter in _DELIMITERS}
    scores[preferred] += 0.05 if scores[preferred] else 0
    best = max(_DELIMITERS, key=lambda delimiter: scores[delimiter] - _OF_PROSE * _spaced(sample, delimiter))
    return best if scores[best] >= _LEAST_CONSISTENCY else _NO_DELIMITER


def _delimiter_score(sample: str, delimiter: str) -> float:
    """Share of rows with the usual number of cells, +0.5 if the first has it too, +1 if it holds two known names."""
    rows = [row for row in _lenient_rows(sample, delimiter) if row]
    if not rows:
        return 0.0
    usual, count = Counter(map(len, rows)).most_common(1)[0]
    known = sum(map(is_known_name, rows[0])) >= 2
    if usual < 2 and not known:
        return 0.0
    return count / len(rows) + 0.5 * (len(rows[0]) == usual) + known


def _spaced(sample: str, delimiter: str) -> float:
    """Share of the delimiters with a space behind them, as in a sentence."""
    return sample.count(f"{delimiter} ") / max(1, sample.count(delimiter))


def _lenient_rows(text: str, delimiter: str) -> list[list[str]]:
    with _any_cell_length():
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def _parse(text: str, delimiter: str) -> tuple[list[_Line], tuple[Finding, ...]]:
    """Rows under CSV quoting if the quotes are in order, else under whichever reading gives more whole rows.

    A stray quote at the start of a cell makes CSV swallow all rows up to the next quote without a word. Quotes behind a
    space, and those that backslashes escape, are quotes too where that gives more rows the width of the first.
    """
    strict = _strict_lines(text, delimiter)
    escaped = _strict_lines(text.replace('\\"', '""'), delimiter) if strict is None and '\\"' in text else None
    if escaped is not None:
        finding = Finding("note", "quotes", "backslashes in front of quotes inside cells were left out")
        return escaped, (finding,)
    quoted = strict if strict is not None else list(_lines(text, delimiter))
    if f'{delimiter} "' in text:
        spaced = list(_lines(text, delimiter, spaces=True))
        if _like_first(spaced) > _like_first(quoted):
            return spaced, ()
    if strict is not None:
        return strict, ()
    plain = list(_lines(text, delimiter, quotes=False))
    if _whole_rows(plain, quoted) <= _whole_rows(quoted, quoted):
        finding = Finding(
            "warning", "quotes", "some cells have text after a closing quote", fix="double quotes inside cells"
        )
        return quoted, (finding,)
    finding = Finding(
        "note",
        "quotes",
        f"quotes do not pair up, so they were read as plain characters: {len(plain)} rows instead of {len(quoted)}",
        fix="if cells hold line breaks, put them in quotes and double every quote inside",
    )
    return plain, (finding,)


def _strict_lines(text: str, delimiter: str) -> list[_Line] | None:
    """None where the quotes are not in order."""
    try:
        return list(_lines(text, delimiter, strict=True))
    except csv.Error:
        return None


def _like_first(lines: Sequence[_Line]) -> int:
    """Rows as wide as the first."""
    return sum(len(line.cells) == len(lines[0].cells) for line in lines)


def _whole_rows(lines: Sequence[_Line], quoted: Sequence[_Line]) -> int:
    """Rows as wide as quoting makes most of them, less the others: read plainly, commas in quotes make cells too."""
    usual = Counter(len(line.cells) for line in quoted if line.cells).most_common(1)
    whole = sum(len(line.cells) == usual[0][0] for line in lines) if usual else 0
    return 2 * whole - sum(bool(line.cells) for line in lines)


def _lines(
    text: str, delimiter: str, *, strict: bool = False, quotes: bool = True, spaces: bool = False
) -> Iterator[_Line]:
    """
    Args:
        spaces: whether a cell may begin with spaces that do not belong to it.
    """
    source = io.StringIO(text, newline="")
    with _any_cell_length():
        if quotes:
            reader = csv.reader(source, delimiter=delimiter, strict=strict, skipinitialspace=spaces)
        else:
            reader = csv.reader(source, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        start = 1
        for cells in reader:
            yield _Line(start, cells)
            start = reader.line_num + 1


@contextmanager
def _any_cell_length() -> Iterator[None]:
    """The csv module refuses cells over 131,072 characters unless told otherwise, for the whole process."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _records(
    lines: Sequence[_Line], names: Sequence[str | None]
) -> tuple[list[Record], tuple[Finding, ...], tuple[int, ...]]:
    """One record a row, blank ones between others included. Rows with more cells than columns are left out and told."""
    width = len(names)
    records: list[Record] = []
    short: list[int] = []
    long: list[int] = []
    for line in lines:
        if any(cell.strip() for cell in line.cells[width:]):
            long.append(line.number)
            continue
        if line.cells and len(line.cells) < width:
            short.append(line.number)
        cells = line.cells[:width] + [""] * (width - len(line.cells))
        records.append(
            Record(line.number, {name: cell for name, cell in zip(names, cells, strict=True) if name is not None})
        )
    return records, tuple(_uneven_findings(width, short, long)), tuple(long)


def _join_prose(
    heading: Sequence[str], lines: Sequence[_Line], delimiter: str
) -> tuple[list[_Line], tuple[Finding, ...]]:
    """Rows with more cells than headings: a delimiter with a space after it is one of a sentence, "Click, then wait".

    Done where that gives the row its right number of cells. Where the headings have spaces too, it says nothing.
    """
    if not heading or any(cell.startswith(" ") for cell in heading):
        return list(lines), ()
    rows: list[_Line] = []
    joined: list[int] = []
    for line in lines:
        cells: list[str] = []
        if len(line.cells) > len(heading):
            for cell in line.cells:
                if cells and cell.startswith(" "):
                    cells[-1] += delimiter + cell
                else:
                    cells.append(cell)
        is_whole = len(cells) == len(heading)
        rows.append(_Line(line.number, cells) if is_whole else line)
        joined += [line.number] if is_whole else []
    if not joined:
        return rows, ()
    message = (
        f'{counted(len(joined), "row")} with "{delimiter} " in texts without quotes; it was read as part of the text'
    )
    return rows, (Finding("warning", "unquoted", message, "put such texts in double quotes", tuple(joined)),)


def _width(header_cells: Sequence[str], body: Sequence[_Line]) -> int:
    """Columns of the table: the header's cells, or the usual number of cells where that is more."""
    widths = Counter(len(line.cells) for line in body if line.cells)
    return max([len(header_cells), *(width for width, _ in widths.most_common(1))])


def _unnamed_findings(heading: Sequence[str], body: Sequence[_Line], names: Sequence[str | None]) -> Iterator[Finding]:
    """Whether most rows go on beyond the headings: texts that were cut at a delimiter, or numbers of rows in front."""
    last = max((column for column, cell in enumerate(heading) if cell.strip()), default=len(names))
    longer = [line.number for line in body if any(cell.strip() for cell in line.cells[last + 1 : len(names)])]
    if longer and 2 * len(longer) > len(body):
        beyond = ", ".join(f'"{name}"' for name in names[last + 1 :] if name is not None)
        yield Finding(
            "warning",
            "unnamed_columns",
            f"{counted(len(longer), 'row')} with cells beyond the last heading, in {beyond}",
            fix="if a text was cut there, put such texts in double quotes or set data.delimiter; else name the columns",
            rows=tuple(longer),
        )


def _uneven_findings(width: int, short: Sequence[int], long: Sequence[int]) -> Iterator[Finding]:
    if short:
        yield Finding(
            "warning",
            "short_rows",
            f"{counted(len(short), 'row')} with fewer than {width} cells; the missing ones count as empty",
            fix="check those lines",
            rows=tuple(short),
        )
    if long:
        yield Finding(
            "warning",
            "long_rows",
            f"{counted(len(long), 'row')} with more than {width} cells, left out",
            fix="put cells that contain the delimiter in double quotes, or set data.delimiter",
            rows=tuple(long),
        )
