"""Cards as Anki exports them, in text: lines such as "#separator:tab" above rows without a header -> rows with one.

    #separator:tab              question|answer|tags
    #tags column:3          ->  Where?|Here.|easy
    Where?|Here.|easy

Knows nothing of cells; what "#html:true" says is not needed, marks are told wherever they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping

_FIRST = re.compile(r"#separator:", re.IGNORECASE)
_LINE = re.compile(r"#(?P<key>[a-z ]+):(?P<value>[^\r\n]*)(\r\n|\r|\n|\Z)", re.IGNORECASE)
_SAMPLE_CHARACTERS = 65536
_COLUMN = " column"  # "#deck column:2"
# https://docs.ankiweb.net/importing/text-files.html, "File Headers"
_SEPARATORS: Mapping[str, str] = {
    "tab": "\t",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
    "space": " ",
    "colon": ":",
}


def is_anki(text: str) -> bool:
    """Whether a text begins as such a file does."""
    return _FIRST.match(text) is not None


def with_header(text: str) -> tuple[str, str]:
    """The text with names of columns in place of the last of its first lines, so that rows keep their numbers, and what
    parts its cells.

    The first field of a note that has no column of its own is the question, the second the answer.
    """
    said: dict[str, str] = {}
    end = lines = 0
    while (match := _LINE.match(text, end)) is not None:
        said[match["key"].lower()] = match["value"].strip()
        end, lines = match.end(), lines + 1
    separator = _SEPARATORS.get(said["separator"].lower(), said["separator"][:1] or "\t")
    sample = io.StringIO(text[end : end + _SAMPLE_CHARACTERS], newline="")  # a card may have several lines
    width = len(next(csv.reader(sample, delimiter=separator), []))
    own = {value: key.removesuffix(_COLUMN) for key, value in said.items() if key.endswith(_COLUMN)}
    fields = iter(["question", "answer", *(f"field{number}" for number in range(3, width + 1))])
    names = [own.get(str(number)) or next(fields) for number in range(1, width + 1)]
    return "\n" * (lines - 1) + separator.join(names) + "\n" + text[end:], separator
