"""Training: one loop, the main path around it, and pre-training.

Schedules need no torch; the other names import it when the first of them is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tunesmith.train.schedule import Span, schedule_for

if TYPE_CHECKING:
    from tunesmith.train.checkpoint import damage
    from tunesmith.train.continual import continued
    from tunesmith.train.loop import fit
    from tunesmith.train.observe import Event, Observer
    from tunesmith.train.outcome import Plan, PretrainPlan, TrainResult
    from tunesmith.train.pretrain import PretrainResult, train_on_texts
    from tunesmith.train.recipe import train

__all__ = [
    "Event",
    "Observer",
    "Plan",
    "PretrainPlan",
    "PretrainResult",
    "Span",
    "TrainResult",
    "continued",
    "damage",
    "fit",
    "schedule_for",
    "train",
    "train_on_texts",
]
_HOME = {
    "continued": "continual",
    "damage": "checkpoint",
    "fit": "loop",
    **dict.fromkeys(("Event", "Observer"), "observe"),
    **dict.fromkeys(("Plan", "PretrainPlan", "TrainResult"), "outcome"),
    **dict.fromkeys(("PretrainResult", "train_on_texts"), "pretrain"),
    "train": "recipe",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
