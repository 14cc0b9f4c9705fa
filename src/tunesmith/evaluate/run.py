"""Measure one model on the test rows.

Knows nothing of files: it makes their content, whoever owns the run directory writes it. Rows of plain text have no
question to ask, so their likelihood is all there is to measure. Where the answers are labels, both models choose among
the same labels, so the base is not marked down for writing something else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data import shorten_prompt
from tunesmith.errors import DataError
from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, choose_all, nll_all, tokens_per_second
from tunesmith.evaluate.choosing import OF_LABELS, OF_TEXT, OF_WRITTEN, Selection, select
from tunesmith.evaluate.evaluators import EVALUATORS, measure
from tunesmith.evaluate.labels import LabelReport, report_labels
from tunesmith.evaluate.material import Rows, Tools, asked_of, rows_of
from tunesmith.evaluate.measured import Measured
from tunesmith.evaluate.paired import Floats, Sums, finite
from tunesmith.evaluate.remarks import remarks
from tunesmith.evaluate.tasks import TaskScores, task_scores
from tunesmith.generate import Choice
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
    asked, answers: the questions of `rows` and what was answered. places: theirs among the examples.
    scored: places of those whose likelihood was measured, a row of its scores each.
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
    places: Sequence[int] = ()
    scored: Sequence[int] = ()
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
        encoded: the same as token ids, for the perplexity; `row` is the place among the examples, and of a long text
            there are several.
        config: how answers are written (`generate`), how many at once (`eval.batch_size`), and the seed of sampling.
        log: of this model with these settings: what is in it is not computed again.
        on_progress: called with (answers done, answers in all).
        labels: the labels to choose from, with their training rows; None or empty to let the model write.
        tools: of the settings, with a log of the judge's replies; unset, they are not kept.

    Raises:
        DataError: there is nothing to measure. SettingsError: a score of `eval.metrics` needs what is not there.
        ResourceError: a score's encoder or judge is not there; what was answered is in the log.
    """
    measured = ask(engine, examples, encoded, config=config, log=log, on_progress=on_progress, labels=labels)
    return score(measured, examples, config=config, labels=labels, tools=tools)


def ask(
    engine: Engine,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    *,
    config: RunConfig,
    log: AnswerLog | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    labels: Mapping[str, int] | None = None,
    context_tokens: int | None = None,
) -> Measured:
    """The part of `evaluate` that needs the model; the arguments are its own.

    Args:
        context_tokens: as in `fitting_prompts`; None for that of the engine.

    Raises:
        DataError, SettingsError, ResourceError: as `evaluate`, of what can be told before a score is computed.
    """
    from tunesmith.model import memory_errors

    started = time.perf_counter()
    prompts, texts, skipped = _sort(
        examples, fitting_prompts(examples, engine, labels or (), context_tokens=context_tokens)
    )
    select_for(examples, list(prompts), texts, config=config, labels=labels)  # told before the model is asked
    with memory_errors("measuring the likelihood", fix="lower eval.batch_size, or take a smaller model"):
        scored, nll = likelihood_of(engine, encoded, log=log)
    size, asked = config.eval.batch_size, list(prompts.values())
    answers: list[Answer] = []
    choices: list[Choice] = []
    if asked and labels:
        _check_labels([examples[place] for place in prompts], labels)
        choices = choose_all(engine, asked, tuple(labels), batch_size=size, log=log, on_progress=on_progress)
    elif asked:
        answers = answer_all(
            engine, asked, config.generate, seed=config.seed, batch_size=size, log=log, on_progress=on_progress
        )
    return Measured(
        asked=list(prompts),
        texts=texts,
        skipped=skipped,
        scored=scored,
        tasks=[examples[place].task for place in scored],
        nll=nll,
        answers=answers,
        choices=choices,
        seconds=time.perf_counter() - started,
    )


def score(
    measured: Measured,
    examples: Sequence[Example],
    *,
    config: RunConfig,
    labels: Mapping[str, int] | None = None,
    tools: Tools | None = None,
) -> Evaluation:
    """The part of `evaluate` that needs no model.

    Args:
        measured: of the same examples, settings and labels.

    Raises:
        SettingsError, ResourceError: as `evaluate`.
    """
    started = time.perf_counter()
    selection = select_for(examples, measured.asked, measured.texts, config=config, labels=labels)
    asked = [examples[place] for place in measured.asked]
    answered = _Answers(Rows(), [], [])
    if measured.choices:
        answered = _chosen(asked, measured.choices)
    elif asked:
        answered = _written(asked, measured.answers)
    rows = replace(answered.measured, nll=measured.nll, tools=tools or Tools.of(config.eval))
    scores = measure(selection.names, rows)
    if asked and not labels:
        _note_scores(answered, scores, rows)
    of_tasks = ([example.task for example in asked], [examples[place].task for place in measured.texts])
    return Evaluation(
        scores=scores,
        rows=answered.rows,
        row_count=len(asked) + len(measured.texts),
        skipped_rows=tuple(examples[place].row for place in measured.skipped),
        tokens_per_second=answered.tokens_per_second,
        seconds=measured.seconds + time.perf_counter() - started,
        settings={"labels": dict(labels)} if labels else {**config.generate.model_dump(), "seed": config.seed},
        by_label=answered.by_label,
        asked=asked,
        answers=answered.answers,
        places=measured.asked,
        scored=measured.scored,
        tasks=task_scores(scores, measured.tasks, *of_tasks),
        deciding=selection.deciding,
        why=selection.why,
    )


def select_for(
    examples: Sequence[Example],
    asked: Sequence[int],
    texts: Sequence[int],
    *,
    config: RunConfig,
    labels: Mapping[str, int] | None,
) -> Selection:
    """The scores of a measurement.

    Raises:
        DataError: there is nothing to measure. SettingsError: a score of `eval.metrics` needs what is not there.
    """
    if not asked and not texts:
        raise _nothing_to_measure(len(examples))
    can = OF_LABELS if asked and labels else OF_WRITTEN if asked else OF_TEXT
    rows = [examples[place] for place in asked or texts]
    files = [Path(path).stem for path in config.data.files]
    return select(config.eval, rows, can=can, is_labels=bool(asked and labels), names=files)


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


def likelihood_rows(engine: Engine, encoded: Sequence[Encoded], *, log: AnswerLog | None = None) -> Floats:
    """(rows, 3): nats, supervised tokens, and bytes of the text that they are, without special tokens.

    The first token of a row is predicted by nothing: neither its nats nor its bytes count.

    log: of this model; what is in it is not computed again.

    Raises:
        DataError: no row has a supervised token.
    """
    ids = [row.input_ids[1:][row.supervised[1:]].tolist() for row in encoded]
    texts = [engine.tokenizer.decode(one, skip_special_tokens=True, clean_up_tokenization_spaces=False) for one in ids]
    sizes = np.array([len(str(text).encode()) for text in texts], dtype=np.float64)
    return np.concatenate([nll_all(engine, encoded, log=log), sizes[:, None]], axis=1)


def likelihood_of(
    engine: Engine, encoded: Sequence[Encoded], *, log: AnswerLog | None = None
) -> tuple[list[int], Floats]:
    """`likelihood_rows` with a row for each example, whose place is the `row` of its token ids; those places.

    The pieces of a long text are one row, as they are of one draw from what there is.
    """
    rows = {place: row for row, place in enumerate(dict.fromkeys(one.row for one in encoded))}
    summed = np.zeros((len(rows), 3))
    np.add.at(summed, [rows[one.row] for one in encoded], likelihood_rows(engine, encoded, log=log))
    return list(rows), summed


def _written(asked: Sequence[Example], answers: Sequence[Answer]) -> _Answers:
    measured = rows_of(asked, answers)
    rows = [_row(example, answer) for example, answer in zip(asked, answers, strict=True)]
    return _Answers(measured, rows, answers, tokens_per_second(answers))


def _note_scores(answered: _Answers, scores: Mapping[str, Sums], of: Rows) -> None:
    """Put into each row the scores that it has by itself, and what a judge said of it."""
    for name, sums in scores.items():
        if EVALUATORS[name].of_row and EVALUATORS[name].needs in ("references", "writing"):
            for row, value in zip(answered.rows, sums.by_row.tolist(), strict=True):
                row[name] = finite(value)
    for row, said in zip(answered.rows, remarks(scores, of), strict=True):
        row |= {f"{remark.metric}_reply": remark.text for remark in said}


def _check_labels(asked: Sequence[Example], labels: Collection[str]) -> None:
    """
    Raises:
        DataError: no row has one of the labels.
    """
    if not any(example.answer in labels for example in asked):
        raise DataError(
            f"none of the {len(asked)} test rows has a label that the run was trained on",
            cause=f"they have {asked[0].answer!r}, for example; the run knows {', '.join(map(repr, list(labels)[:5]))}",
            fix="give test rows with the labels of the training file, or train with these",
        )


def _chosen(asked: Sequence[Example], choices: Sequence[Choice]) -> _Answers:
    """A row whose label is none of those that there are counts as wrong and is left out of log_loss."""
    rows = [_label_row(example, choice) for example, choice in zip(asked, choices, strict=True)]
    report = report_labels([row["prediction"] for row in rows], [row["reference"] for row in rows])
    answers = [Answer(choice.label, ended=True, tokens=0, seconds=0.0) for choice in choices]
    logs = [dict(zip(choice.labels, choice.log_probabilities, strict=True)) for choice in choices]
    measured = Rows(
        questions=[row["question"] for row in rows],
        predictions=[row["prediction"] for row in rows],
        references=[row["reference"] for row in rows],
        labels=choices[0].labels,
        probabilities=[row["probability"] for row in rows],
        reference_log_probabilities=[of.get(example.answer) for of, example in zip(logs, asked, strict=True)],
    )
    return _Answers(measured, rows, answers, by_label=report)


def _sort(
    examples: Sequence[Example], fitting: Sequence[tuple[Message, ...]]
) -> tuple[dict[int, tuple[Message, ...]], list[int], list[int]]:
    """What each example is asked with, by its place; places of plain texts, and of those that are neither."""
    prompts = {place: prompt for place, prompt in enumerate(fitting) if prompt}
    texts = [place for place, example in enumerate(examples) if example.text is not None]
    others = [place for place, example in enumerate(examples) if example.text is None and place not in prompts]
    return prompts, texts, others


def fitting_prompts(
    examples: Sequence[Example], engine: Engine, labels: Collection[str] = (), *, context_tokens: int | None = None
) -> list[tuple[Message, ...]]:
    """The questions with room for the right answers, or for the longest label, shortened as in training.

    Args:
        context_tokens: longest question and answer together; None for those of the engine. With the context of the one
            that takes less, two models are asked the same.

    Returns:
        for each example, what it is asked with: nothing where there is no answer, or no room for it.
    """
    longest = max(labels, key=lambda label: len(engine.tokenizer.encode(label)), default=None)
    limit = context_tokens or engine.context_tokens
    return [_prompt_that_fits(example, engine, longest, limit) for example in examples]


def _prompt_that_fits(example: Example, engine: Engine, longest: str | None, limit: int | None) -> tuple[Message, ...]:
    if not example.prompt or not example.answer.strip():
        return ()
    if limit is None:
        return example.prompt
    if longest is not None:  # how much of a question is read must not depend on its label
        example = replace(example, messages=(*example.prompt, Message("assistant", longest)))
    try:
        shorter = shorten_prompt(example, engine.template, engine.tokenizer, max_length=limit)
    except DataError:  # such as a chat template that wants roles to alternate
        return ()
    return shorter.prompt if shorter else ()


def _label_row(example: Example, choice: Choice) -> dict[str, Any]:
    probabilities = dict(zip(choice.labels, choice.probabilities, strict=True))
    return {
        "row": example.row,
        "sheet": example.sheet,
        **asked_of(example),
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
        **asked_of(example),
        "reference": example.answer,
        "prediction": answer.text,
        "finish_reason": "stop" if answer.ended else "length",
        **({"task": example.task} if example.task is not None else {}),
    }
