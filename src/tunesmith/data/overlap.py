"""Which rows are in two sets of rows at once: the same, or nearly so. Knows nothing of files and of models.

Two rows are the same when they ask the same (`question_key`: letter case, punctuation and spacing do not count), or
when all their text is the same. They are nearly the same when the sets of 5-character shingles of their texts, question
and answer together, have a Jaccard similarity of at least 0.8:

shingles    of 5 characters, as Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.2.2 take for short texts;
            the 13-grams of words of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C) are longer than most of
            the rows here
threshold   0.8, as Lee et al. 2021 (arXiv:2107.06499), section 4.2, for near duplicates in training data
exactness   similarities are counted over an inverted index of all shingles, not estimated by MinHash
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.clean import normalise_question, question_key
from tunesmith.types import Example

SHINGLE = 5  # characters
THRESHOLD = 0.8
_Kind = Literal["same question", "same text", "near"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A row of the first set, its nearest row of the second, both by index; `similarity` of their texts, 0 to 1."""

    first: int
    second: int
    kind: _Kind
    similarity: float


def overlaps(first: Sequence[Example], second: Sequence[Example], *, threshold: float = THRESHOLD) -> list[Overlap]:
    """The rows of `first` that are also in `second`, in order, each with the nearest one (of equals, the first).

    Args:
        threshold: of the Jaccard similarity of near rows, above 0.
    """
    if not second:
        return []
    asked: dict[str, int] = {}
    written: dict[str, int] = {}
    texts = [_text(example) for example in second]
    for index, example in enumerate(second):
        asked.setdefault(question_key(example), index)
        written.setdefault(texts[index], index)
    shingles = _Index(texts)
    found = []
    for index, example in enumerate(first):
        text = _text(example)
        if text in written:
            found.append(Overlap(index, written[text], "same text", 1.0))
            continue
        similarities = shingles.similarities(text)
        nearest = int(similarities.argmax())
        if (same := asked.get(question_key(example))) is not None:
            found.append(Overlap(index, same, "same question", float(similarities[same])))
        elif similarities[nearest] >= threshold:
            found.append(Overlap(index, nearest, "near", float(similarities[nearest])))
    return found


def _text(example: Example) -> str:
    """All text of a row but its system prompt, which many rows share."""
    turns = [message for message in example.messages if message.role != "system"]
    parts = [example.text, *(part for turn in turns for part in (turn.content, turn.context))]
    return normalise_question("\n".join(part for part in parts if part))


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


class _Index:
    """Texts by their shingles: in which of them each shingle is. N texts, P shingles of all texts together."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._numbers: dict[str, int] = {}
        numbers = [
            np.array([self._numbers.setdefault(item, len(self._numbers)) for item in _shingles(text)], dtype=np.int32)
            for text in texts
        ]
        self._sizes = np.array([len(row) for row in numbers])  # (N,)
        flat = np.concatenate(numbers)  # (P,)
        owners = np.repeat(np.arange(len(texts), dtype=np.int32), self._sizes)  # (P,)
        self._texts = owners[np.argsort(flat, kind="stable")]  # (P,) texts of shingle 0, then of shingle 1, ...
        self._starts = np.concatenate([[0], np.bincount(flat).cumsum()])

    def similarities(self, text: str) -> NDArray[np.float64]:
        """Jaccard similarity of a text with each one here, (N,)."""
        own = _shingles(text)
        known = [self._numbers[item] for item in own if item in self._numbers]
        places = [self._texts[self._starts[number] : self._starts[number + 1]] for number in known]
        shared = np.bincount(np.concatenate([self._texts[:0], *places]), minlength=len(self._sizes))  # (N,)
        return shared / (len(own) + self._sizes - shared)
