"""How good a model is: likelihood of right answers, answers of its own against the right ones, votes of people.

A name is imported when it is first used: counting votes needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.evaluate.agreement import cohen_kappa, krippendorff_alpha
    from tunesmith.evaluate.likelihood import bits_per_byte, mean_nll
    from tunesmith.evaluate.paired import CONFIDENCE, Difference, Interval, difference, interval, mean_of
    from tunesmith.evaluate.rating import (
        Tally,
        bradley_terry,
        is_decided,
        outcomes_needed,
        outcomes_to_undecide,
        wilson,
    )
    from tunesmith.evaluate.run import Evaluation, MetricChange, compare_table, evaluate, predictions, summarise
    from tunesmith.evaluate.text import EVALUATORS

__all__ = [
    "CONFIDENCE",
    "EVALUATORS",
    "Difference",
    "Evaluation",
    "Interval",
    "MetricChange",
    "Tally",
    "bits_per_byte",
    "bradley_terry",
    "cohen_kappa",
    "compare_table",
    "difference",
    "evaluate",
    "interval",
    "is_decided",
    "krippendorff_alpha",
    "mean_nll",
    "mean_of",
    "outcomes_needed",
    "outcomes_to_undecide",
    "predictions",
    "summarise",
    "wilson",
]

_HOME = {
    **dict.fromkeys(("cohen_kappa", "krippendorff_alpha"), "agreement"),
    **dict.fromkeys(("bits_per_byte", "mean_nll"), "likelihood"),
    **dict.fromkeys(("CONFIDENCE", "Difference", "Interval", "difference", "interval", "mean_of"), "paired"),
    **dict.fromkeys(
        ("Tally", "bradley_terry", "is_decided", "outcomes_needed", "outcomes_to_undecide", "wilson"), "rating"
    ),
    **dict.fromkeys(("Evaluation", "MetricChange", "compare_table", "evaluate", "predictions", "summarise"), "run"),
    "EVALUATORS": "text",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
