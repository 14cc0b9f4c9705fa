"""How good a model is: likelihood of the right answers, and what it writes or chooses against the right ones."""

from tunesmith.evaluate.labels import ClassScores, LabelReport, report_labels
from tunesmith.evaluate.likelihood import bits_per_byte, mean_nll
from tunesmith.evaluate.run import (
    LOWER_IS_BETTER,
    Evaluation,
    MetricChange,
    compare_table,
    confusions,
    evaluate,
    predictions,
    summarise,
)
from tunesmith.evaluate.text import EVALUATORS

__all__ = [
    "EVALUATORS",
    "LOWER_IS_BETTER",
    "ClassScores",
    "Evaluation",
    "LabelReport",
    "MetricChange",
    "bits_per_byte",
    "compare_table",
    "confusions",
    "evaluate",
    "mean_nll",
    "predictions",
    "report_labels",
    "summarise",
]
