"""How good a model is: likelihood of the right answers, and answers it writes itself against the right ones."""

from tunesmith.evaluate.likelihood import bits_per_byte, mean_nll
from tunesmith.evaluate.run import Evaluation, MetricChange, compare_table, evaluate, predictions, summarise
from tunesmith.evaluate.task_file import Item, read_tasks
from tunesmith.evaluate.tasks import TaskComparison, TaskScores, measure_tasks
from tunesmith.evaluate.text import EVALUATORS

__all__ = [
    "EVALUATORS",
    "Evaluation",
    "Item",
    "MetricChange",
    "TaskComparison",
    "TaskScores",
    "bits_per_byte",
    "compare_table",
    "evaluate",
    "mean_nll",
    "measure_tasks",
    "predictions",
    "read_tasks",
    "summarise",
]
