"""How scores are named and written for people: one table for the terminal and the report."""

from __future__ import annotations

from tunesmith.evaluate.text import EVALUATORS

_TITLES = {
    "perplexity": "perplexity",
    "ended": "ended by itself",
    "repetition": "repetition",
    "words": "words",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    **{name: evaluator.title for name, evaluator in EVALUATORS.items()},
}
# Everything else is a share, 0 to 1, and written out of 100.
AS_IT_IS = frozenset({"perplexity", "log_loss", "words"})


def metric_title(metric: str) -> str:
    """How people read a metric's name."""
    return _TITLES.get(metric, metric.replace("_", " "))


def written(metric: str, value: float, *, sign: str = "") -> str:
    """A score as text: a share out of 100 with one digit, another number with two."""
    return f"{value:{sign},.2f}" if metric in AS_IT_IS else f"{value * 100:{sign},.1f}"
