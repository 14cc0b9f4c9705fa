"""Measure one model on the test rows, and set two measurements of the same rows side by side.

Knows nothing of files: it makes their content, whoever owns the run directory writes it. Rows of plain text have no
question to ask, so perplexity is their only metric.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.data import shorten_prompt
from tunesmith.errors import DataError
from tunesmith.evaluate.likelihood import mean_nll
from tunesmith.evaluate.tasks import TaskScores, by_task, task_scores, together
from tunesmith.evaluate.text import EVALUATORS, score_row
from tunesmith.model import memory_errors
from tunesmith.types import Encoded, Example, Message

if TYPE_CHECKING:
    from tunesmith.config import GenerateConfig
    from tunesmith.generate import Engine

# For some architectures scoring holds logits of whole sequences (rows x tokens x vocabulary), writing never does.
_ASKED = ("row", "sheet", "task", "question", "reference")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and how.

    metrics: perplexity, then every name of EVALUATORS (0 to 1); perplexity alone when all rows are plain text.
    rows: one dict per answered question, in the order of the examples: row, sheet, question, reference, prediction,
        finish_reason, exact_match, token_f1, rougeL.
    row_count: test rows that were measured, plain text included.
    skipped_rows: source rows without a question or an answer, or whose answer alone is too long for the context.
    tokens_per_second: tokens written per second; 0 when none were.
    seconds: of the whole measurement.
    settings: of generation, and the seed.
    tasks: the metrics of each task by itself, where there are several.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    row_count: int
    skipped_rows: tuple[int, ...]
    tokens_per_second: float
    seconds: float
    settings: dict[str, Any]
    tasks: dict[str, TaskScores] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One line of the table: `change` = tuned - base; `verdict` knows which direction is good."""

    metric: str
    base: float
    tuned: float
    change: float
    verdict: Literal["better", "worse", "same"]


def evaluate(
    engine: Engine,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    *,
    settings: GenerateConfig,
    batch_size: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Perplexity of the right answers, and scores of the answers that the model writes itself.

    Args:
        engine: the model, its tokenizer and template.
        examples: test rows. Of a conversation, the last answer counts.
        encoded: the same rows as token ids, for the perplexity.
        batch_size: answers written at once.
        seed: of the sampling.
        on_progress: called with (answers done, answers in all).

    Raises:
        DataError: there is nothing to measure.
    """
    started = time.perf_counter()
    asked, prompts, texts, skipped = _sort(examples, engine)
    if not asked and not texts:
        found = f"none of the {len(examples)} test rows can be asked" if examples else "the test set is empty"
        raise DataError(
            found,
            cause="a row needs a question and an answer that fit the model's context" if examples else None,
            fix="raise data.split.test, or name a file with questions and answers in data.test_path",
        )
    with memory_errors("measuring the likelihood", fix="lower eval.batch_size, or take a smaller model"):
        likelihoods = {task: mean_nll(engine.model, of_task) for task, of_task in by_task(encoded).items()}
    metrics = {"perplexity": together(list(likelihoods.values())).perplexity}
    rows: list[dict[str, Any]] = []
    tokens_per_second = 0.0
    if asked:
        writing = time.perf_counter()
        answers = engine.generate(prompts, settings, seed=seed, batch_size=batch_size, on_progress=on_progress)
        tokens_per_second = sum(len(answer.token_ids) for answer in answers) / (time.perf_counter() - writing)
        rows = [
            _row(example, answer.text, answer.finish_reason) for example, answer in zip(asked, answers, strict=True)
        ]
        written, wanted = [row["prediction"] for row in rows], [row["reference"] for row in rows]
        metrics |= {name: score(written, wanted) for name, score in EVALUATORS.items()}
    return Evaluation(
        metrics=metrics,
        rows=rows,
        row_count=len(asked) + len(texts),
        skipped_rows=tuple(example.row for example in skipped),
        tokens_per_second=tokens_per_second,
        seconds=time.perf_counter() - started,
        settings={**settings.model_dump(), "seed": seed},
        tasks=task_scores(likelihoods, rows, [example.task for example in texts]),
    )


def compare_table(base: Evaluation, tuned: Evaluation) -> list[MetricChange]:
    """One line per metric. Lower is better for perplexity, higher for all others."""
    table = []
    for metric, before in base.metrics.items():
        after = tuned.metrics[metric]
        gain = before - after if metric == "perplexity" else after - before
        verdict: Literal["better", "worse", "same"] = "better" if gain > 0 else "worse" if gain < 0 else "same"
        table.append(MetricChange(metric, before, after, after - before, verdict))
    return table


def summarise(base: Evaluation, tuned: Evaluation) -> dict[str, Any]:
    """Content of eval/summary.json. A number that JSON cannot hold (an infinite perplexity) is None.

    Raises:
        ValueError: the two did not measure the same rows.
    """
    _check_same_rows(base, tuned)
    return {
        "schema_version": 1,
        "rows": tuned.row_count,
        "skipped_rows": list(tuned.skipped_rows),
        "base": _finite_metrics(base.metrics),
        "tuned": _finite_metrics(tuned.metrics),
        "tasks": {
            task: {
                "rows": after.row_count,
                "base": _finite_metrics(base.tasks[task].metrics),
                "tuned": _finite_metrics(after.metrics),
            }
            for task, after in tuned.tasks.items()
        },
        "settings": tuned.settings,
        "seconds": {"base": base.seconds, "tuned": tuned.seconds},
        "tokens_per_second": {"base": base.tokens_per_second, "tuned": tuned.tokens_per_second},
    }


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
    examples: Sequence[Example], engine: Engine
) -> tuple[list[Example], list[tuple[Message, ...]], list[Example], list[Example]]:
    """Examples to ask, what each is asked with, plain texts, and those that are neither."""
    asked: list[Example] = []
    prompts: list[tuple[Message, ...]] = []
    texts: list[Example] = []
    skipped: list[Example] = []
    for example in examples:
        if example.text is not None:
            texts.append(example)
        elif prompt := _prompt_that_fits(example, engine):
            asked.append(example)
            prompts.append(prompt)
        else:
            skipped.append(example)
    return asked, prompts, texts, skipped


def _prompt_that_fits(example: Example, engine: Engine) -> tuple[Message, ...]:
    """The question with room for the right answer, shortened as in training; empty when there is none."""
    if not example.prompt or not example.answer.strip():
        return ()
    if engine.context_tokens is None:
        return example.prompt
    try:
        shorter = shorten_prompt(example, engine.template, engine.tokenizer, max_length=engine.context_tokens)
    except DataError:  # such as a chat template that wants roles to alternate
        return ()
    return shorter.prompt if shorter else ()


def _row(example: Example, prediction: str, finish_reason: str) -> dict[str, Any]:
    return {
        "row": example.row,
        "sheet": example.sheet,
        "question": example.question,
        "reference": example.answer,
        "prediction": prediction,
        "finish_reason": finish_reason,
        **score_row(prediction, example.answer),
        **({"task": example.task} if example.task is not None else {}),
    }


def _check_same_rows(base: Evaluation, tuned: Evaluation) -> None:
    same = [_part(row, asked=True) for row in base.rows] == [_part(row, asked=True) for row in tuned.rows]
    if not same or base.row_count != tuned.row_count or base.metrics.keys() != tuned.metrics.keys():
        raise ValueError("the two evaluations did not measure the same rows")


def _part(row: dict[str, Any], *, asked: bool) -> dict[str, Any]:
    return {name: value for name, value in row.items() if (name in _ASKED) == asked}


def _finite_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
