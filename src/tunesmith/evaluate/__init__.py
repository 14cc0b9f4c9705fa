"""How good a model is: likelihood of the right answers, and answers it writes itself against the right ones."""

from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, ask_all
from tunesmith.evaluate.contest import Contest, hold
from tunesmith.evaluate.likelihood import bits_per_byte, mean_nll
from tunesmith.evaluate.paired import Interval, Sums, interval, mean_of
from tunesmith.evaluate.report import metric_title, report_html
from tunesmith.evaluate.run import Evaluation, MetricChange, compare_table, evaluate, predictions, summarise
from tunesmith.evaluate.text import EVALUATORS

__all__ = [
    "EVALUATORS",
    "Answer",
    "AnswerLog",
    "Contest",
    "Evaluation",
    "Interval",
    "MetricChange",
    "Sums",
    "answer_all",
    "ask_all",
    "bits_per_byte",
    "compare_table",
    "evaluate",
    "hold",
    "interval",
    "mean_nll",
    "mean_of",
    "metric_title",
    "predictions",
    "report_html",
    "summarise",
]
