"""Several models that answered the same questions: scores with intervals, who wins where, and what it cost.

The first model is the one that the others are held against. Knows no model: answers and scores come in, a `Contest`
comes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from tunesmith.config import EvalConfig
from tunesmith.errors import DataError
from tunesmith.evaluate.answers import Answer, tokens_per_second
from tunesmith.evaluate.choosing import Selection, select
from tunesmith.evaluate.evaluators import Need, measure, preference_sums
from tunesmith.evaluate.judge import PREFERENCE
from tunesmith.evaluate.material import Rows, Tools, asked_of, rows_of
from tunesmith.evaluate.paired import Difference, Interval, Sums, difference, finite, interval
from tunesmith.evaluate.remarks import Remark, pair_remarks, remarks
from tunesmith.evaluate.titles import MetricChange, is_neutral, metric_title, written
from tunesmith.types import Example

_LENGTHS = ("short questions", "middle questions", "long questions")
_LABELS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Slice:
    """The deciding score on some of the rows: of the first model (before) and of another (after)."""

    name: str
    rows: int
    found: Difference


@dataclass(frozen=True, slots=True)
class Match:
    """A model against the first: changes by score, and on how many rows the deciding one is better, worse, equal.

    Of a score that is neither better nor worse when it is higher: higher, lower, equal.
    """

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
    """`scores[name][metric]` of every model, `matches[name]` of all but the first; empty where no score decides.

    deciding: the score that the verdict is about. rows: what was asked and answered: row, sheet, question, reference,
    and `answers[name]` with text, ended, the deciding score and what a judge said, if one did; empty for plain text,
    where nothing is asked. memory_bytes: of the weights of each model for which it is known.
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
            asked = "1 question" if len(self.rows) == 1 else f"{len(self.rows)} questions"
            return f"{name} and {first} answered {asked} without references: nothing is scored"
        assert self.deciding is not None
        found = self.matches[name].changes[self.deciding]
        change = " to ".join(written(self.deciding, end, sign="+") for end in (found.low, found.high))
        change = f"{metric_title(self.deciding)} {written(self.deciding, found.change, sign='+')}, {change}"
        said = {
            "better": f"{name} is better than {first}",
            "worse": f"{name} is worse than {first}",
            "no evidence": f"no evidence that {name} and {first} differ",
            "different": f"{name} and {first} differ",
            "too few rows": f"too few rows ({found.rows}) to tell {name} and {first} apart",
        }[found.verdict]
        return f"{said} ({change})"

    def counts(self, name: str) -> dict[str, int]:
        """On how many rows a model's deciding score is better than the first one's, or higher, and so on, in words."""
        match = self.matches[name]
        more, less = ("higher", "lower") if is_neutral(str(self.deciding)) else ("better", "worse")
        return {more: match.wins, less: match.losses, "equal": match.ties}

    @property
    def row_count(self) -> int:
        """What was asked; of plain text, what was measured."""
        compared = (match.changes[str(self.deciding)].rows for match in self.matches.values())
        return len(self.rows) or max(compared, default=0)

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows. Numbers that JSON does not have are None."""
        return {
            "schema_version": 1,
            "rows": self.row_count,
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
    deciding: str | None = None,
    by_question: Mapping[str, Sums] | None = None,
    said: Mapping[str, Sequence[Sequence[Remark]]] | None = None,
    is_labels: bool = False,
    seed: int = 0,
) -> Contest:
    """Hold every model against the first, by scores of the same questions.

    Args:
        asked: the questions; references are their answers, or all empty.
        answers: by model, one for each question.
        scores: by model, of their answers; unset, those that suit them. deciding: the one that verdicts are about; None
            where none can be. by_question: the deciding one by model, a row for each question, where its own rows are
            others. said: by model, what a judge said of each answer. is_labels: references are labels, and each is a
            slice.
        seed: of the resampling.

    Raises:
        DataError: no question; or some questions have a reference and others none.
    """
    if scores is None:
        selection = select(EvalConfig(), asked, can=knowable(asked, models=len(answers)))
        (scores, _), deciding = score_all(selection, asked, answers), selection.deciding
    wanted = references_of(asked)
    names = list(answers)
    groups = _groups(asked, labels=wanted if is_labels else ())
    if by_question is None:
        by_question = {name: scores[name][deciding] for name in names} if deciding else {}
    matches = {}
    for name in names[1:] if deciding else []:
        slices = _slices(by_question[names[0]], by_question[name], groups, seed=seed)
        matches[name] = _match(scores[names[0]], scores[name], str(deciding), slices, seed=seed)
    return Contest(
        names,
        deciding,
        {name: {metric: interval(found, seed=seed) for metric, found in scores[name].items()} for name in names},
        matches,
        {name: tokens_per_second(given) for name, given in answers.items()},
        _rows(asked, wanted, answers, by_question, said or {}),
    )


def references_of(asked: Sequence[Example]) -> list[str]:
    """The right answer to each question; all empty where there are none.

    Raises:
        DataError: some have a right answer and others none.
    """
    wanted = [example.answer if example.prompt != example.messages else "" for example in asked]
    has_one = [bool(text.strip()) for text in wanted]
    if any(has_one) and not all(has_one):
        raise DataError(
            f"{sum(has_one)} of {len(asked)} questions have a reference answer",
            cause=f"the first without one: {asked[has_one.index(False)].question!r}",
            fix="give every question one, or none",
        )
    return wanted


def knowable(asked: Sequence[Example], *, models: int = 1, is_written: bool = True) -> set[Need]:
    """What there is to score answers by, when nothing is known of the models but their answers.

    Raises:
        DataError: no question; or some questions have a reference and others none.
    """
    if not asked:
        raise DataError("there is no question to compare answers to", fix="give rows or cases with questions")
    can: set[Need] = {"references"} if any(references_of(asked)) else set()
    can |= {"pair"} if models == 2 else set()
    return can | ({"ending", "writing"} if is_written else set())


def score_all(
    selection: Selection,
    asked: Sequence[Example],
    answers: Mapping[str, Sequence[Answer]],
    *,
    labels: Collection[str] = (),
    tools: Tools | None = None,
) -> tuple[dict[str, dict[str, Sums]], dict[str, list[list[Remark]]]]:
    """The selected scores of every model, and what a judge said of each of its answers.

    Args:
        labels: those to choose from, where answers are labels.

    Raises:
        ResourceError: the encoder or the judge is not there. DataError: see `Judge`.
    """
    wanted, tools = references_of(asked), tools or Tools()
    # a server may answer with anything: the sums of all models have the same columns
    every = {*labels, *(answer.text for given in answers.values() for answer in given)} if labels else ()
    rows = {
        name: replace(rows_of(asked, given), references=wanted, labels=every, tools=tools)
        for name, given in answers.items()
    }
    scores = {name: measure(selection.names, of_model) for name, of_model in rows.items()}
    if PREFERENCE in selection.names:
        assert tools.judge is not None
        for name, sums in zip(rows, preference_sums(tools.judge, *rows.values()), strict=True):
            scores[name][PREFERENCE] = sums
    return scores, said_of(selection.names, rows)


def said_of(metrics: Collection[str], rows: Mapping[str, Rows]) -> dict[str, list[list[Remark]]]:
    """What a judge said of each answer, by model: of the second of two also beside the first one's answer."""
    found = {name: remarks(metrics, of_model) for name, of_model in rows.items()}
    if PREFERENCE in metrics:
        (_, before), (last, after) = rows.items()
        found[last] = [
            [*alone, *beside] for alone, beside in zip(found[last], pair_remarks(metrics, before, after), strict=True)
        ]
    return found


def judge_lines(row: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What a judge said in a row of a contest, by model, as JSON holds it; empty where it said nothing."""
    found = {name: [asdict(remark) for remark in answer.get("said", ())] for name, answer in row["answers"].items()}
    return {name: said for name, said in found.items() if said}


def _match(
    first: Mapping[str, Sums], other: Mapping[str, Sums], deciding: str, slices: list[Slice], *, seed: int
) -> Match:
    changes = {metric: difference(first[metric], other[metric], seed=seed) for metric in first}
    before, after = first[deciding], other[deciding]
    gain = (after.by_row - before.by_row) * (-1 if after.higher_is_better is False else 1)
    wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
    ties = int((gain == 0).sum())  # a row that one of the two has no score for is none of them
    return Match(changes, wins, losses, ties, slices)


def _slices(before: Sums, after: Sums, groups: Mapping[str, list[int]], *, seed: int) -> list[Slice]:
    return [
        Slice(name, len(rows), difference(before.only(rows), after.only(rows), seed=seed))
        for name, rows in groups.items()
    ]


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


def _rows(
    asked: Sequence[Example],
    wanted: Sequence[str],
    answers: Mapping[str, Sequence[Answer]],
    deciding: Mapping[str, Sums],
    said: Mapping[str, Sequence[Sequence[Remark]]],
) -> list[dict[str, Any]]:
    by_row = {name: sums.by_row.tolist() for name, sums in deciding.items()}
    return [
        {
            "row": example.row,
            "sheet": example.sheet,
            **asked_of(example),
            "reference": reference or None,
            "answers": {
                name: {
                    "text": given[index].text,
                    "ended": given[index].ended,
                    **({"score": finite(by_row[name][index])} if name in by_row else {}),
                    **({"said": heard} if name in said and (heard := said[name][index]) else {}),
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
