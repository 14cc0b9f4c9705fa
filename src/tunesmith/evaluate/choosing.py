"""Which scores to measure: those that were asked for, and for auto those that suit the data. Says why."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from tunesmith.errors import SettingsError
from tunesmith.evaluate.evaluators import EVALUATORS, Need, check_names
from tunesmith.evaluate.text import word_count
from tunesmith.types import Example

if TYPE_CHECKING:
    from tunesmith.config import EvalConfig

AUTO = "auto"
# What can be told of what. A comparison with other models adds "pair".
OF_TEXT: frozenset[Need] = frozenset({"likelihood"})
OF_LABELS: frozenset[Need] = frozenset({"likelihood", "references", "probabilities", "pair"})
OF_WRITTEN: frozenset[Need] = frozenset({"likelihood", "references", "ending", "writing", "pair"})

# Answers of at most this many words, in half of the rows, are facts, codes or names.
_SHORT_WORDS = 5
# A summary is a sentence at least, and much shorter than a text that is no short question. Below, with a long question,
# are answers found in a passage.
_SUMMARY_WORDS, _SUMMARY_SHARE, _LONG_QUESTION_WORDS = 10, 1 / 3, 80
# en2de, en-2-de, en_to_de; not the words that have "to" in their middle, such as actors and tutors
_TRANSLATION = re.compile(
    r"translat|\bmt\b(?!.bench)|(?<![a-z])[a-z]{2}(?:[-_]?2[-_]?|[-_]to[-_])[a-z]{2}(?![a-z])", re.IGNORECASE
)
_SUMMARY = re.compile(r"summar|tl;?dr|abstract|headline", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Selection:
    """names: in the order of the table. deciding: the one that verdicts, wins and the order of rows are about.

    why: a sentence.
    """

    names: tuple[str, ...]
    deciding: str | None
    why: str


@dataclass(frozen=True, slots=True)
class _Set:
    """The scores of a kind of data, the deciding one first."""

    names: tuple[str, ...]
    why: str


_LIKELIHOOD = ("perplexity", "bits_per_byte")
_STYLE = ("ended", "repetition", "words")
_SETS: Mapping[str, _Set] = {
    "text": _Set(_LIKELIHOOD, "plain text: nothing is asked, so only its likelihood can be measured"),
    "labels": _Set(
        ("accuracy", "macro_f1", "log_loss", "calibration_error", *_LIKELIHOOD),
        "the answers are labels: right ones, rare ones, and how far the probabilities can be trusted",
    ),
    "translation": _Set(
        ("chrf", "bleu", "length_ratio", *_LIKELIHOOD, *_STYLE), "translation, by the name {name!r}: chrF decides"
    ),
    "summary by name": _Set(
        ("rougeL", "rouge1", "rouge2", "length_ratio", *_LIKELIHOOD, *_STYLE),
        "summaries, by the name {name!r}: ROUGE-L decides",
    ),
    "summary": _Set(
        ("rougeL", "rouge1", "rouge2", "length_ratio", *_LIKELIHOOD, *_STYLE),
        "answers of {answer:.0f} words to texts of {question:.0f} (medians) are summaries: ROUGE-L decides",
    ),
    "short": _Set(
        ("token_f1", "exact_match", "chrf", *_LIKELIHOOD, *_STYLE),
        "answers of {answer:.0f} words (median) are facts, codes or names: token F1 decides, exact match is strict",
    ),
    "written": _Set(
        (
            *("token_f1", "exact_match", "bleu", "chrf", "rouge1", "rouge2", "rougeL"),
            *(*_LIKELIHOOD, *_STYLE),
        ),
        "answers of {answer:.0f} words (median): overlap of words and of characters, token F1 decides",
    ),
    "unknown": _Set(_STYLE, "there are no right answers: what can be told without"),
}


def select(
    settings: EvalConfig,
    examples: Sequence[Example],
    *,
    can: Collection[Need],
    is_labels: bool = False,
    names: Iterable[str | None] = (),
) -> Selection:
    """The scores of `eval.metrics`.

    Args:
        examples: what is measured: its lengths tell one kind of data from another.
        can: what there is to measure with.
        names: of files and tasks, which may say what the data are.

    Raises:
        SettingsError: a name is unknown, or a score needs what is not there; all problems together.
    """
    check_names(settings.metrics)
    kind, facts = _kind(examples, can, is_labels=is_labels, names=names)
    fitting = _SETS[kind]
    wanted: list[str] = []
    for name in settings.metrics:
        wanted += [name] if name != AUTO else _automatic(fitting, settings, can)
    needs = {name: EVALUATORS[name].needs for name in wanted}
    missing = [f"{name} needs {_MISSING[need]}" for name, need in needs.items() if need not in can]
    missing += [f"{name} needs {problem}" for name in needs if (problem := _unset(name, settings))]
    if missing:
        raise SettingsError("eval.metrics:", problems=tuple(missing), fix="leave them out, or take auto")
    why = fitting.why.format(**facts) if AUTO in settings.metrics else "named in eval.metrics, the first one decides"
    deciding = next((name for name in wanted if kind != "unknown" or name not in _STYLE), None)
    return Selection(tuple(name for name in EVALUATORS if name in wanted), deciding, why)


_MISSING: Mapping[Need, str] = {
    "likelihood": "the model itself: it is measured by tunesmith eval",
    "probabilities": "labels that a model chooses among, here answers are written",
    "references": "right answers, and there are none",
    "ending": "the end of each answer, which is not known here",
    "writing": "answers that are written, and here they are chosen or there are none",
    "pair": "two models that answer the same questions",
}


def _unset(name: str, settings: EvalConfig) -> str | None:
    """The setting that a score needs and does not have."""
    setting = EVALUATORS[name].setting
    if setting == "eval.judge" and settings.judge is None:
        return "eval.judge: the address of a model, such as ollama:NAME"
    if setting == "eval.checks" and name not in settings.checks:
        return f"eval.checks.{name}: what is checked"
    return None


def _automatic(fitting: _Set, settings: EvalConfig, can: Collection[Need]) -> list[str]:
    """What suits the data and can be measured, and what the settings ask for."""
    asked = [*(["judge_score"] if settings.judge else []), *settings.checks]
    check_names(asked)
    return [name for name in (*fitting.names, *asked) if EVALUATORS[name].needs in can]


def _kind(
    examples: Sequence[Example], can: Collection[Need], *, is_labels: bool, names: Iterable[str | None]
) -> tuple[str, dict[str, object]]:
    """Which of the sets, and what its sentence says."""
    if is_labels:
        return "labels", {}
    asked = [example for example in examples if example.text is None]
    if not asked:
        return "text", {}
    if "references" not in can:
        return "unknown", {}
    for name in dict.fromkeys([*names, *(example.task for example in asked)]):
        if name and _TRANSLATION.search(name):
            return "translation", {"name": name}
        if name and _SUMMARY.search(name):
            return "summary by name", {"name": name}
    question = median(word_count(example.question) for example in asked)
    answer = median(word_count(example.answer) for example in asked)
    facts: dict[str, object] = {"question": question, "answer": answer}
    if answer <= _SHORT_WORDS:
        return "short", facts
    if question >= _LONG_QUESTION_WORDS and _SUMMARY_WORDS <= answer < question * _SUMMARY_SHARE:
        return "summary", facts
    return "written", facts
