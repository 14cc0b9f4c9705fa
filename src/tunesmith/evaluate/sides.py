"""Two measurements of the same rows side by side: the table, the files and the contest of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tunesmith.evaluate.contests import Contest, hold, said_of
from tunesmith.evaluate.evaluators import is_likelihood, preference_sums
from tunesmith.evaluate.judge import PREFERENCE, Judge
from tunesmith.evaluate.labels import Bin, LabelReport, calibration_bins
from tunesmith.evaluate.material import Tools, rows_of
from tunesmith.evaluate.paired import Sums, difference, finite
from tunesmith.evaluate.remarks import Remark, pair_remarks
from tunesmith.evaluate.run import Evaluation
from tunesmith.evaluate.titles import MetricChange

_ASKED = ("row", "sheet", "task", "question", "conversation", "reference")


def with_preference(base: Evaluation, tuned: Evaluation, judge: Judge) -> tuple[Evaluation, Evaluation]:
    """The two with judge_preference among their scores and in their rows; what was said of a pair is in the second's.

    Raises:
        ResourceError: the judge does not answer; what it has said is kept. DataError: no reply has a score.
    """
    _check_same_rows(base, tuned)
    tools = Tools(judge=judge)
    before, after = (replace(rows_of(side.asked, side.answers), tools=tools) for side in (base, tuned))
    of_base, of_tuned = preference_sums(judge, before, after)
    said = pair_remarks((PREFERENCE,), before, after)
    return _preferred(base, of_base, [[] for _ in said]), _preferred(tuned, of_tuned, said)


def _preferred(side: Evaluation, sums: Sums, said: Sequence[Sequence[Remark]]) -> Evaluation:
    rows = [
        {**row, PREFERENCE: finite(value), **{f"{PREFERENCE}_reply": remark.text for remark in heard}}
        for row, value, heard in zip(side.rows, sums.by_row.tolist(), said, strict=True)
    ]
    return replace(side, rows=rows, scores={**side.scores, PREFERENCE: sums})


def compare_table(base: Evaluation, tuned: Evaluation) -> list[MetricChange]:
    """One line per metric, with the interval of the change and what it allows to say.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    _check_same_rows(base, tuned)
    table = []
    for metric, before in base.scores.items():
        found = difference(before, tuned.scores[metric], seed=tuned.settings.get("seed", 0))
        table.append(MetricChange.of(metric, found))
    return table


def summarise(base: Evaluation, tuned: Evaluation) -> dict[str, Any]:
    """Content of eval/summary.json. A number that JSON cannot hold (an infinite perplexity) is None.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    changes = compare_table(base, tuned)
    labels = {"labels": summarise_labels(base, tuned)} if tuned.by_label else {}
    return {
        "schema_version": 1,
        "rows": tuned.row_count,
        "skipped_rows": list(tuned.skipped_rows),
        "base": {line.metric: finite(line.base) for line in changes},
        "tuned": {line.metric: finite(line.tuned) for line in changes},
        "change": {
            line.metric: {"low": finite(line.low), "high": finite(line.high), "verdict": line.verdict}
            for line in changes
        },
        "tasks": {
            task: {
                "rows": after.row_count,
                "base": _finite_metrics(base.tasks[task].metrics),
                "tuned": _finite_metrics(after.metrics),
            }
            for task, after in tuned.tasks.items()
        },
        "settings": tuned.settings,
        "deciding": tuned.deciding,
        "why": tuned.why,
        "seconds": {"base": base.seconds, "tuned": tuned.seconds},
        "tokens_per_second": {"base": base.tokens_per_second, "tuned": tuned.tokens_per_second},
        **labels,
    }


def summarise_labels(base: Evaluation, tuned: Evaluation) -> dict[str, Any]:
    """What a summary says of labels.

    training_rows: of each label. always: the label with most training rows, and the accuracy of always giving it.
    unseen: test rows of each label that no training row has. base, tuned: the scores of each label. calibration: bins
    of both, where it was measured.
    """
    training_rows: dict[str, int] = tuned.settings["labels"]
    wanted = Counter(row["reference"] for row in tuned.rows)
    found = calibrations(base, tuned)
    always = max(training_rows, key=training_rows.__getitem__)
    return {
        "training_rows": training_rows,
        "always": {"label": always, "accuracy": wanted[always] / wanted.total()},
        "unseen": {label: rows for label, rows in sorted(wanted.items()) if label not in training_rows},
        "base": _class_scores(base.by_label),
        "tuned": _class_scores(tuned.by_label),
        **({"calibration": {name: asdict(side) for name, side in found.items()}} if found else {}),
    }


def confusions(base: Evaluation, tuned: Evaluation) -> dict[str, Any]:
    """Content of eval/confusion.json: under base and tuned the labels, and rows of label i given label j."""
    sides = {"base": base.by_label, "tuned": tuned.by_label}
    return {
        "schema_version": 1,
        **{name: {"labels": by.labels, "confusion": by.confusion} for name, by in sides.items() if by is not None},
    }


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far one model's probabilities can be trusted: their error and the bins that it comes from."""

    error: float
    bins: tuple[Bin, ...]


def calibrations(base: Evaluation, tuned: Evaluation) -> dict[str, Calibration]:
    """Of base and tuned, where calibration is among their scores; else empty."""
    found = {}
    for name, side in (("base", base), ("tuned", tuned)):
        if "calibration_error" in side.scores:
            is_right = [row["prediction"] == row["reference"] for row in side.rows]
            bins = calibration_bins([row["probability"] for row in side.rows], is_right)
            found[name] = Calibration(side.scores["calibration_error"].value, bins)
    return found


def _class_scores(report: LabelReport | None) -> dict[str, Any]:
    return {label: asdict(scores) for label, scores in report.classes.items()} if report else {}


def contest(base: Evaluation, tuned: Evaluation, tools: Tools | None = None) -> Contest:
    """The two held against each other, for the report.

    tools: with the judge of their scores, whose log has what it said of each answer.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    _check_same_rows(base, tuned)
    sides = {"base": base, "tuned": tuned}
    judged = {name: replace(rows_of(side.asked, side.answers), tools=tools or Tools()) for name, side in sides.items()}
    return hold(
        tuned.asked,
        {name: side.answers for name, side in sides.items()},
        scores={name: side.scores for name, side in sides.items()},
        deciding=tuned.deciding,
        by_question={name: _by_question(side, tuned.deciding) for name, side in sides.items()}
        if tuned.deciding
        else {},
        said=said_of(tuned.scores, judged),
        is_labels=tuned.by_label is not None,
        seed=tuned.settings.get("seed", 0),
    )


def _by_question(side: Evaluation, deciding: str) -> Sums:
    """A score with a row for each question. Those of the likelihood are of all examples that have one."""
    sums = side.scores[deciding]
    if not is_likelihood(deciding):
        return sums
    row_of = {place: row for row, place in enumerate(side.scored)}
    nothing = np.zeros(sums.rows.shape[1])  # which has no score
    rows = [sums.rows[row_of[place]] if place in row_of else nothing for place in side.places]
    return replace(sums, rows=np.array(rows).reshape(-1, len(nothing)))


def predictions(base: Evaluation, tuned: Evaluation) -> list[dict[str, Any]]:
    """Lines of eval/predictions.jsonl: row, sheet, what was asked, reference, and under base and tuned what each wrote.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    _check_same_rows(base, tuned)
    return [
        {**_part(after, asked=True), "base": _part(before, asked=False), "tuned": _part(after, asked=False)}
        for before, after in zip(base.rows, tuned.rows, strict=True)
    ]


def _check_same_rows(base: Evaluation, tuned: Evaluation) -> None:
    same = [_part(row, asked=True) for row in base.rows] == [_part(row, asked=True) for row in tuned.rows]
    if not same or base.row_count != tuned.row_count or base.scores.keys() != tuned.scores.keys():
        raise ValueError("the two evaluations did not measure the same rows")


def _part(row: dict[str, Any], *, asked: bool) -> dict[str, Any]:
    return {name: value for name, value in row.items() if (name in _ASKED) == asked}


def _finite_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in metrics.items()}
