"""Measure one model on the test rows, and set two measurements of the same rows side by side.

Knows nothing of files: it makes their content, whoever owns the run directory writes it. Rows of plain text have no
question to ask, so perplexity is their only metric. Where the answers are labels, both models choose among the same
labels, so the base is not marked down for writing something else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.data import shorten_prompt
from tunesmith.errors import DataError
from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all
from tunesmith.evaluate.contests import Contest, hold
from tunesmith.evaluate.labels import LabelReport, label_scores, report_labels
from tunesmith.evaluate.likelihood import perplexity_of, row_nll
from tunesmith.evaluate.paired import Sums, Verdict, difference, finite
from tunesmith.evaluate.text import EVALUATORS, score_row
from tunesmith.evaluate.titles import AS_IT_IS, metric_title
from tunesmith.generate import Choice, choose
from tunesmith.model import memory_errors
from tunesmith.types import Encoded, Example, Message

if TYPE_CHECKING:
    from tunesmith.config import RunConfig
    from tunesmith.generate import Engine

# For some architectures scoring holds logits of whole sequences (rows x tokens x vocabulary), writing never does.
_ASKED = ("row", "sheet", "question", "reference")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and how.

    scores: perplexity, then every name of EVALUATORS (0 to 1); perplexity alone when all rows are plain text. Of
        labels: perplexity, accuracy, macro_f1, log_loss, calibration_error.
    rows: one dict per answered question, in the order of the examples: row, sheet, question, reference, prediction,
        finish_reason, exact_match, token_f1, rougeL. Of labels: the first five, probability (of the prediction) and
        reference_probability, None for a label that training has not seen.
    row_count: test rows that were measured, plain text included.
    skipped_rows: source rows without a question or an answer, or whose answer alone is too long for the context.
    tokens_per_second: tokens written per second; 0 when none were.
    seconds: of the whole measurement.
    settings: of generation, and the seed; of labels, training rows of each.
    by_label: what was chosen for what, where the answers are labels.
    asked, answers: the questions of `rows` and what was answered.
    """

    scores: dict[str, Sums]
    rows: list[dict[str, Any]]
    row_count: int
    skipped_rows: tuple[int, ...]
    tokens_per_second: float
    seconds: float
    settings: dict[str, Any]
    by_label: LabelReport | None = None
    asked: Sequence[Example] = ()
    answers: Sequence[Answer] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The value of each score."""
        return {name: score.value for name, score in self.scores.items()}


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One line of the table: `change` = tuned - base, its interval, and whether tuned is better."""

    metric: str
    base: float
    tuned: float
    change: float
    low: float
    high: float
    verdict: Verdict

    @property
    def title(self) -> str:
        """The metric as people read it."""
        return metric_title(self.metric)

    @property
    def is_share(self) -> bool:
        """Whether its values lie between 0 and 1 and are written out of 100."""
        return self.metric not in AS_IT_IS


def evaluate(
    engine: Engine,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    *,
    config: RunConfig,
    log: AnswerLog | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    labels: Mapping[str, int] | None = None,
) -> Evaluation:
    """Perplexity of the right answers, and scores of the answers that the model writes or the labels that it chooses.

    Args:
        engine: the model, its tokenizer and template.
        examples: test rows. Of a conversation, the last answer counts.
        encoded: the same rows as token ids, for the perplexity.
        config: how answers are written (`generate`), how many at once (`eval.batch_size`), and the seed of sampling.
        log: of this model with these settings: what is in it is not asked again.
        on_progress: called with (answers done, answers in all).
        labels: the labels to choose from, with their training rows; None or empty to let the model write.

    Raises:
        DataError: there is nothing to measure.
    """
    started = time.perf_counter()
    asked, prompts, texts, skipped = _sort(examples, engine, labels or {})
    if not asked and not texts:
        found = f"none of the {len(examples)} test rows can be asked" if examples else "the test set is empty"
        raise DataError(
            found,
            cause="a row needs a question and an answer that fit the model's context" if examples else None,
            fix="raise data.split.test, or name a file with questions and answers in data.test_path",
        )
    with memory_errors("measuring the likelihood", fix="lower eval.batch_size, or take a smaller model"):
        perplexity = perplexity_of(row_nll(engine.model, encoded))
    answered = _Answers({}, [], [])
    if asked and labels:
        answered = _chosen(
            engine, asked, prompts, tuple(labels), batch_size=config.eval.batch_size, on_progress=on_progress
        )
    elif asked:
        answered = _written(asked, _answers(engine, prompts, config, log, on_progress))
    return Evaluation(
        scores={"perplexity": perplexity, **answered.scores},
        rows=answered.rows,
        row_count=len(asked) + len(texts),
        skipped_rows=tuple(example.row for example in skipped),
        tokens_per_second=answered.tokens_per_second,
        seconds=time.perf_counter() - started,
        settings={"labels": dict(labels)} if labels else {**config.generate.model_dump(), "seed": config.seed},
        by_label=answered.by_label,
        asked=asked,
        answers=answered.answers,
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the questions brought to an `Evaluation`."""

    scores: dict[str, Sums]
    rows: list[dict[str, Any]]
    answers: Sequence[Answer]
    tokens_per_second: float = 0.0
    by_label: LabelReport | None = None


def _answers(
    engine: Engine,
    prompts: Sequence[Sequence[Message]],
    config: RunConfig,
    log: AnswerLog | None,
    on_progress: Callable[[int, int], None] | None,
) -> list[Answer]:
    return answer_all(
        engine,
        prompts,
        config.generate,
        seed=config.seed,
        batch_size=config.eval.batch_size,
        log=log,
        on_progress=on_progress,
    )


def _written(asked: Sequence[Example], answers: Sequence[Answer]) -> _Answers:
    rows = [_row(example, answer) for example, answer in zip(asked, answers, strict=True)]
    written, wanted = [row["prediction"] for row in rows], [row["reference"] for row in rows]
    scores = {name: evaluator.sums(written, wanted) for name, evaluator in EVALUATORS.items()}
    seconds = sum(answer.seconds for answer in answers)
    return _Answers(scores, rows, answers, sum(answer.tokens for answer in answers) / seconds)


def _chosen(
    engine: Engine,
    asked: Sequence[Example],
    prompts: Sequence[Sequence[Message]],
    labels: tuple[str, ...],
    *,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
) -> _Answers:
    """Let the model choose. A row whose label is none of them counts as wrong and is left out of log_loss.

    Raises:
        DataError: no row has one of the labels.
    """
    if not any(example.answer in labels for example in asked):
        raise DataError(
            f"none of the {len(asked)} test rows has a label that the run was trained on",
            cause=f"they have {asked[0].answer!r}, for example; the run knows {', '.join(map(repr, labels[:5]))}",
            fix="give test rows with the labels of the training file, or train with these",
        )
    choices = choose(engine, prompts, labels, batch_size=batch_size, on_progress=on_progress)
    rows = [_label_row(example, choice) for example, choice in zip(asked, choices, strict=True)]
    report = report_labels([row["prediction"] for row in rows], [row["reference"] for row in rows])
    answers = [Answer(choice.label, ended=True, tokens=0, seconds=0.0) for choice in choices]
    return _Answers(label_scores(rows), rows, answers, by_label=report)


def compare_table(base: Evaluation, tuned: Evaluation) -> list[MetricChange]:
    """One line per metric, with the interval of the change and what it allows to say.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    _check_same_rows(base, tuned)
    table = []
    for metric, before in base.scores.items():
        found = difference(before, tuned.scores[metric], seed=tuned.settings.get("seed", 0))
        table.append(
            MetricChange(metric, found.before, found.after, found.change, found.low, found.high, found.verdict)
        )
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
        "settings": tuned.settings,
        "seconds": {"base": base.seconds, "tuned": tuned.seconds},
        "tokens_per_second": {"base": base.tokens_per_second, "tuned": tuned.tokens_per_second},
        **labels,
    }


def summarise_labels(base: Evaluation, tuned: Evaluation) -> dict[str, Any]:
    """What a summary says of labels.

    training_rows: of each label. always: the label with most training rows, and the accuracy of always giving it.
    unseen: test rows of each label that no training row has. base, tuned: the scores of each label.
    """
    training_rows: dict[str, int] = tuned.settings["labels"]
    wanted = Counter(row["reference"] for row in tuned.rows)
    always = max(training_rows, key=training_rows.__getitem__)
    return {
        "training_rows": training_rows,
        "always": {"label": always, "accuracy": wanted[always] / wanted.total()},
        "unseen": {label: rows for label, rows in sorted(wanted.items()) if label not in training_rows},
        "base": _class_scores(base.by_label),
        "tuned": _class_scores(tuned.by_label),
    }


def confusions(base: Evaluation, tuned: Evaluation) -> dict[str, Any]:
    """Content of eval/confusion.json: under base and tuned the labels, and rows of label i given label j."""
    sides = {"base": base.by_label, "tuned": tuned.by_label}
    return {
        "schema_version": 1,
        **{name: {"labels": by.labels, "confusion": by.confusion} for name, by in sides.items() if by is not None},
    }


def _class_scores(report: LabelReport | None) -> dict[str, Any]:
    return {label: asdict(scores) for label, scores in report.classes.items()} if report else {}


def contest(base: Evaluation, tuned: Evaluation) -> Contest:
    """The two held against each other, for the report.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    _check_same_rows(base, tuned)
    sides = {"base": base, "tuned": tuned}
    return hold(
        tuned.asked,
        {name: side.answers for name, side in sides.items()},
        scores={name: side.scores for name, side in sides.items()},
        seed=tuned.settings.get("seed", 0),
    )


def predictions(base: Evaluation, tuned: Evaluation) -> list[dict[str, Any]]:
    """Lines of eval/predictions.jsonl: row, sheet, question, reference, and under base and tuned what each wrote.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    _check_same_rows(base, tuned)
    return [
        {**_part(after, asked=True), "base": _part(before, asked=False), "tuned": _part(after, asked=False)}
        for before, after in zip(base.rows, tuned.rows, strict=True)
    ]


def _sort(
    examples: Sequence[Example], engine: Engine, labels: Mapping[str, int]
) -> tuple[list[Example], list[tuple[Message, ...]], list[Example], list[Example]]:
    """Examples to ask, what each is asked with, plain texts, and those that are neither."""
    longest = max(labels, key=lambda label: len(engine.tokenizer.encode(label)), default=None)
    asked: list[Example] = []
    prompts: list[tuple[Message, ...]] = []
    texts: list[Example] = []
    skipped: list[Example] = []
    for example in examples:
        if example.text is not None:
            texts.append(example)
        elif prompt := _prompt_that_fits(example, engine, longest):
            asked.append(example)
            prompts.append(prompt)
        else:
            skipped.append(example)
    return asked, prompts, texts, skipped


def _prompt_that_fits(example: Example, engine: Engine, longest: str | None) -> tuple[Message, ...]:
    """The question with room for the right answer, or for the longest label; empty when there is none.

    It is shortened as in training.
    """
    if not example.prompt or not example.answer.strip():
        return ()
    if engine.context_tokens is None:
        return example.prompt
    if longest is not None:  # how much of a question is read must not depend on its label
        example = replace(example, messages=(*example.prompt, Message("assistant", longest)))
    try:
        shorter = shorten_prompt(example, engine.template, engine.tokenizer, max_length=engine.context_tokens)
    except DataError:  # such as a chat template that wants roles to alternate
        return ()
    return shorter.prompt if shorter else ()


def _label_row(example: Example, choice: Choice) -> dict[str, Any]:
    probabilities = dict(zip(choice.labels, choice.probabilities, strict=True))
    return {
        "row": example.row,
        "sheet": example.sheet,
        "question": example.question,
        "reference": example.answer,
        "prediction": choice.label,
        "probability": choice.probability,
        "reference_probability": probabilities.get(example.answer),
    }


def _row(example: Example, answer: Answer) -> dict[str, Any]:
    return {
        "row": example.row,
        "sheet": example.sheet,
        "question": example.question,
        "reference": example.answer,
        "prediction": answer.text,
        "finish_reason": "stop" if answer.ended else "length",
        **score_row(answer.text, example.answer),
    }


def _check_same_rows(base: Evaluation, tuned: Evaluation) -> None:
    same = [_part(row, asked=True) for row in base.rows] == [_part(row, asked=True) for row in tuned.rows]
    if not same or base.row_count != tuned.row_count or base.scores.keys() != tuned.scores.keys():
        raise ValueError("the two evaluations did not measure the same rows")


def _part(row: dict[str, Any], *, asked: bool) -> dict[str, Any]:
    return {name: value for name, value in row.items() if (name in _ASKED) == asked}
