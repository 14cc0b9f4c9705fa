"""Scores of written answers against reference answers, from 0 (nothing right) to 1. Knows nothing of models or files.

exact_match, token_f1   SQuAD v1.1 (Rajpurkar et al. 2016, arXiv:1606.05250), as in its evaluate-v1.1.py, over 100
bleu, chrf              of the whole corpus, by sacrebleu (Post 2018, arXiv:1804.08771) with its defaults, over 100
rouge1 rouge2 rougeL    mean F-measure of rouge_score (Lin 2004), no stemming; computed here: it takes seconds to import

Each is made of sums over rows (`Sums`), so that `paired` can resample it.

Two properties of the originals are kept: token_f1 of two empty answers is 0 (v2.0 of the script changed that), and
rouge2 of a single word is 0 even when it is right. Two are not. rouge_score deletes every letter outside a-z, so a
right answer in Greek or Japanese would score 0. Here words are Unicode words; on ASCII text the scores are
rouge_score's own. SQuAD's script takes a sentence in Chinese, Japanese or Thai for one word, so token_f1 of all but
equal answers would be 0. Here each character of such scripts is a word, as MLQA has it (Lewis et al. 2020,
arXiv:1910.07475).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.evaluate.paired import Floats, Sums, mean_of

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as SacreMetric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Thai, Lao, Myanmar, Khmer, kana, Han: written without spaces, so each character counts as a word
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def normalize(text: str) -> str:
    """Lower case, then without ASCII punctuation, English articles and extra whitespace: "The  cat!" -> "cat"."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETE_PUNCTUATION)).split())


def words(text: str) -> list[str]:
    """Runs of letters, marks and digits in lower case: "Öl, 3.5" -> ["öl", "3", "5"]; "你好" -> ["你", "好"]."""
    folded = unicodedata.normalize("NFC", text).lower()
    kept = "".join(character if unicodedata.category(character)[0] in "LMN" else " " for character in folded)
    return separate(kept)


def separate(text: str) -> list[str]:
    """Stretches between spaces; of scripts that have none each character: "Hi 你好!" -> ["Hi", "你", "好", "!"]."""
    return _UNSPACED.sub(r" \g<0> ", text).split()


def word_count(text: str) -> int:
    """How many words a text has, as people count them."""
    return len(separate(text))


def exact_match(prediction: str, reference: str) -> float:
    """1 where the normalized texts are the same, else 0."""
    return float(normalize(prediction) == normalize(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Overlap of the normalized words of two texts, 0 to 1."""
    predicted, wanted = separate(normalize(prediction)), separate(normalize(reference))
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0


def mean_of_rows(score: Callable[[str, str], float], predictions: Sequence[str], references: Sequence[str]) -> Sums:
    """The mean of a score of each answer and its reference."""
    return mean_of(np.array([score(*pair) for pair in zip(predictions, references, strict=True)]))


def sacre_bleu() -> SacreMetric:
    """sacrebleu's BLEU with its defaults."""
    from sacrebleu.metrics.bleu import BLEU

    # force: only silences its question whether answers that end in " ." are tokenized already
    return BLEU(force=True)


def sacre_chrf() -> SacreMetric:
    """sacrebleu's chrF with its defaults."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def of_corpus(metric: Callable[[], SacreMetric], predictions: Sequence[str], references: Sequence[str]) -> Sums:
    """sacrebleu's own counts of each row, and its own score of their totals: what its paired tests stand on."""
    counter = metric()
    wrote, wanted = zip(*zip(predictions, references, strict=True), strict=True)
    counts = counter._extract_corpus_statistics(list(wrote), [list(wanted)])

    def score(totals: Floats) -> Floats:
        found = [counter._compute_score_from_stats(total).score for total in totals.round().astype(int).tolist()]
        return np.minimum(np.array(found) / 100, 1.0)  # its logarithms leave 100.00000000000004 for a perfect corpus

    return Sums(np.array(counts, dtype=np.float64), score)


def rouge_n(size: int, prediction: str, reference: str) -> float:
    """F-measure of the sequences of `size` Unicode words that two texts share, each as often as both have it."""
    given, wanted = (
        Counter(zip(*(found[at:] for at in range(size)), strict=False)) for found in _words(prediction, reference)
    )
    return _f_measure((given & wanted).total(), given.total(), wanted.total())


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure of the longest sequence of Unicode words that two texts share, gaps allowed."""
    given, wanted = _words(prediction, reference)
    return _f_measure(_longest_common(given, wanted), len(given), len(wanted))


def _words(prediction: str, reference: str) -> tuple[list[str], list[str]]:
    return words(prediction), words(reference)


def _f_measure(shared: int, given: int, wanted: int) -> float:
    """By way of precision and recall, as rouge_score does, so that the last bit is the same."""
    if not shared:
        return 0.0
    precision, recall = shared / given, shared / wanted
    return 2 * precision * recall / (precision + recall)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    A bit for each word of the first, all of a column of the table at once (Hyyro 2004, Bit-parallel LCS-length).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(first)) - 1
    unmatched = every
    for word in second:
        found = unmatched & places.get(word, 0)
        unmatched = (unmatched + found | unmatched - found) & every
    return len(first) - unmatched.bit_count()
