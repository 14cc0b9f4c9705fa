"""Whether bytes that are not UTF-8 make sense as cp1252 (Western Windows), and how they would read in other encodings.

Any bytes are some text in an 8-bit encoding, so a wrong guess is silent: Russian becomes "Âîïðîñ". Judged by what
Western languages never write: many accented letters in a row, and signs inside words. Nothing is chosen here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_SAMPLE_CHARACTERS = 200_000
_MOST_ODD = 0.05  # of the characters beyond ASCII
_LONGEST_SAMPLE = 40  # characters
# The encodings of spreadsheets from other parts of the world, the strict ones first: those refuse what is not theirs.
_OTHERS = ("shift_jis", "euc_kr", "gb18030", "big5", "cp1251", "cp1250", "cp1253", "cp1255", "cp1256", "mac_roman")
_ACCENTED_RUN = re.compile(r"[^\W\d_a-zA-Z]{4,}")
_WORD = re.compile(r"""[^\s,;|"]*[^\x00-\x7f\s][^\s,;|"]*""")
_INSIDE_WORDS = frozenset("’‘'´`·-–­—…")  # signs that do stand between letters


def odd_word(text: str) -> str | None:
    """A word that shows that a text was not written in cp1252, if too much of it was not."""
    text = text[:_SAMPLE_CHARACTERS]
    beyond = sum(not char.isascii() for char in text)
    runs = [match[0] for match in _ACCENTED_RUN.finditer(text)]
    signs = list(_signs_inside_words(text))
    if sum(map(len, runs)) + len(signs) <= _MOST_ODD * beyond:
        return None
    at = text.index(runs[0]) if runs else signs[0]
    return next(match[0] for match in _WORD.finditer(text) if match.end() > at)[:_LONGEST_SAMPLE]


def sample_words(text: str, count: int = 3) -> list[str]:
    """The first different words with characters beyond ASCII: what a person sees at once to be right or wrong."""
    found: dict[str, None] = {}
    for match in _WORD.finditer(text):
        word = match[0].strip("'.:!?()")
        if len(word) <= _LONGEST_SAMPLE:
            found.setdefault(word)
        if len(found) == count:
            break
    return list(found)


def other_readings(content: bytes) -> list[tuple[str, str]]:
    """(encoding, how the first words beyond ASCII read in it) of every encoding in which they are all letters."""
    readings: list[tuple[str, str]] = []
    for encoding in _OTHERS:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        words = " ".join(sample_words(text))[:_LONGEST_SAMPLE]
        if words and all(char.isascii() or unicodedata.category(char)[0] in "LMP" for char in words):
            readings.append((encoding, words))
    return readings


def _signs_inside_words(text: str) -> Iterator[int]:
    """Places of characters beyond ASCII that are no letters and stand between two letters: "has³o"."""
    for index in range(1, len(text) - 1):
        char = text[index]
        if char.isascii() or char in _INSIDE_WORDS or unicodedata.category(char)[0] in "LZ":
            continue
        if text[index - 1].isalpha() and text[index + 1].isalpha():
            yield index
