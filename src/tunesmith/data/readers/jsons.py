"""json and jsonl -> Table. Damage is told with line and column.

Knows nothing of shapes; nestings are laid flat by `nested`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from tunesmith.data.readers.nested import is_list_of_cells, items_of, records_of
from tunesmith.data.readers.source import Source, decode
from tunesmith.data.table import Table, columns_of
from tunesmith.errors import DataError
from tunesmith.types import Finding

DAMAGED = "not valid JSON"
_MOST_DAMAGED = 0.1  # of the lines: with more of them the file is something else
_SPACE = " \t\n\r"  # what JSON takes for it
_AFTER = re.compile(r"[\s,]*")


def read_json(source: Source) -> Table:
    """One JSON document, or objects one after the other; rows are numbered by item from 1.

    Raises:
        DataError: no JSON, or no rows in it.
    """
    text, encoding, findings = decode(source)
    try:
        items = items_of(_whole(text))
    except DataError as error:
        raise DataError(f"{source.path}: {error.message}", cause=error.cause, fix=error.fix) from error
    rows = list(enumerate(items, start=1))
    return _table(source, "json", rows, encoding=encoding, findings=findings)


def read_jsonl(source: Source) -> Table:
    """One JSON object a line; rows are numbered by line, blank lines are passed over. A comma may end a line.

    A few damaged lines are left out and told: a file that was cut off while it was written has one.

    Raises:
        DataError: more than a few lines are not JSON.
    """
    text, encoding, findings = decode(source)
    rows: list[tuple[int, object]] = []
    damaged: dict[int, DataError] = {}
    for number, line in enumerate(text.split("\n"), start=1):  # never splitlines: JSON text may hold U+2028 as it is
        if not line.strip():
            continue
        try:
            rows.append((number, _parse(line.rstrip().removesuffix(","), line_number=number)))
        except DataError as error:
            damaged[number] = error
    if damaged:
        first, problem = next(iter(damaged.items()))
        if len(damaged) > _MOST_DAMAGED * (len(rows) + len(damaged)):
            with suppress(DataError):  # objects that are written over several lines each
                return read_json(source)
            others = f"; {len(damaged) - 1} more lines are damaged" if len(damaged) > 1 else ""
            raise DataError(f"{source.path}:{first}: {problem.message}{others}", cause=problem.cause, fix=problem.fix)
        message = f"{len(damaged)} of {len(rows) + len(damaged)} lines are {problem.message} and were left out"
        fix = f"repair or remove them; the first: {problem.cause}"
        findings = (*findings, Finding("warning", "damaged_lines", message, fix, tuple(damaged)))
    return _table(source, "jsonl", rows, encoding=encoding, findings=findings, unreadable=tuple(damaged))


def holds_lines(content: bytes) -> bool:
    """Whether this is an object a line rather than one document, whatever the file is called."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    if len(lines) < 2:
        return False
    try:
        return all(isinstance(json.loads(line), dict) for line in lines[:2])
    except ValueError:  # not JSON, or not UTF-8
        return False


def holds_array(content: bytes) -> bool:
    """Whether this is an array over several lines rather than an object a line."""
    return content.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"[")


def _whole(text: str) -> object:
    """The document, or the list of several objects or lists one after the other, with a comma between or without."""
    decoder = json.JSONDecoder()
    found: list[object] = []
    begin = len(text) - len(text.lstrip())
    end, start = 0, begin
    while start < len(text):
        try:
            document, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return _parse(text)  # tells what is wrong
        found.append(document)
        start = _AFTER.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing as well
    if len(found) > 1 and (all(isinstance(one, dict) for one in found) or all(map(is_list_of_cells, found))):
        return found
    around = text[:begin] + text[end:]
    return found[0] if len(found) == 1 and not around.strip(_SPACE) else _parse(text)


def _parse(text: str, *, line_number: int | None = None) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        near = " ".join(text[max(0, error.pos - 20) : error.pos + 20].split())
        fix = "repair or remove that line" if line_number else "repair it there; one object a line belongs in .jsonl"
        if re.match(r"\s*\[?\s*\{\s*'", text):
            fix = "names and texts need double quotes: write it with json.dump instead of str()"
        raise DataError(
            "not valid JSON",
            cause=f"{what} at line {line_number or error.lineno}, column {error.colno}, near: {near}",
            fix=fix,
        ) from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of over 4300 digits
        raise DataError("JSON that cannot be read", cause=str(error), fix="make it simpler") from error


def _table(
    source: Source,
    format_name: str,
    rows: Iterable[tuple[int, object]],
    *,
    encoding: str,
    findings: tuple[Finding, ...],
    unreadable: tuple[int, ...] = (),
) -> Table:
    records, notes = records_of(str(source.path), _objects(source, rows))
    if not records:
        raise DataError(
            f"{source.path} holds no rows", cause="the list is empty", fix="name a file with examples in it"
        )
    return Table(
        path=str(source.path),
        format=format_name,
        records=records,
        columns=columns_of(records),
        encoding=encoding,
        unreadable={DAMAGED: unreadable} if unreadable else {},
        findings=(*findings, *notes),
        sha256=source.sha256,
    )


def _objects(source: Source, rows: Iterable[tuple[int, object]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Raises DataError: a row is neither an object nor a text."""
    for number, item in rows:
        row = {"text": item} if isinstance(item, str) else item
        if not isinstance(row, Mapping):
            raise DataError(
                f"{source.path}: row {number} is no object: {json.dumps(item)[:40]}",
                fix='write every row as an object such as {"question": .., "answer": ..}',
            )
        yield number, row
