"""Measure one model on the test rows.

Knows nothing of files: it makes their content, whoever owns the run directory writes it. Rows of plain text have no
question to ask, so their likelihood is all there is to measure. Where the answers are labels, both models choose among
the same labels, so the base is not marked down for writing something else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data import shorten_prompt
from tunesmith.errors import DataError
from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, choose_all, nll_all
from tunesmith.evaluate.choosing import OF_LABELS, OF_TEXT, OF_WRITTEN, select
from tunesmith.evaluate.evaluators import EVALUATORS, measure
from tunesmith.evaluate.judge import Judge
from tunesmith.evaluate.labels import LabelReport, report_labels
from tunesmith.evaluate.material import Rows, Tools, rows_of
from tunesmith.evaluate.paired import Floats, Sums, finite
from tunesmith.evaluate.tasks import TaskScores, task_scores
from tunesmith.generate import Choice
from tunesmith.model import memory_errors
from tunesmith.types import Encoded, Example, Message

if TYPE_CHECKING:
    from tunesmith.config import RunConfig
    from tunesmith.generate import Engine


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and how.

    scores: those that were selected, in the order of EVALUATORS.
    rows: one dict per answered question, in the order of the examples: row, sheet, question, reference, prediction,
        finish_reason, the scores that mean something for a single answer (None where it has none), and what a judge
        said. Of labels: the first five, probability (of the prediction) and reference_probability, None for a label
        that training has not seen.
    row_count: test rows that were measured, plain text included.
    skipped_rows: source rows without a question or an answer, or whose answer alone is too long for the context.
    tokens_per_second: tokens written per second; 0 when none were.
    seconds: of the whole measurement.
    settings: of generation, and the seed; of labels, training rows of each.
    by_label: what was chosen for what, where the answers are labels.
    asked, answers: the questions of `rows` and what was answered.
    tasks: the metrics of each task by itself, where there are several.
    deciding: the score that verdicts are about. why: these were selected.
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
    deciding: str | None = None
    why: str = ""

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
    tools: Tools | None = None,
) -> Evaluation:
    """Likelihood of the right answers, and scores of the answers that the model writes or the labels that it chooses.

    Args:
        engine: the model, its tokenizer and template.
        examples: test rows. Of a conversation, the last answer counts.
        encoded: the same rows as token ids, for the perplexity.
        config: how answers are written (`generate`), how many at once (`eval.batch_size`), and the seed of sampling.
        log: of this model with these settings: what is in it is not computed again.
        on_progress: called with (answers done, answers in all).
        labels: the labels to choose from, with their training rows; None or empty to let the model write.
        tools: of the settings, with a log of the judge's replies; unset, they are not kept.

    Raises:
        DataError: there is nothing to measure. SettingsError: a score of `eval.metrics` needs what is not there.
        ResourceError: a score's encoder or judge is not there; what was answered is in the log.
    """
    started = time.perf_counter()
    asked, prompts, texts, skipped = _sort(examples, engine, labels or {})
    if not asked and not texts:
        raise _nothing_to_measure(len(examples))
    can = OF_LABELS if asked and labels else OF_WRITTEN if asked else OF_TEXT
    files = [Path(path).stem for path in config.data.files]
    selection = select(config.eval, asked or texts, can=can, is_labels=bool(asked and labels), names=files)
    tools = tools or Tools.of(config.eval)
    with memory_errors("measuring the likelihood", fix="lower eval.batch_size, or take a smaller model"):
        nll = likelihood_rows(engine, encoded, log=log)
    answered = _Answers(Rows(nll=nll, tools=tools), [], [])
    if asked and labels:
        answered = _chosen(engine, asked, prompts, tuple(labels), config=config, log=log, on_progress=on_progress)
    elif asked:
        answered = _written(asked, _answers(engine, prompts, config, log, on_progress))
    scores = measure(selection.names, replace(answered.measured, nll=nll, tools=tools))
    if asked and not labels:
        _note_scores(answered, scores, tools.judge)
    return Evaluation(
        scores=scores,
        rows=answered.rows,
        row_count=len(asked) + len(texts),
        skipped_rows=tuple(example.row for example in skipped),
        tokens_per_second=answered.tokens_per_second,
        seconds=time.perf_counter() - started,
        settings={"labels": dict(labels)} if labels else {**config.generate.model_dump(), "seed": config.seed},
        by_label=answered.by_label,
        asked=asked,
        answers=answered.answers,
        tasks=task_scores(scores, *([row.task for row in rows] for rows in (encoded, asked, texts))),
        deciding=selection.deciding,
        why=selection.why,
    )


def _nothing_to_measure(rows: int) -> DataError:
    return DataError(
        f"none of the {rows} test rows can be asked" if rows else "the test set is empty",
        cause="a row needs a question and an answer that fit the model's context" if rows else None,
        fix="train with data.split.test above 0, or give rows with questions and answers: --data FILE",
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the questions brought to an `Evaluation`. measured: what their scores are made of."""

    measured: Rows
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


def likelihood_rows(engine: Engine, encoded: Sequence[Encoded], *, log: AnswerLog | None = None) -> Floats:
    """(rows, 3): nats, supervised tokens, and bytes of the text that they are, without special tokens.

    log: of this model; what is in it is not computed again.

    Raises:
        DataError: no row has a supervised token.
    """
    ids = [row.input_ids[row.supervised].tolist() for row in encoded]
    texts = [engine.tokenizer.decode(one, skip_special_tokens=True, clean_up_tokenization_spaces=False) for one in ids]
    sizes = np.array([len(str(text).encode()) for text in texts], dtype=np.float64)
    return np.concatenate([nll_all(engine, encoded, log=log), sizes[:, None]], axis=1)


def _written(asked: Sequence[Example], answers: Sequence[Answer]) -> _Answers:
    measured = rows_of(asked, answers)
    rows = [_row(example, answer) for example, answer in zip(asked, answers, strict=True)]
    seconds = sum(answer.seconds for answer in answers)
    return _Answers(measured, rows, answers, sum(answer.tokens for answer in answers) / seconds)


def _note_scores(answered: _Answers, scores: Mapping[str, Sums], judge: Judge | None) -> None:
    """Put into each row the scores that it has by itself, and what a judge said of it."""
    of = answered.measured
    for name, sums in scores.items():
        if EVALUATORS[name].of_row and EVALUATORS[name].needs in ("references", "writing"):
            for row, value in zip(answered.rows, sums.by_row.tolist(), strict=True):
                row[name] = finite(value)
        if judge is not None and name in ("judge_score", "judge_pass"):
            _, replies = judge.scores(name, of.questions, of.references, of.predictions)  # asked before: from the log
            for row, reply in zip(answered.rows, replies, strict=True):
                row[f"{name}_reply"] = reply


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
    measured = Rows(
        questions=[row["question"] for row in rows],
        predictions=[row["prediction"] for row in rows],
        references=[row["reference"] for row in rows],
        labels=labels,
        probabilities=[row["probability"] for row in rows],
        reference_probabilities=[row["reference_probability"] for row in rows],
    )
    return _Answers(measured, rows, answers, by_label=report)


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
        **({"task": example.task} if example.task is not None else {}),
    }
