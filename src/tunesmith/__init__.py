"""Tunesmith: from a spreadsheet to a small language model that is tuned, measured and running.

    from tunesmith import FinetuningConfig, ModelFinetuner

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.api import (
        AdvancedLRScheduler,
        EvaluationMetric,
        FinetuningConfig,
        MetricType,
        ModelEvaluator,
        ModelFinetuner,
        create_mlx_compatible_scheduler,
        inspect,
        open_session,
        pretrain,
    )
    from tunesmith.config import RunConfig, load_config

_HOME = {
    "AdvancedLRScheduler": "tunesmith.api",
    "EvaluationMetric": "tunesmith.api",
    "FinetuningConfig": "tunesmith.api",
    "MetricType": "tunesmith.api",
    "ModelEvaluator": "tunesmith.api",
    "ModelFinetuner": "tunesmith.api",
    "RunConfig": "tunesmith.config",
    "create_mlx_compatible_scheduler": "tunesmith.api",
    "inspect": "tunesmith.api",
    "load_config": "tunesmith.config",
    "open_session": "tunesmith.api",
    "pretrain": "tunesmith.api",
}

__version__ = "0.1.0"
__all__ = [
    "AdvancedLRScheduler",
    "EvaluationMetric",
    "FinetuningConfig",
    "MetricType",
    "ModelEvaluator",
    "ModelFinetuner",
    "RunConfig",
    "create_mlx_compatible_scheduler",
    "inspect",
    "load_config",
    "open_session",
    "pretrain",
]

# Where bitsandbytes is installed peft imports it, whether or not it is used, and on some processors it then warns that
# one more package would be faster.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "gemm_4bit_forward" not in str(record.msg))


def __getattr__(name: str) -> Any:
    # train and evaluate are not among them: they are also names of submodules; take the verbs from tunesmith.api
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
