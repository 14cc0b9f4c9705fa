"""How scores are named and written for people: one table for the terminal and the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith.evaluate.evaluators import EVALUATORS
from tunesmith.evaluate.paired import Difference, Verdict


def metric_title(metric: str) -> str:
    """How people read a metric's name."""
    return EVALUATORS[metric].title


def is_share(metric: str) -> bool:
    """Whether a metric is between 0 and 1, and so written out of 100."""
    return EVALUATORS[metric].is_share


def is_loss(metric: str) -> bool:
    """Whether lower is better."""
    return EVALUATORS[metric].better == "lower"


def is_neutral(metric: str) -> bool:
    """Whether neither direction is better."""
    return EVALUATORS[metric].better == "neither"


def written(metric: str, value: float, *, sign: str = "") -> str:
    """A score as text: a share out of 100 with one digit, another number with two."""
    if math.isnan(value):
        return "n/a"
    return f"{value:{sign},.2f}" if not is_share(metric) else f"{value * 100:{sign},.1f}"


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One line of the table: `change` = tuned - base, its interval, and whether tuned is better."""

    metric: str
    base: float
    tuned: float
    change: float
    low: float
    high: float
    verdict: Verdict

    @staticmethod
    def of(metric: str, found: Difference) -> MetricChange:
        """The line of a difference: before is base, after is tuned."""
        return MetricChange(metric, found.before, found.after, found.change, found.low, found.high, found.verdict)

    @property
    def title(self) -> str:
        """The metric as people read it."""
        return metric_title(self.metric)

    @property
    def is_share(self) -> bool:
        """Whether its values lie between 0 and 1 and are written out of 100."""
        return is_share(self.metric)
