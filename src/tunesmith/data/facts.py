"""What the cells of a column look like: the evidence by which columns are told apart when their names say nothing.

Knows nothing of shapes.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, median
from typing import Literal

from tunesmith.data.clean import is_blank
from tunesmith.data.names import has_other_word
from tunesmith.data.table import cell_text
from tunesmith.types import Record

Kind = Literal["text", "messages", "conversations", "turn", "nested", "empty"]

_SAMPLED_ROWS = 20_000
_SAMPLED_KINDS = 50
_MOST_ALIKE = 0.8  # of the cells, from which on a column holds conversations and the others are malformed
_NUMBER = re.compile(r"[+-]?[\d\s.,]*\d ?%?")
_CODE = re.compile(r"(?=\S*\d)[\w./:-]{6,}")  # ids, dates, times: no space, a digit
_LINK = re.compile(r"(https?|ftp)://\S+|www\.\S+")
_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.\w+")  # of mail
# "2024-03-01 10:00:00", "3/1/24 9:05 AM GMT+1", "5. Jan 2024": digits, signs between them, and the words of a calendar
_CALENDAR = (
    r"\b([ap]\.?m\.?|utc|gmt|[mc]es?t|uhr|h|(mon|tue|tues|wed|wednes|thu|thurs|fri|sat|satur|sun)(day)?|jan(uary)?"
    r"|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?)\b"
)
_MOMENT = re.compile(rf"(?=.*\d)(\d|[\s.,:/+-]|(?<=\d)[tz]|{_CALENDAR})+", re.IGNORECASE)
_FEWEST_ALIKE = 5  # rows of one value, from which on it is no chance
_LONGEST_CODE = 40  # characters of a moment
_LONGEST_CLASS = 40  # characters
_LONGEST_CLASS_WORDS = 4


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """Evidence about one column. Shares are of the cells that are not empty; lengths are in characters."""

    name: str
    kind: Kind
    filled: int
    distinct: int
    median_length: float
    mean_words: float
    question_share: float
    code_share: float
    bracket_share: float
    has_line_breaks: bool

    @property
    def is_code(self) -> bool:
        """Numbers, ids, links, dates: nothing to read."""
        return self.code_share > 0.9

    @property
    def is_class(self) -> bool:
        """Few short values that come again and again: five rows for each, at the least, where rows are many."""
        few = 2 <= self.distinct <= max(2, min(200, self.filled / 5))
        short = self.median_length <= _LONGEST_CLASS and self.mean_words <= _LONGEST_CLASS_WORDS
        return self.kind == "text" and few and short and not self.has_line_breaks and self.distinct < self.filled

    @property
    def is_constant(self) -> bool:
        """The same in every row, as what an export adds: "Support pipeline", "message"."""
        return self.distinct == 1 and self.filled >= _FEWEST_ALIKE

    @property
    def is_prose(self) -> bool:
        """Text that a row could be about, as far as its cells and its name tell."""
        tells = not (self.is_code or self.is_class or self.is_constant)
        return self.kind == "text" and tells and not has_other_word(self.name)


def column_facts(records: Sequence[Record], columns: Iterable[str]) -> dict[str, ColumnFacts]:
    """Facts of every column, from at most 20,000 rows spread evenly over the table."""
    step = -(-len(records) // _SAMPLED_ROWS) or 1
    sample = records[::step]
    return {name: _facts(name, [record.cells.get(name, "") for record in sample]) for name in columns}


def as_turns(cell: object) -> list[object] | None:
    """A conversation as a list of turns, also when a table holds it as text, of JSON or as Python shows it.

    None if it is none.

    >>> as_turns('[{"role": "user", "content": "Hi"}]')
    [{'role': 'user', 'content': 'Hi'}]
    """
    if isinstance(cell, str) and cell.lstrip().startswith("[{"):
        text = cell
        try:
            cell = json.loads(text)
        except (ValueError, RecursionError):
            cell = _literal(text)
    return cell if isinstance(cell, list) else None


def _literal(text: str) -> object:
    """What str() wrote, as data frames do with lists; None if it is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _facts(name: str, cells: Sequence[object]) -> ColumnFacts:
    filled = [cell for cell in cells if not is_blank([cell])]
    kind = _kind(filled)
    texts = [cell_text(cell).strip() for cell in filled] if kind == "text" else []

    def share(matches: Iterable[object]) -> float:
        return sum(map(bool, matches)) / len(texts) if texts else 0.0

    return ColumnFacts(
        name=name,
        kind=kind,
        filled=len(filled),
        distinct=len(set(texts)),
        median_length=median(map(len, texts)) if texts else 0.0,
        mean_words=fmean(len(text.split()) for text in texts) if texts else 0.0,
        question_share=share(text.endswith(("?", "？", "؟")) for text in texts),
        code_share=share(map(is_code, texts)),
        bracket_share=share("[" in text and "]" in text for text in texts),
        has_line_breaks=any("\n" in text for text in texts),
    )


def is_code(text: str) -> bool:
    """Whether a cell is a number, a moment, an id, an address: nothing to read.

    >>> [is_code(text) for text in ("12,5 %", "3/1/24 9:05 AM", "AB-1234", "a.b@c.de", "May I?", "on 3 May")]
    [True, True, True, True, False, False]
    """
    if len(text) <= _LONGEST_CODE and _MOMENT.fullmatch(text):
        return True
    return any(pattern.fullmatch(text) for pattern in (_NUMBER, _CODE, _LINK, _ADDRESS))


def _kind(filled: Sequence[object]) -> Kind:
    if not filled:
        return "empty"
    kinds = Counter(cell_kind(cell) for cell in islice(filled, _SAMPLED_KINDS))
    kind, count = kinds.most_common(1)[0]
    is_chat = kind in ("messages", "conversations") and count >= _MOST_ALIKE * kinds.total()
    return kind if len(kinds) == 1 or is_chat else "nested"


def cell_kind(cell: object) -> Kind:
    """What one cell holds, if it is not blank."""
    if isinstance(cell, dict):
        return "turn" if _turn_kind(cell) or "parts" in cell else "nested"
    turns = as_turns(cell)
    if turns is None:
        return "text"
    return (_turn_kind(turns[0]) if turns else None) or "nested"


def _turn_kind(turn: object) -> Literal["messages", "conversations"] | None:
    if not isinstance(turn, Mapping):
        return None
    if "role" in turn and ("content" in turn or "parts" in turn):
        return "messages"
    return "conversations" if "from" in turn and "value" in turn else None
