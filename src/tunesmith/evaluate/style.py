"""What can be said of answers without a reference: how long they are, and whether they repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.evaluate.paired import Sums, mean_of, ratio
from tunesmith.evaluate.text import word_count, words

_REPEATED_WORDS = 4


def repetition(text: str) -> float:
    """Share of the 4-grams of words of a text that are not new in it; 0 for fewer than four words.

    seq-rep-4 of Welleck et al. 2020, arXiv:1908.04319, over words.
    """
    found = words(text)
    grams = [tuple(found[start : start + _REPEATED_WORDS]) for start in range(len(found) - _REPEATED_WORDS + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def mean_words(predictions: Sequence[str]) -> Sums:
    """Words of an answer, on average."""
    return mean_of(np.array([word_count(text) for text in predictions], dtype=np.float64))


def length_ratio(predictions: Sequence[str], references: Sequence[str]) -> Sums:
    """Words of all answers over words of all references, as BLEU's length ratio is made."""
    pairs = zip(predictions, references, strict=True)
    return Sums(np.array([[word_count(wrote), word_count(wanted)] for wrote, wanted in pairs], dtype=np.float64), ratio)
