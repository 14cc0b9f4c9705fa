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
# "[01.02.24, 09:00:10] Anna: Hi" and "2/1/24, 9:00 AM - Anna: Hi", as messengers export chats
_SAID = re.compile(
    r"\W*\d{1,4}[./-]\d{1,2}[./-]\d{1,4},? +\d{1,2}:\d\d(:\d\d)?(\s?[ap]\.?m\.?)?\]?( -)? +[^:]{1,40}: .*",
    re.IGNORECASE,
)
_MOST_SAID = 0.3  # of the lines, from which on a text is such a chat: messages have several, and there are notices
_LONGEST_SHOWN = 60  # characters of a line
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
    """Whether this looks like a table written as text, holds one of Markdown, or is a chat of many messages."""
    ruled = next((line for line, below in pairwise(lines) if "|" in line and _RULE.fullmatch(below.strip())), None)
    if ruled is not None:
        yield Finding(
            "warning",
            "markdown_table",
            f"there is a table with the headings {ruled.strip()}, which is read as text like the rest",
            fix="to train on its rows copy it into a spreadsheet",
        )
    said = [line for line in lines if _SAID.fullmatch(line)]
    if len(said) >= max(2, _MOST_SAID * len(lines)):
        yield Finding(
            "warning",
            "exported_chat",
            f"{len(said)} of {len(lines)} lines begin with a time and a name, as in the export of a chat, such as "
            f'"{said[0][:_LONGEST_SHOWN]}"; they are learnt as they are',
            fix="to learn answers, write the messages to a table with columns Conversation, Sender (Customer, Agent) "
            "and Message",
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
