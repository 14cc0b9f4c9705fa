"""How good a model is: likelihood of the right answers, and what it writes or chooses against the right ones."""

from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, ask_all
from tunesmith.evaluate.contest import Contest, hold
from tunesmith.evaluate.labels import ClassScores, LabelReport, report_labels
from tunesmith.evaluate.likelihood import bits_per_byte, mean_nll
from tunesmith.evaluate.paired import Interval, Sums, interval, mean_of
from tunesmith.evaluate.report import report_html
from tunesmith.evaluate.run import Evaluation, evaluate
from tunesmith.evaluate.sides import MetricChange, compare_table, confusions, contest, predictions, summarise
from tunesmith.evaluate.suite import SuiteComparison, SuiteScores, measure_suite
from tunesmith.evaluate.suite_file import Item, read_suite
from tunesmith.evaluate.text import EVALUATORS
from tunesmith.evaluate.titles import metric_title

__all__ = [
    "EVALUATORS",
    "Answer",
    "AnswerLog",
    "ClassScores",
    "Contest",
    "Evaluation",
    "Interval",
    "Item",
    "LabelReport",
    "MetricChange",
    "SuiteComparison",
    "SuiteScores",
    "Sums",
    "answer_all",
    "ask_all",
    "bits_per_byte",
    "compare_table",
    "confusions",
    "contest",
    "evaluate",
    "hold",
    "interval",
    "mean_nll",
    "mean_of",
    "measure_suite",
    "metric_title",
    "predictions",
    "read_suite",
    "report_html",
    "report_labels",
    "summarise",
]
