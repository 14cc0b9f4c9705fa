"""txt -> Table with one column, "text": paragraphs if blank lines part them, else lines.

Text is kept as it is, but for line ends, which become newlines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from tunesmith.data.readers.source import Source, decode
from tunesmith.data.table import Table
from tunesmith.types import Finding, Record

_RULE = re.compile(r"\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?\s*)?")  # below the headings of a table in Markdown
_LONGEST_WRAPPED_LINE = 200  # characters; files with longer lines hold one document a line, not wrapped prose


def read_txt(source: Source) -> Table:
    """Paragraphs of one document, or one document a line when there is no blank line and lines are long."""
    text, encoding, findings = decode(source)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    has_paragraphs = len(filled) <= filled[-1][0] - filled[0][0]  # a blank line lies between the first and the last
    pieces = _paragraphs(lines) if has_paragraphs else iter(filled)
    return Table(
        path=str(source.path),
        format="txt",
        records=tuple(Record(number, {"text": piece}) for number, piece in pieces),
        columns=("text",),
        encoding=encoding,
        findings=(*findings, *_table_findings([line for _, line in filled])),
        continuous=has_paragraphs or median(len(line) for _, line in filled) <= _LONGEST_WRAPPED_LINE,
        sha256=source.sha256,
    )


def _table_findings(lines: list[str]) -> Iterator[Finding]:
    """Whether this looks like a table that a spreadsheet program wrote as text, or holds one of Markdown."""
    ruled = next((line for line, below in pairwise(lines) if "|" in line and _RULE.fullmatch(below.strip())), None)
    if ruled is not None:
        yield Finding(
            "warning",
            "markdown_table",
            f"there is a table with the headings {ruled.strip()}, which is read as text like the rest",
            fix="to train on its rows copy it into a spreadsheet",
        )
    tabs = {line.count("\t") for line in lines}
    if len(lines) > 1 and len(tabs) == 1 and tabs != {0}:
        yield Finding(
            "warning", "tabs", "every line has tabs, as a table has", fix="to read it as one: --data.format tsv"
        )


def _paragraphs(lines: list[str]) -> Iterator[tuple[int, str]]:
    start, paragraph = 0, list[str]()
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            start = start or number
            paragraph.append(line)
        elif paragraph:
            yield start, "\n".join(paragraph)
            start, paragraph = 0, []
