"""Training: one loop, the main path around it, and pre-training from scratch."""

from tunesmith.train.loop import fit
from tunesmith.train.observe import Event, Observer
from tunesmith.train.outcome import Plan, TrainResult
from tunesmith.train.pretrain import PretrainResult, pretrain
from tunesmith.train.recipe import train

__all__ = ["Event", "Observer", "Plan", "PretrainResult", "TrainResult", "fit", "pretrain", "train"]
