"""Training: one loop, the main path around it, and pre-training from scratch."""

from tunesmith.train.continual import continued
from tunesmith.train.loop import fit
from tunesmith.train.observe import Event, Observer
from tunesmith.train.outcome import Plan, TrainResult
from tunesmith.train.pretrain import PretrainResult, pretrain
from tunesmith.train.recipe import train
from tunesmith.train.resolve import schedule_for
from tunesmith.train.schedule import Span

__all__ = [
    "Event",
    "Observer",
    "Plan",
    "PretrainResult",
    "Span",
    "TrainResult",
    "continued",
    "fit",
    "pretrain",
    "schedule_for",
    "train",
]
