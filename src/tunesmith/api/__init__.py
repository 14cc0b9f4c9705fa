"""The Python API: the verbs behind the command line, and `ModelFinetuner` for scripts."""

from tunesmith.api.finetuner import FinetuningConfig, ModelFinetuner
from tunesmith.api.session import Session, open_session
from tunesmith.api.verbs import Comparison, evaluate, inspect, pretrain, run_config, train

__all__ = [
    "Comparison",
    "FinetuningConfig",
    "ModelFinetuner",
    "Session",
    "evaluate",
    "inspect",
    "open_session",
    "pretrain",
    "run_config",
    "train",
]
