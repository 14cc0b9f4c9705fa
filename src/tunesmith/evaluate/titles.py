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
