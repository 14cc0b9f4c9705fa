"""Measure one model on the test rows.

Knows nothing of files: it makes their content, whoever owns the run directory writes it. Rows of plain text have no
question to ask, so perplexity is their only metric. Where the answers are labels, both models choose among the same
labels, so the base is not marked down for writing something else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tunesmith.data import shorten_prompt
from tunesmith.errors import DataError
from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, choose_all, nll_all
from tunesmith.evaluate.labels import LabelReport, label_scores, report_labels
from tunesmith.evaluate.likelihood import perplexity_of
from tunesmith.evaluate.paired import Sums
from tunesmith.evaluate.tasks import TaskScores, task_scores
from tunesmith.evaluate.text import EVALUATORS, score_row
from tunesmith.generate import Choice
from tunesmith.model import memory_errors
from tunesmith.types import Encoded, Example, Message

if TYPE_CHECKING:
    from tunesmith.config import RunConfig
    from tunesmith.generate import Engine


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
    tasks: the metrics of each task by itself, where there are several.
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
    tasks: dict[str, TaskScores] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The value of each score."""
        return {name: score.value for name, score in self.scores.items()}


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
        log: of this model with these settings: what is in it is not computed again.
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
            fix="train with data.split.test above 0, or give rows with questions and answers: --data FILE",
        )
    with memory_errors("measuring the likelihood", fix="lower eval.batch_size, or take a smaller model"):
        perplexity = perplexity_of(nll_all(engine, encoded, log=log))
    answered = _Answers({}, [], [])
    if asked and labels:
        answered = _chosen(engine, asked, prompts, tuple(labels), config=config, log=log, on_progress=on_progress)
    elif asked:
        answered = _written(asked, _answers(engine, prompts, config, log, on_progress))
    tasks = [[row.task for row in rows] for rows in (encoded, asked, texts)]
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
        tasks=task_scores(perplexity, tasks[0], answered.scores, tasks[1], tasks[2]),
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
    config: RunConfig,
    log: AnswerLog | None,
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
    size = config.eval.batch_size
    choices = choose_all(engine, prompts, labels, batch_size=size, log=log, on_progress=on_progress)
    rows = [_label_row(example, choice) for example, choice in zip(asked, choices, strict=True)]
    report = report_labels([row["prediction"] for row in rows], [row["reference"] for row in rows])
    answers = [Answer(choice.label, ended=True, tokens=0, seconds=0.0) for choice in choices]
    return _Answers(label_scores(rows, labels), rows, answers, by_label=report)


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
        **({"task": example.task} if example.task is not None else {}),
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
        **({"task": example.task} if example.task is not None else {}),
    }
