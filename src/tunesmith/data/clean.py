"""Tidy text, tell why a row cannot be trained on, recognise repetitions. Knows nothing of files or columns."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable

from tunesmith.data.names import INVISIBLE
from tunesmith.types import Example

_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_INNER_SPACES = re.compile(r"(?<=\S)[ \t]{2,}")
_NO_BREAK_SPACE, _BYTE_ORDER_MARK = "\u00a0", "\ufeff"  # they come with pasting, nobody types them
# A letter and its accents apart, as macOS writes names (NFD): Latin, Greek, Cyrillic, kana; and Hangul in its parts.
# Nothing else is composed: NFC as a whole would also replace rare Chinese characters by others.
_DECOMPOSED = re.compile("\\S[\u0300-\u036f\u3099\u309a]+|[\u1100-\u11ff]+")


def normalise_newlines(text: str) -> str:
    """Windows and old Mac line ends as newlines; nothing else is touched."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tidy(text: str) -> str:
    """Text without stray white space: ends stripped, runs of spaces inside a line one space, at most one blank line.

    Indentation stays, and so do all spaces inside ``` fences. Accented letters are one character (NFC), as people type
    them, and nothing that nobody sees stands at the ends.

    >>> tidy("  How  do I\\r\\n\\r\\n\\r\\nprint?  ")
    'How do I\\n\\nprint?'
    """
    text = normalise_newlines(text).replace(_NO_BREAK_SPACE, " ").replace(_BYTE_ORDER_MARK, "")
    text = _without_invisible_ends(text)
    if not text.isascii():
        text = _DECOMPOSED.sub(lambda match: unicodedata.normalize("NFC", match[0]), text)
    if "\n" not in text:
        return _INNER_SPACES.sub(" ", text.strip())
    lines: list[str] = []
    fence: str | None = None
    for line in textwrap.dedent(text).strip().split("\n"):
        mark = _FENCE.match(line)
        if fence is not None:
            lines.append(line)
            fence = None if mark and mark[1] == fence else fence
            continue
        fence = mark[1] if mark else None
        single_spaced = _INNER_SPACES.sub(" ", line).rstrip()
        if single_spaced or (lines and lines[-1]):
            lines.append(single_spaced)
    return "\n".join(lines).strip()


def _without_invisible_ends(text: str) -> str:
    """As it is where its ends can be seen: white space in front may be the indentation of a first line."""
    bare = text.strip()
    while bare and (bare[0] in INVISIBLE or bare[-1] in INVISIBLE):
        text = bare = bare.strip(INVISIBLE).strip()
    return text


def is_blank(cells: Iterable[object]) -> bool:
    """Whether nothing is written in any of these cells."""
    return not any(cell.strip() if isinstance(cell, str) else cell for cell in cells)


def normalise_question(text: str) -> str:
    """What two ways of typing the same question have in common: no case, no punctuation, single spaces.

    >>> normalise_question("What's a  PRESS?!") == normalise_question("what s a press")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_SEPARATORS)
    return " ".join(plain.split()) or text


def question_key(example: Example) -> str:
    """Which examples ask the same: all user turns with contexts; of plain text and lone answers the text itself."""
    turns = [message for message in example.messages if message.role == "user"]
    asked = [part for turn in turns for part in (turn.content, turn.context)]
    if not any(asked):
        asked = [example.text, *(message.content for message in example.messages)]
    return normalise_question("\n".join(part for part in asked if part))


class _Separators(dict[int, str]):
    """Punctuation, separators and control characters -> space, found out once for each character that occurs."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = " " if unicodedata.category(char)[0] in "PZC" else char
        return self[code]


_SEPARATORS = _Separators()
