"""The Python API: the verbs behind the command line, and `ModelFinetuner` for scripts.

A name is imported when it is first used: looking at data needs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.api.finetuner import FinetuningConfig, ModelFinetuner
    from tunesmith.api.look import Preview, check_data_file, inspect, layers, preview
    from tunesmith.api.scheduler import AdvancedLRScheduler, create_mlx_compatible_scheduler
    from tunesmith.api.schedules import Curve, schedule_curve
    from tunesmith.api.session import Session, open_session
    from tunesmith.api.verbs import Comparison, evaluate, pretrain, run_config, train
    from tunesmith.model import Layer, LayerGuide

__all__ = [
    "AdvancedLRScheduler",
    "Comparison",
    "Curve",
    "FinetuningConfig",
    "Layer",
    "LayerGuide",
    "ModelFinetuner",
    "Preview",
    "Session",
    "check_data_file",
    "create_mlx_compatible_scheduler",
    "evaluate",
    "inspect",
    "layers",
    "open_session",
    "pretrain",
    "preview",
    "run_config",
    "schedule_curve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tunesmith.api' has no attribute {name!r}")
    if name in ("Preview", "check_data_file", "inspect", "layers", "preview"):
        from tunesmith.api import look

        return getattr(look, name)
    from tunesmith import model
    from tunesmith.api import finetuner, scheduler, schedules, session, verbs

    rooms = (finetuner, scheduler, schedules, session, verbs, model)
    home = next(module for module in rooms if hasattr(module, name))
    return getattr(home, name)
