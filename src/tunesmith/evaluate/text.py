"""Scores of written answers against reference answers, from 0 (nothing right) to 1. Knows nothing of models or files.

exact_match, token_f1   SQuAD v1.1 (Rajpurkar et al. 2016, arXiv:1606.05250), as in its evaluate-v1.1.py, over 100
bleu                    corpus BLEU of sacrebleu (Post 2018, arXiv:1804.08771) with its defaults, over 100
rouge1 rouge2 rougeL    mean F-measure of rouge_score (Lin 2004), no stemming

Two properties of the originals are kept: token_f1 of two empty answers is 0 (v2.0 of the script changed that), and
rouge2 of a single word is 0 even when it is right. One is not: rouge_score deletes every letter outside a-z, so a right
answer in Greek or Japanese would score 0. Here words are Unicode words; on ASCII text the scores are rouge_score's own.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from tunesmith.errors import DataError

Evaluator = Callable[[Sequence[str], Sequence[str]], float]

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
    return _UNSPACED.sub(r" \g<0> ", kept).split()


def score_row(prediction: str, reference: str) -> dict[str, float]:
    """The scores that mean something for a single answer: exact_match, token_f1, rougeL."""
    return {
        "exact_match": _exact(prediction, reference),
        "token_f1": _f1(prediction, reference),
        "rougeL": _rouge("rougeL", [prediction], [reference]),
    }


def _exact(prediction: str, reference: str) -> float:
    return float(normalize(prediction) == normalize(reference))


def _f1(prediction: str, reference: str) -> float:
    predicted, wanted = normalize(prediction).split(), normalize(reference).split()
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _pairs(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    if not predictions:
        raise DataError("there are no answers to score", fix="give at least one row with an answer")
    return list(zip(predictions, references, strict=True))


def _exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    return _mean([_exact(*pair) for pair in _pairs(predictions, references)])


def _token_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    return _mean([_f1(*pair) for pair in _pairs(predictions, references)])


def _bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    from sacrebleu import corpus_bleu

    pairs = _pairs(predictions, references)
    # force: only silences its question whether answers that end in " ." are tokenized already
    result = corpus_bleu([prediction for prediction, _ in pairs], [[reference for _, reference in pairs]], force=True)
    return min(1.0, float(result.score) / 100)  # its logarithms leave 100.00000000000004 for a perfect corpus


class _UnicodeWords:
    """rouge_score's tokenizer interface."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _rouge(kind: str, predictions: Sequence[str], references: Sequence[str]) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=False, tokenizer=_UnicodeWords())
    pairs = _pairs(predictions, references)
    return _mean([float(scorer.score(reference, prediction)[kind].fmeasure) for prediction, reference in pairs])


def _rouge1(predictions: Sequence[str], references: Sequence[str]) -> float:
    return _rouge("rouge1", predictions, references)


def _rouge2(predictions: Sequence[str], references: Sequence[str]) -> float:
    return _rouge("rouge2", predictions, references)


def _rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    return _rouge("rougeL", predictions, references)


EVALUATORS: dict[str, Evaluator] = {
    "exact_match": _exact_match,
    "token_f1": _token_f1,
    "bleu": _bleu,
    "rouge1": _rouge1,
    "rouge2": _rouge2,
    "rougeL": _rouge_l,
}
