"""`ModelEvaluator`: score whatever writes text, a function of yours included, by the scores of `tunesmith eval`.

evaluator = ModelEvaluator()
evaluator.add_metric(EvaluationMetric("polite", MetricType.CUSTOM, function=lambda answer, _: "please" in answer))
report = evaluator.evaluate_model(model_name="faq", generate_func=finetuner.generate, dataset=rows)
print(report.to_text())
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.api.arguments import check_kind
from tunesmith.api.records import tools_of
from tunesmith.api.rows import examples_of
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import (
    EVALUATORS,
    Interval,
    Need,
    Rows,
    Sums,
    Tools,
    finite,
    interval,
    mean_of,
    references_of,
    select,
)
from tunesmith.runs import append_line
from tunesmith.types import Example


class MetricType(Enum):
    """A score that ships (docs/evaluation.md says what each is), or CUSTOM: a function of yours."""

    PERPLEXITY = "perplexity"
    BITS_PER_BYTE = "bits_per_byte"
    EXACT_MATCH = "exact_match"
    TOKEN_F1 = "token_f1"
    BLEU = "bleu"
    CHRF = "chrf"
    ROUGE1 = "rouge1"
    ROUGE2 = "rouge2"
    ROUGEL = "rougeL"
    SEMANTIC_SIMILARITY = "semantic_similarity"
    ACCURACY = "accuracy"
    MACRO_F1 = "macro_f1"
    MICRO_F1 = "micro_f1"
    REPETITION = "repetition"
    WORDS = "words"
    LENGTH_RATIO = "length_ratio"
    CONTAINS = "contains"
    EQUALS = "equals"
    REGEX = "regex"
    NUMBER = "number"
    JSON_SCHEMA = "json_schema"
    JUDGE_SCORE = "judge_score"
    JUDGE_PASS = "judge_pass"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class EvaluationMetric:
    """One score of a report.

    function: of a CUSTOM metric: (answer, reference) -> a number for this row; the metric is the mean over rows. A
        CUSTOM metric without one is the score of that name, where one ships; else the report lists it as not measured.
    """

    name: str
    metric_type: MetricType
    description: str = ""
    function: Callable[[str, str], float] | None = None

    def __post_init__(self) -> None:
        fix = f"give one such as MetricType.BLEU: {', '.join(one.name for one in MetricType)}"
        check_kind("metric_type", self.metric_type, MetricType, fix=fix)
        if self.function is not None and self.metric_type is not MetricType.CUSTOM:
            raise SettingsError(
                f"the metric {self.name!r} has a function and is of the type {self.metric_type.name}",
                fix="make it MetricType.CUSTOM, or leave the function out",
            )

    @property
    def evaluator(self) -> str | None:
        """Name of the score that ships, if it is one."""
        if self.metric_type is not MetricType.CUSTOM:
            return str(self.metric_type.value)
        return self.name if self.function is None and self.name in EVALUATORS else None


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What was measured. metrics: by name, with 95 % intervals. not_measured: the others, and why.

    rows: question, reference and prediction, in the order of the data. seconds: of all calls of `generate_func`.
    """

    model_name: str
    metrics: dict[str, Interval]
    not_measured: dict[str, str]
    rows: list[dict[str, str]]
    seconds: float

    def to_text(self) -> str:
        """A line for each metric."""
        lines = [
            f"{name}: {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" for name, found in self.metrics.items()
        ]
        lines += [f"{name}: not measured, {why}" for name, why in self.not_measured.items()]
        return "\n".join([f"{self.model_name}, {len(self.rows)} rows", *lines])

    def to_json(self) -> dict[str, Any]:
        """The same as plain values. Numbers that JSON does not have (an infinite perplexity) are None."""
        return {
            "model_name": self.model_name,
            "metrics": {
                name: {"value": finite(found.value), "low": finite(found.low), "high": finite(found.high)}
                for name, found in self.metrics.items()
            },
            "not_measured": self.not_measured,
            "rows": self.rows,
            "seconds": self.seconds,
        }


class ModelEvaluator:
    """Collects metrics, then measures any model with them. Without `add_metric`: the scores that suit the data.

    history: the reports so far, in order.

    Args:
        folder: where a line for each report is added to history.jsonl, and what a judge says and the vectors of texts
            are kept, so that neither is computed twice. Answers are not: a function may answer anew. None: nothing is
            written.
        settings: of the section `eval`, such as judge="ollama:llama3.1", checks={"regex": "..."}, encoder="folder".

    Raises:
        SettingsError: a setting is unknown or not allowed, or the folder is a file.
    """

    def __init__(self, folder: str | Path | None = None, **settings: object) -> None:
        self.history: list[EvaluationReport] = []
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None and self._folder.is_file():
            raise SettingsError(
                f"{folder} is a file, not a folder", fix="give another folder, or None to write nothing"
            )
        self._metrics: dict[str, EvaluationMetric] = {}
        self._settings = load_config(overrides={f"eval.{name}": value for name, value in settings.items()})

    def add_metric(self, metric: EvaluationMetric) -> None:
        """Measure this too; a metric of the same name is replaced.

        Raises:
            SettingsError: it is no EvaluationMetric.
        """
        check_kind("metric", metric, EvaluationMetric, fix='give EvaluationMetric("bleu", MetricType.BLEU)')
        self._metrics[metric.name] = metric

    def evaluate_model(
        self,
        *,
        model_name: str,
        generate_func: Callable[[str], str],
        dataset: str | Path | Iterable[Mapping[str, str]],
    ) -> EvaluationReport:
        """Ask every question of the data and score the answers.

        Args:
            model_name: for the report.
            generate_func: question -> answer. Perplexity and bits per byte need the model itself: they are measured
                when this is `generate` of a `ModelFinetuner`.
            dataset: a file that `tunesmith train` reads, or rows with a question and an answer.

        Raises:
            DataError: no rows, an unusable file, a chat, an answer that is no text, or a metric that gave no number.
            SettingsError: no function, a row without question or answer, or a metric that needs a setting.
            ResourceError: the encoder or the judge of a metric is not there, or the folder cannot be written.
        """
        if not callable(generate_func):
            name = type(generate_func).__name__
            raise SettingsError(f"generate_func is of the type {name}, no function", fix="give one: question -> answer")
        asked = _examples(dataset)
        if not asked:
            raise DataError("there are no rows to measure on", fix="give at least one row with question and answer")
        wanted = references_of(asked)
        model = getattr(generate_func, "__self__", None)
        can: set[Need] = {"writing", *(("references",) if any(wanted) else ())}
        can |= {"likelihood"} if any(wanted) and hasattr(model, "likelihood_rows") else set()
        metrics, not_measured = self._chosen(asked, can)
        folder = self._folder
        tools = Tools.of(self._settings.eval) if folder is None else tools_of(self._settings, folder / "answers")
        started = time.perf_counter()
        written = [_text(generate_func(example.question), number) for number, example in enumerate(asked, start=1)]
        seconds = time.perf_counter() - started
        rows = Rows(
            questions=[example.question for example in asked], predictions=written, references=wanted, tools=tools
        )
        if any(EVALUATORS[metric.evaluator].needs == "likelihood" for metric in metrics if metric.evaluator):
            assert model is not None
            rows = replace(rows, nll=model.likelihood_rows(asked))
        report = EvaluationReport(
            model_name,
            {metric.name: interval(_sums(metric, rows)) for metric in metrics},
            not_measured,
            [
                {"question": example.question, "reference": reference, "prediction": prediction}
                for example, reference, prediction in zip(asked, wanted, written, strict=True)
            ],
            seconds,
        )
        self.history.append(report)
        if folder is not None:
            line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **report.to_json()}
            append_line(folder / "history.jsonl", json.dumps(line, ensure_ascii=False))
        return report

    def _chosen(self, asked: Sequence[Example], can: Collection[Need]) -> tuple[list[EvaluationMetric], dict[str, str]]:
        """The metrics to measure, and why others are not. A score of a type that cannot be measured is refused."""
        if not self._metrics:
            names = select(self._settings.eval, asked, can=can).names
            return [EvaluationMetric(name, MetricType(name)) for name in names], {}
        left = {
            metric.name: why
            for metric in self._metrics.values()
            if metric.metric_type is MetricType.CUSTOM and (why := _why_not(metric, can))
        }
        metrics = [metric for metric in self._metrics.values() if metric.name not in left]
        if named := [metric.evaluator for metric in metrics if metric.evaluator]:
            select(self._settings.eval.model_copy(update={"metrics": named}), asked, can=can)
        return metrics, left


_WHY_NOT: Mapping[Need, str] = {
    "likelihood": "it needs the model itself: give generate of a ModelFinetuner, or use tunesmith eval",
    "references": "it needs right answers, and there are none",
}


def _why_not(metric: EvaluationMetric, can: Collection[Need]) -> str | None:
    if metric.function is not None:
        return None
    if metric.evaluator is None:
        return "it has no function"
    need = EVALUATORS[metric.evaluator].needs
    return None if need in can else _WHY_NOT.get(need, "it needs more than texts: use tunesmith eval or compare")


def _text(answer: object, row: int) -> str:
    if not isinstance(answer, str):
        raise DataError(f"generate_func gave {answer!r} for row {row}", fix="let it return the answer as text")
    return answer


def _sums(metric: EvaluationMetric, rows: Rows) -> Sums:
    if metric.function is None:
        assert metric.evaluator is not None
        return EVALUATORS[metric.evaluator].measure(rows)
    found = []
    for row, (answer, reference) in enumerate(zip(rows.predictions, rows.references, strict=True), start=1):
        value = metric.function(answer, reference)
        if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
            raise DataError(
                f"the metric {metric.name!r} gave {value!r} for row {row}", fix="let its function return a number"
            )
        found.append(float(value))
    return mean_of(np.array(found))


def _examples(dataset: str | Path | Iterable[Mapping[str, str]]) -> list[Example]:
    if not isinstance(dataset, (str, Path)):
        return examples_of(dataset)
    split = {"data.split.train": 1.0, "data.split.validation": 0.0, "data.split.test": 0.0}
    found = prepare(load_config(overrides={"data.path": str(dataset), **split})).train
    chat = next((example for example in found if example.conversation), None)
    if chat is not None:
        raise DataError(
            f"{dataset}, row {chat.row}, is a chat of {len(chat.conversation)} turns; a function is asked one question",
            fix="measure chats with tunesmith eval or compare, or give rows with question and answer",
        )
    return found
