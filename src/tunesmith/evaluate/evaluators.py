"""Every score in one table: what it is called, what it needs, what it is made of, which direction is good.

A score is made of sums over rows (`Sums`), so each has an interval by the same bootstrap, and a value for every row.
`choosing` says which of them suit which data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from tunesmith.errors import DataError, SettingsError, did_you_mean
from tunesmith.evaluate.judge import PREFERENCE, Judge
from tunesmith.evaluate.labels import accuracy, calibration_error, log_loss, macro_f1, micro_f1
from tunesmith.evaluate.material import Rows, built_check
from tunesmith.evaluate.paired import Floats, Sums, mean_of, ratio
from tunesmith.evaluate.style import length_ratio, mean_words, repetition
from tunesmith.evaluate.text import (
    exact_match,
    mean_of_rows,
    of_corpus,
    rouge_l,
    rouge_n,
    sacre_bleu,
    sacre_chrf,
    token_f1,
)

# likelihood     the model itself, and right answers
# probabilities  the model chose among labels
# references     right answers
# ending         whether each answer ended by itself
# writing        answers that were written, not chosen
# pair           the answers of another model to the same questions
Need = Literal["likelihood", "probabilities", "references", "ending", "writing", "pair"]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """A score. `meaning` and `task` are its line in docs/evaluation.md.

    is_share: between 0 and 1, written out of 100. of_row: means something for a single answer. setting: has to be set.
    """

    title: str
    needs: Need
    sums: Callable[[Rows], Sums]
    meaning: str
    task: str
    better: Better = "higher"
    is_share: bool = True
    of_row: bool = True
    setting: str | None = None

    def measure(self, rows: Rows) -> Sums:
        """The score of the rows.

        Raises:
            DataError: there is nothing to score. ResourceError: the encoder or the judge is not there.
        """
        if not len(rows.nll if self.needs == "likelihood" else rows.predictions or rows.ended):
            raise DataError("there are no answers to score", fix="give at least one row with an answer")
        higher_is_better = {"higher": True, "lower": False, "neither": None}[self.better]
        return replace(self.sums(rows), higher_is_better=higher_is_better)

    def __call__(self, predictions: Sequence[str], references: Sequence[str]) -> float:
        """The score of answers against references.

        Raises:
            DataError: there are no answers. SettingsError: it is made of more than these texts.
        """
        if self.needs not in ("references", "writing") or self.setting is not None:
            raise SettingsError(
                f"{self.title} needs more than answers and references",
                fix="tunesmith eval measures it, and ModelEvaluator where it needs a setting",
            )
        return self.measure(Rows(predictions=predictions, references=references)).value


def perplexity_of(nll: Floats) -> Sums:
    """exp(nats / token), from rows of nats and tokens; further columns are not read. Infinite where it is too large."""

    def score(totals: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.exp(ratio(totals))

    return Sums(nll[:, :2], score)


def bits_per_byte_of(nats: Floats, text_bytes: Floats) -> Sums:
    """Bits over the UTF-8 bytes of the text: comparable between tokenizers, unlike perplexity."""
    return Sums(np.stack([nats, text_bytes * math.log(2)], axis=1), ratio)


def _against(score: Callable[[str, str], float]) -> Callable[[Rows], Sums]:
    return lambda rows: mean_of_rows(score, rows.predictions, rows.references)


def _log_loss(rows: Rows) -> Sums:
    return log_loss(rows.reference_log_probabilities)


def _calibration(rows: Rows) -> Sums:
    is_right = [wrote == wanted for wrote, wanted in zip(rows.predictions, rows.references, strict=True)]
    return calibration_error(rows.probabilities, is_right)


def _semantic(rows: Rows) -> Sums:
    return mean_of(rows.tools.encoder.similarity(rows.predictions, rows.references))


def _repetition(rows: Rows) -> Sums:
    return mean_of(np.array([repetition(text) for text in rows.predictions]))


def _check(name: str, rows: Rows) -> Sums:
    passes = built_check(name, rows.tools.checks[name])
    return mean_of(np.array([float(passes(text)) for text in rows.predictions]))


def _judged(kind: str, rows: Rows) -> Sums:
    assert rows.tools.judge is not None
    references = rows.references or [""] * len(rows.predictions)
    found, replies = rows.tools.judge.scores(kind, rows.questions, references, rows.predictions)
    return mean_of(rows.tools.judge.readable(kind, found, replies))


def _of_pair(rows: Rows) -> Sums:
    raise TypeError("judge_preference is a score of two models: see preference_sums")


def preference_sums(judge: Judge, before: Rows, after: Rows) -> tuple[Sums, Sums]:
    """judge_preference of two models on the same questions; the two add up to 1.

    Raises:
        ResourceError: the judge does not answer; what it has said is kept. DataError: no reply has a score.
    """
    references = before.references or [""] * len(before.predictions)
    found, _ = judge.preference(before.questions, references, before.predictions, after.predictions)
    return mean_of(1 - found), mean_of(found)


_JUDGE = "eval.judge"
_CHECK = "eval.checks"

EVALUATORS: Mapping[str, Evaluator] = {
    "perplexity": Evaluator(
        title="perplexity",
        needs="likelihood",
        sums=lambda rows: perplexity_of(rows.nll),
        meaning="how surprised the model is by the right answers, token by token; 1 is certainty",
        task="any; the most sensitive score, but silent about what the model writes by itself",
        better="lower",
        is_share=False,
    ),
    "bits_per_byte": Evaluator(
        title="bits per byte",
        needs="likelihood",
        sums=lambda rows: bits_per_byte_of(rows.nll[:, 0], rows.nll[:, 2]),
        meaning="the same surprise over the bytes of the text: unlike perplexity comparable between tokenizers",
        task="any; bases with different tokenizers, plain text",
        better="lower",
        is_share=False,
    ),
    "exact_match": Evaluator(
        title="exact match",
        needs="references",
        sums=_against(exact_match),
        meaning="answers equal to the reference after lower-casing, without punctuation and articles (SQuAD)",
        task="facts, codes, short answers",
    ),
    "token_f1": Evaluator(
        title="token F1",
        needs="references",
        sums=_against(token_f1),
        meaning="overlap of the words of answer and reference (SQuAD); of scripts without spaces, of the characters",
        task="questions and answers",
    ),
    "bleu": Evaluator(
        title="BLEU",
        needs="references",
        sums=lambda rows: of_corpus(sacre_bleu, rows.predictions, rows.references),
        meaning="overlap of sequences of one to four words over the whole test set (sacrebleu)",
        task="translation; long answers with a fixed wording",
        of_row=False,
    ),
    "chrf": Evaluator(
        title="chrF",
        needs="references",
        sums=lambda rows: of_corpus(sacre_chrf, rows.predictions, rows.references),
        meaning="overlap of sequences of one to six characters over the whole test set (sacrebleu)",
        task="translation; inflected languages, short answers",
        of_row=False,
    ),
    "rouge1": Evaluator(
        title="ROUGE-1",
        needs="references",
        sums=_against(partial(rouge_n, 1)),
        meaning="overlap of single words (rouge_score)",
        task="summaries",
    ),
    "rouge2": Evaluator(
        title="ROUGE-2",
        needs="references",
        sums=_against(partial(rouge_n, 2)),
        meaning="overlap of pairs of words (rouge_score)",
        task="summaries",
    ),
    "rougeL": Evaluator(
        title="ROUGE-L",
        needs="references",
        sums=_against(rouge_l),
        meaning="longest sequence of words that both have (rouge_score)",
        task="summaries, explanations",
    ),
    "semantic_similarity": Evaluator(
        title="semantic similarity",
        needs="references",
        sums=_semantic,
        meaning="cosine of the sentence embeddings of answer and reference, -100 to 100; needs the extra `semantic` or "
        "an `eval.encoder`; texts on the same subject that contradict each other are near as well",
        task="answers that may be worded freely",
    ),
    "accuracy": Evaluator(
        title="accuracy",
        needs="references",
        sums=lambda rows: accuracy(rows.predictions, rows.references),
        meaning="right labels, letter by letter",
        task="labels that are about equally frequent",
    ),
    "macro_f1": Evaluator(
        title="macro F1",
        needs="references",
        sums=lambda rows: macro_f1(rows.predictions, rows.references, rows.labels),
        meaning="mean of the F1 of the labels, a rare one counting as much as a frequent one",
        task="labels of which some are rare",
        of_row=False,
    ),
    "micro_f1": Evaluator(
        title="micro F1",
        needs="references",
        sums=lambda rows: micro_f1(rows.predictions, rows.references),
        meaning="F1 of all labels' counts together; with one label a row it is the accuracy",
        task="comparing with papers that report it",
        of_row=False,
    ),
    "log_loss": Evaluator(
        title="log loss",
        needs="probabilities",
        sums=_log_loss,
        meaning="nats of surprise at the right label; 0 is certainty",
        task="labels, when probabilities are used; more sensitive than accuracy",
        better="lower",
        is_share=False,
    ),
    "calibration_error": Evaluator(
        title="calibration error",
        needs="probabilities",
        sums=_calibration,
        meaning="distance between stated probability and share that is right, over ten bins",
        task="labels, when a threshold decides what a person looks at",
        better="lower",
        of_row=False,
    ),
    "ended": Evaluator(
        title="ended by itself",
        needs="ending",
        sums=lambda rows: mean_of(np.array(rows.ended, dtype=np.float64)),
        meaning="answers that the model ended with its end-of-text token, not the limit `generate.max_new_tokens`",
        task="whether it has learned to stop",
    ),
    "repetition": Evaluator(
        title="repetition",
        needs="writing",
        sums=_repetition,
        meaning="share of an answer's four-word sequences that it has written before",
        task="loops",
        better="lower",
    ),
    "words": Evaluator(
        title="words",
        needs="writing",
        sums=lambda rows: mean_words(rows.predictions),
        meaning="words of an answer, on average",
        task="whether answers grew or shrank",
        better="neither",
        is_share=False,
    ),
    "length_ratio": Evaluator(
        title="length ratio",
        needs="references",
        sums=lambda rows: length_ratio(rows.predictions, rows.references),
        meaning="words of all answers over words of all references; 1 is as long",
        task="the same, against what was wanted",
        better="neither",
        is_share=False,
    ),
    **{
        name: Evaluator(
            title=title,
            needs="writing",
            sums=partial(_check, name),
            meaning=f"answers that {meaning}",
            task="a form that every answer has to have",
            setting=_CHECK,
        )
        for name, title, meaning in (
            ("contains", "contains", "contain the text, or one of the texts"),
            ("equals", "equals", "are the text but for case, punctuation and articles"),
            ("regex", "fits the pattern", "the regular expression is found in"),
            ("number", "ends with the number", "have the number as their last one"),
            ("json_schema", "valid JSON", "are JSON and valid by the schema; needs the extra `schema`"),
        )
    },
    "judge_score": Evaluator(
        title="judge, 1 to 10",
        needs="writing",
        sums=partial(_judged, "judge_score"),
        meaning="mean of what a language model gives each answer",
        task="free answers; believe a judge only after comparing it with people (`tunesmith rate`)",
        is_share=False,
        setting=_JUDGE,
    ),
    "judge_pass": Evaluator(
        title="passed by the judge",
        needs="writing",
        sums=partial(_judged, "judge_pass"),
        meaning="answers that a language model finds good enough",
        task="the same, for a gate",
        setting=_JUDGE,
    ),
    PREFERENCE: Evaluator(
        title="preferred by the judge",
        needs="pair",
        sums=_of_pair,
        meaning="answers that a language model prefers to the other model's whichever comes first; half for a tie",
        task="two models whose answers are both plausible",
        setting=_JUDGE,
    ),
}


def measure(names: Iterable[str], rows: Rows) -> dict[str, Sums]:
    """Scores in the order of the table; the pairwise one is measured by `preference_sums`.

    Raises:
        DataError: there is nothing to score. ResourceError: the encoder or the judge is not there.
    """
    wanted = {name for name in names if EVALUATORS[name].needs != "pair"}
    return {name: evaluator.measure(rows) for name, evaluator in EVALUATORS.items() if name in wanted}


def is_likelihood(name: str) -> bool:
    """Whether its rows are those of the likelihood, not those of the answers."""
    return EVALUATORS[name].needs == "likelihood"


def check_names(names: Iterable[str]) -> None:
    """Whether all of them are in the table, or auto.

    Raises:
        SettingsError: with every one that is not, the nearest, and those there are.
    """
    known = ("auto", *EVALUATORS)
    if problems := tuple(f"no score {name!r}{did_you_mean(name, known)}" for name in names if name not in known):
        raise SettingsError("eval.metrics:", problems=problems, fix=f"take some of: {', '.join(known)}")
