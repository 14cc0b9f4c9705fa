"""How good a model is: likelihood of the right answers, what it writes or chooses against them, votes of people.

A name is imported when it is first used: counting votes needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.evaluate.agreement import cohen_kappa, krippendorff_alpha
    from tunesmith.evaluate.answers import Answer, AnswerLog, answer_all, ask_all, choose_all
    from tunesmith.evaluate.cases import Case, ask_judge, read_cases
    from tunesmith.evaluate.choosing import Selection, select
    from tunesmith.evaluate.contests import Contest, hold, judge_lines, knowable, references_of, score_all
    from tunesmith.evaluate.evaluators import (
        EVALUATORS,
        Evaluator,
        Need,
        check_names,
        is_likelihood,
        measure,
        preference_sums,
    )
    from tunesmith.evaluate.judge import JUDGING, PREFERENCE, Judge
    from tunesmith.evaluate.labels import Bin, ClassScores, LabelReport, report_labels
    from tunesmith.evaluate.likelihood import mean_nll
    from tunesmith.evaluate.material import Rows, Tools, rows_of
    from tunesmith.evaluate.measured import Measured
    from tunesmith.evaluate.paired import (
        CONFIDENCE,
        Difference,
        Interval,
        Sums,
        difference,
        finite,
        interval,
        mean_of,
    )
    from tunesmith.evaluate.rating import (
        Tally,
        bradley_terry,
        is_decided,
        outcomes_needed,
        outcomes_to_undecide,
        wilson,
    )
    from tunesmith.evaluate.report import PageTable, report_html
    from tunesmith.evaluate.run import (
        Evaluation,
        ask,
        evaluate,
        fitting_prompts,
        likelihood_of,
        likelihood_rows,
        score,
    )
    from tunesmith.evaluate.semantic import encoder_identity
    from tunesmith.evaluate.sides import (
        Calibration,
        calibrations,
        compare_table,
        confusions,
        contest,
        predictions,
        summarise,
        with_preference,
    )
    from tunesmith.evaluate.suite import SuiteAnswers, SuiteComparison, SuiteScores, ask_suite, score_suite
    from tunesmith.evaluate.suite_file import Item, read_suite
    from tunesmith.evaluate.tasks import task_scores
    from tunesmith.evaluate.titles import MetricChange, is_share, metric_title

__all__ = [
    "CONFIDENCE",
    "EVALUATORS",
    "JUDGING",
    "PREFERENCE",
    "Answer",
    "AnswerLog",
    "Bin",
    "Calibration",
    "Case",
    "ClassScores",
    "Contest",
    "Difference",
    "Evaluation",
    "Evaluator",
    "Interval",
    "Item",
    "Judge",
    "LabelReport",
    "Measured",
    "MetricChange",
    "Need",
    "PageTable",
    "Rows",
    "Selection",
    "SuiteAnswers",
    "SuiteComparison",
    "SuiteScores",
    "Sums",
    "Tally",
    "Tools",
    "answer_all",
    "ask",
    "ask_all",
    "ask_judge",
    "ask_suite",
    "bradley_terry",
    "calibrations",
    "check_names",
    "choose_all",
    "cohen_kappa",
    "compare_table",
    "confusions",
    "contest",
    "difference",
    "encoder_identity",
    "evaluate",
    "finite",
    "fitting_prompts",
    "hold",
    "interval",
    "is_decided",
    "is_likelihood",
    "is_share",
    "judge_lines",
    "knowable",
    "krippendorff_alpha",
    "likelihood_of",
    "likelihood_rows",
    "mean_nll",
    "mean_of",
    "measure",
    "metric_title",
    "outcomes_needed",
    "outcomes_to_undecide",
    "predictions",
    "preference_sums",
    "read_cases",
    "read_suite",
    "references_of",
    "report_html",
    "report_labels",
    "rows_of",
    "score",
    "score_all",
    "score_suite",
    "select",
    "summarise",
    "task_scores",
    "wilson",
    "with_preference",
]

_HOME = {
    **dict.fromkeys(("cohen_kappa", "krippendorff_alpha"), "agreement"),
    **dict.fromkeys(("Answer", "AnswerLog", "answer_all", "ask_all", "choose_all"), "answers"),
    **dict.fromkeys(("Case", "ask_judge", "read_cases"), "cases"),
    **dict.fromkeys(("Contest", "hold", "judge_lines", "knowable", "references_of", "score_all"), "contests"),
    **dict.fromkeys(("Bin", "ClassScores", "LabelReport", "report_labels"), "labels"),
    **dict.fromkeys(
        ("EVALUATORS", "Evaluator", "Need", "check_names", "is_likelihood", "measure", "preference_sums"), "evaluators"
    ),
    **dict.fromkeys(("JUDGING", "PREFERENCE", "Judge"), "judge"),
    **dict.fromkeys(("mean_nll",), "likelihood"),
    **dict.fromkeys(("Rows", "Tools", "rows_of"), "material"),
    **dict.fromkeys(("Measured",), "measured"),
    **dict.fromkeys(
        ("CONFIDENCE", "Difference", "Interval", "Sums", "difference", "finite", "interval", "mean_of"), "paired"
    ),
    **dict.fromkeys(
        ("Tally", "bradley_terry", "is_decided", "outcomes_needed", "outcomes_to_undecide", "wilson"), "rating"
    ),
    **dict.fromkeys(("SuiteAnswers", "SuiteComparison", "SuiteScores", "ask_suite", "score_suite"), "suite"),
    **dict.fromkeys(("Item", "read_suite"), "suite_file"),
    **dict.fromkeys(("PageTable", "report_html"), "report"),
    **dict.fromkeys(("Evaluation", "ask", "evaluate", "fitting_prompts"), "run"),
    **dict.fromkeys(("likelihood_of", "likelihood_rows", "score"), "run"),
    **dict.fromkeys(("Selection", "select"), "choosing"),
    **dict.fromkeys(
        ("Calibration", "calibrations", "compare_table", "confusions", "contest", "predictions", "summarise"), "sides"
    ),
    **dict.fromkeys(("with_preference",), "sides"),
    **dict.fromkeys(("encoder_identity",), "semantic"),
    **dict.fromkeys(("task_scores",), "tasks"),
    **dict.fromkeys(("MetricChange", "is_share", "metric_title"), "titles"),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
