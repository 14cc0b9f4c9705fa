"""Several models that answered the same questions: scores with intervals, who wins where, and what it cost.

The first model is the one that the others are held against. Knows no model: answers come in, a `Contest` comes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.errors import DataError
from tunesmith.evaluate.answers import Answer
from tunesmith.evaluate.paired import Difference, Floats, Interval, Sums, difference, finite, interval, mean_of
from tunesmith.evaluate.text import EVALUATORS, words
from tunesmith.evaluate.titles import MetricChange, metric_title, written
from tunesmith.types import Example

# The score that decides is the first of these that was measured.
_DECIDING = ("accuracy", "token_f1", "perplexity")
_LENGTHS = ("short questions", "middle questions", "long questions")
_REPEATED_WORDS = 4
_LABELS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Slice:
    """The deciding score on some of the rows: of the first model (before) and of another (after)."""

    name: str
    rows: int
    found: Difference


@dataclass(frozen=True, slots=True)
class Match:
    """A model against the first: changes by score, and on how many rows the deciding one is better, worse, equal."""

    changes: dict[str, Difference]
    wins: int
    losses: int
    ties: int
    slices: list[Slice]

    def table(self) -> list[MetricChange]:
        """A line for each score."""
        return [MetricChange.of(metric, found) for metric, found in self.changes.items()]


@dataclass(frozen=True, slots=True)
class Contest:
    """`scores[name][metric]` of every model, `matches[name]` of all but the first; empty without references.

    deciding: the score that the verdict is about, None without references. rows: what was asked and answered: row,
    sheet, question, reference, and `answers[name]` with text, ended and, given a reference, the deciding score.
    memory_bytes: of the weights of each model that is known.
    """

    names: list[str]
    deciding: str | None
    scores: dict[str, dict[str, Interval]]
    matches: dict[str, Match]
    tokens_per_second: dict[str, float]
    rows: list[dict[str, Any]]
    memory_bytes: dict[str, int] = field(default_factory=dict)

    def verdict(self, name: str) -> str:
        """One sentence about a model and the first."""
        first = self.names[0]
        if name not in self.matches:
            return f"{name} and {first} answered {len(self.rows)} questions without references: nothing is scored"
        assert self.deciding is not None
        found = self.matches[name].changes[self.deciding]
        change = " to ".join(written(self.deciding, end, sign="+") for end in (found.low, found.high))
        change = f"{metric_title(self.deciding)} {written(self.deciding, found.change, sign='+')}, {change}"
        said = {
            "better": f"{name} is better than {first}",
            "worse": f"{name} is worse than {first}",
            "no evidence": f"no evidence that {name} and {first} differ",
            "too few rows": f"{len(self.rows)} rows are too few to tell {name} and {first} apart",
        }[found.verdict]
        return f"{said} ({change})"

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows. Numbers that JSON does not have are None."""
        return {
            "schema_version": 1,
            "rows": len(self.rows),
            "models": [
                {
                    "name": name,
                    "tokens_per_second": finite(self.tokens_per_second[name]),
                    "memory_bytes": self.memory_bytes.get(name),
                    "scores": {metric: _ends(found) for metric, found in self.scores[name].items()},
                }
                for name in self.names
            ],
            "against": self.names[0],
            "deciding": self.deciding,
            "matches": [
                {
                    "name": name,
                    "verdict": match.changes[str(self.deciding)].verdict,
                    "sentence": self.verdict(name),
                    "wins": match.wins,
                    "losses": match.losses,
                    "ties": match.ties,
                    "changes": {metric: _change(found) for metric, found in match.changes.items()},
                    "slices": [{"name": part.name, "rows": part.rows, **_change(part.found)} for part in match.slices],
                }
                for name, match in self.matches.items()
            ],
        }


def hold(
    asked: Sequence[Example],
    answers: Mapping[str, Sequence[Answer]],
    *,
    scores: Mapping[str, Mapping[str, Sums]] | None = None,
    seed: int = 0,
) -> Contest:
    """Score every model on the same questions and hold each against the first.

    Args:
        asked: the questions; references are their answers, or all empty.
        answers: by model, one for each question.
        scores: by model, where they are measured already; else those of EVALUATORS are, where there are references.
        seed: of the resampling.

    Raises:
        DataError: no question; or some questions have a reference and others none.
    """
    if not asked and not scores:
        raise DataError("there is no question to compare answers to", fix="give rows or cases with questions")
    wanted = [example.answer if example.prompt != example.messages else "" for example in asked]
    with_reference = sum(bool(text.strip()) for text in wanted)
    if with_reference not in (0, len(asked)):
        raise DataError(
            f"{with_reference} of {len(asked)} questions have a reference answer",
            fix="give every question one, or none",
        )
    names = list(answers)
    if scores is None and with_reference:
        scores = {name: _scores(given, wanted) for name, given in answers.items()}
    sums = {
        name: {**(scores[name] if scores else {}), **(style(given) if given else {})} for name, given in answers.items()
    }
    deciding = next((metric for metric in _DECIDING if metric in sums[names[0]]), None)
    groups, first = _groups(asked, labels=wanted if deciding == "accuracy" else ()), sums[names[0]]
    return Contest(
        names,
        deciding,
        {name: {metric: interval(found, seed=seed) for metric, found in sums[name].items()} for name in names},
        {name: _match(first, sums[name], deciding, groups, seed=seed) for name in names[1:] if deciding},
        {name: _rate(given) for name, given in answers.items()},
        _rows(asked, wanted, answers, {name: sums[name][deciding] for name in names} if deciding else {}),
    )


def style(given: Sequence[Answer]) -> dict[str, Sums]:
    """What can be said of answers without a reference: whether they end, repeat themselves, and how long they are.

    repetition: share of an answer's 4-grams of words that it has written before (seq-rep-4, Welleck et al. 2020,
    arXiv:1908.04319).
    """
    return {
        "ended": mean_of(_of_rows(given, lambda answer: float(answer.ended))),
        "repetition": mean_of(_of_rows(given, lambda answer: repetition(answer.text)), higher_is_better=False),
        "words": mean_of(_of_rows(given, lambda answer: float(len(answer.text.split())))),
    }


def repetition(text: str) -> float:
    """Share of the 4-grams of words of a text that are not new in it; 0 for fewer than four words."""
    found = words(text)
    grams = [tuple(found[start : start + _REPEATED_WORDS]) for start in range(len(found) - _REPEATED_WORDS + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _is_written(given: Sequence[Answer]) -> bool:
    """Whether the answers are text of the model, not labels that it has chosen."""
    return any(answer.tokens for answer in given)


def _of_rows(given: Sequence[Answer], number: Callable[[Answer], float]) -> Floats:
    return np.array([number(answer) for answer in given])


def _scores(given: Sequence[Answer], wanted: Sequence[str]) -> dict[str, Sums]:
    answers = [answer.text for answer in given]
    return {name: evaluator.sums(answers, wanted) for name, evaluator in EVALUATORS.items()}


def _match(
    first: Mapping[str, Sums], other: Mapping[str, Sums], deciding: str, groups: Mapping[str, list[int]], *, seed: int
) -> Match:
    changes = {metric: difference(first[metric], other[metric], seed=seed) for metric in first}
    before, after = first[deciding], other[deciding]
    gain = (after.rows[:, 0] - before.rows[:, 0]) * (1 if after.higher_is_better else -1)
    wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
    slices = [
        Slice(name, len(rows), difference(before.only(rows), after.only(rows), seed=seed))
        for name, rows in groups.items()
    ]
    return Match(changes, wins, losses, len(gain) - wins - losses, slices)


def _groups(asked: Sequence[Example], *, labels: Sequence[str]) -> dict[str, list[int]]:
    """Rows of each task, sheet and label where there are several, and in thirds by length of the question where enough.

    Of many labels those with most rows. labels: of each row; empty where the answers are none.
    """
    commonest = {label for label, _ in Counter(labels).most_common(_LABELS_SHOWN)}
    groups: dict[str, list[int]] = {}
    for kind, of_rows in (
        ("task", [example.task for example in asked]),
        ("sheet", [example.sheet for example in asked]),
        ("label", [label if label in commonest else None for label in labels]),
    ):
        values = dict.fromkeys(value for value in of_rows if value is not None or kind != "label")
        if len(values) > 1:
            for value in values:
                groups[f"{kind} {value}"] = [index for index, found in enumerate(of_rows) if found == value]
    by_length = sorted(range(len(asked)), key=lambda index: len(asked[index].question))
    if len(by_length) >= 3 * len(_LENGTHS):
        for name, part in zip(_LENGTHS, np.array_split(by_length, len(_LENGTHS)), strict=True):
            groups[name] = part.tolist()
    return groups


def _rate(given: Sequence[Answer]) -> float:
    seconds = sum(answer.seconds for answer in given)
    return sum(answer.tokens for answer in given) / seconds if seconds else 0.0


def _rows(
    asked: Sequence[Example],
    wanted: Sequence[str],
    answers: Mapping[str, Sequence[Answer]],
    deciding: Mapping[str, Sums],
) -> list[dict[str, Any]]:
    return [
        {
            "row": example.row,
            "sheet": example.sheet,
            "question": example.question,
            "reference": reference or None,
            "answers": {
                name: {
                    "text": given[index].text,
                    "ended": given[index].ended,
                    **({"score": float(deciding[name].rows[index, 0])} if reference else {}),
                }
                for name, given in answers.items()
            },
        }
        for index, (example, reference) in enumerate(zip(asked, wanted, strict=True))
    ]


def _ends(found: Interval) -> dict[str, float | None]:
    return {"value": finite(found.value), "low": finite(found.low), "high": finite(found.high)}


def _change(found: Difference) -> dict[str, float | str | None]:
    return {
        "change": finite(found.change),
        "low": finite(found.low),
        "high": finite(found.high),
        "p_value": found.p_value,
        "verdict": found.verdict,
    }
