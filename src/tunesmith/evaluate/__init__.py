"""How good a model is: likelihood of the right answers, what it writes or chooses against them, votes of people.

A name is imported when it is first used: counting votes needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.evaluate.agreement import cohen_kappa, krippendorff_alpha
    from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, ask_all, choose_all
    from tunesmith.evaluate.cases import Case, read_cases
    from tunesmith.evaluate.contests import Contest, hold
    from tunesmith.evaluate.labels import ClassScores, LabelReport, report_labels, text_scores
    from tunesmith.evaluate.likelihood import bits_per_byte, mean_nll
    from tunesmith.evaluate.paired import CONFIDENCE, Difference, Interval, Sums, difference, interval, mean_of
    from tunesmith.evaluate.rating import (
        Tally,
        bradley_terry,
        is_decided,
        outcomes_needed,
        outcomes_to_undecide,
        wilson,
    )
    from tunesmith.evaluate.report import PageTable, report_html
    from tunesmith.evaluate.run import Evaluation, evaluate
    from tunesmith.evaluate.sides import compare_table, confusions, contest, predictions, summarise
    from tunesmith.evaluate.suite import SuiteComparison, SuiteScores, measure_suite
    from tunesmith.evaluate.suite_file import Item, read_suite
    from tunesmith.evaluate.text import EVALUATORS
    from tunesmith.evaluate.titles import MetricChange, metric_title

__all__ = [
    "CONFIDENCE",
    "EVALUATORS",
    "Answer",
    "AnswerLog",
    "Case",
    "ClassScores",
    "Contest",
    "Difference",
    "Evaluation",
    "Interval",
    "Item",
    "LabelReport",
    "MetricChange",
    "PageTable",
    "SuiteComparison",
    "SuiteScores",
    "Sums",
    "Tally",
    "answer_all",
    "ask_all",
    "bits_per_byte",
    "bradley_terry",
    "choose_all",
    "cohen_kappa",
    "compare_table",
    "confusions",
    "contest",
    "difference",
    "evaluate",
    "hold",
    "interval",
    "is_decided",
    "krippendorff_alpha",
    "mean_nll",
    "mean_of",
    "measure_suite",
    "metric_title",
    "outcomes_needed",
    "outcomes_to_undecide",
    "predictions",
    "read_cases",
    "read_suite",
    "report_html",
    "report_labels",
    "summarise",
    "text_scores",
    "wilson",
]

_HOME = {
    **dict.fromkeys(("cohen_kappa", "krippendorff_alpha"), "agreement"),
    **dict.fromkeys(("Answer", "AnswerLog", "answer_all", "ask_all", "choose_all"), "answers"),
    **dict.fromkeys(("Case", "read_cases"), "cases"),
    **dict.fromkeys(("Contest", "hold"), "contests"),
    **dict.fromkeys(("ClassScores", "LabelReport", "report_labels", "text_scores"), "labels"),
    **dict.fromkeys(("bits_per_byte", "mean_nll"), "likelihood"),
    **dict.fromkeys(("CONFIDENCE", "Difference", "Interval", "Sums", "difference", "interval", "mean_of"), "paired"),
    **dict.fromkeys(
        ("Tally", "bradley_terry", "is_decided", "outcomes_needed", "outcomes_to_undecide", "wilson"), "rating"
    ),
    **dict.fromkeys(("SuiteComparison", "SuiteScores", "measure_suite"), "suite"),
    **dict.fromkeys(("Item", "read_suite"), "suite_file"),
    **dict.fromkeys(("PageTable", "report_html"), "report"),
    **dict.fromkeys(("Evaluation", "evaluate"), "run"),
    **dict.fromkeys(("compare_table", "confusions", "contest", "predictions", "summarise"), "sides"),
    **dict.fromkeys(("EVALUATORS",), "text"),
    **dict.fromkeys(("MetricChange", "metric_title"), "titles"),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
