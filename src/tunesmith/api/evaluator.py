"""`ModelEvaluator`: score whatever writes text, a function of yours included, by the scores of `tunesmith eval`.

evaluator = ModelEvaluator()
evaluator.add_metric(EvaluationMetric("polite", MetricType.CUSTOM, function=lambda answer, _: "please" in answer))
report = evaluator.evaluate_model(model_name="faq", generate_func=finetuner.generate, dataset=rows)
print(report.to_text())
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.api.rows import examples_of
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import EVALUATORS, Interval, Sums, interval, mean_of
from tunesmith.types import Example


class MetricType(Enum):
    """A score that ships, or CUSTOM: a function of yours."""

    EXACT_MATCH = "exact_match"
    TOKEN_F1 = "token_f1"
    BLEU = "bleu"
    CHRF = "chrf"
    ROUGE1 = "rouge1"
    ROUGE2 = "rouge2"
    ROUGEL = "rougeL"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class EvaluationMetric:
    """One score of a report.

    function: of a CUSTOM metric: (answer, reference) -> a number for this row; the metric is the mean over rows. A
        CUSTOM metric without one, such as a perplexity that only the model itself knows, is listed in the report
        as not measured.
    """

    name: str
    metric_type: MetricType
    description: str = ""
    function: Callable[[str, str], float] | None = None

    def __post_init__(self) -> None:
        if self.function is not None and self.metric_type is not MetricType.CUSTOM:
            raise SettingsError(
                f"the metric {self.name!r} has a function and is of the type {self.metric_type.name}",
                fix="make it MetricType.CUSTOM, or leave the function out",
            )


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What was measured. metrics: by name, with 95 % intervals. not_measured: metrics without a function.

    rows: question, reference and prediction, in the order of the data. seconds: of all calls of `generate_func`.
    """

    model_name: str
    metrics: dict[str, Interval]
    not_measured: tuple[str, ...]
    rows: list[dict[str, str]]
    seconds: float

    def to_text(self) -> str:
        """A line for each metric."""
        lines = [
            f"{name}: {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" for name, found in self.metrics.items()
        ]
        lines += [f"{name}: not measured, it has no function" for name in self.not_measured]
        return "\n".join([f"{self.model_name}, {len(self.rows)} rows", *lines])

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "model_name": self.model_name,
            "metrics": {
                name: {"value": found.value, "low": found.low, "high": found.high}
                for name, found in self.metrics.items()
            },
            "not_measured": list(self.not_measured),
            "rows": self.rows,
            "seconds": self.seconds,
        }


class ModelEvaluator:
    """Collects metrics, then measures any model with them. Without `add_metric`: every score that ships."""

    def __init__(self) -> None:
        self._metrics: dict[str, EvaluationMetric] = {}

    def add_metric(self, metric: EvaluationMetric) -> None:
        """Measure this too; a metric of the same name is replaced."""
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
            generate_func: question -> answer.
            dataset: a file that `tunesmith train` reads, or rows with a question and an answer.

        Raises:
            DataError: no rows, an unusable file, or a metric that gave no number.
            SettingsError: a row without question or answer.
        """
        asked = _examples(dataset)
        if not asked:
            raise DataError("there are no rows to measure on", fix="give at least one row with question and answer")
        started = time.perf_counter()
        written = [generate_func(example.question) for example in asked]
        seconds = time.perf_counter() - started
        wanted = [example.answer for example in asked]
        metrics = list(self._metrics.values()) or _everything()
        measured = {metric.name: _sums(metric, written, wanted) for metric in metrics}
        return EvaluationReport(
            model_name,
            {name: interval(sums) for name, sums in measured.items() if sums is not None},
            tuple(name for name, sums in measured.items() if sums is None),
            [
                {"question": example.question, "reference": reference, "prediction": prediction}
                for example, reference, prediction in zip(asked, wanted, written, strict=True)
            ],
            seconds,
        )


def _everything() -> list[EvaluationMetric]:
    return [EvaluationMetric(kind.value, kind) for kind in MetricType if kind is not MetricType.CUSTOM]


def _sums(metric: EvaluationMetric, written: list[str], wanted: list[str]) -> Sums | None:
    if metric.metric_type is not MetricType.CUSTOM:
        return EVALUATORS[metric.metric_type.value].sums(written, wanted)
    if metric.function is None:
        return None
    found = []
    for row, (answer, reference) in enumerate(zip(written, wanted, strict=True), start=1):
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
    return prepare(load_config(overrides={"data.path": str(dataset), **split})).train
