"""Base models and what is trained on them: load, prepare, measure, save, merge; and new ones from scratch."""

from tunesmith.model.adapters import load_adapter, merge, save_adapter
from tunesmith.model.load import LoadedModel, load_base
from tunesmith.model.loss import token_nll
from tunesmith.model.memory import memory_errors
from tunesmith.model.methods import apply_method, recompute_activations
from tunesmith.model.precision import autocast, choose_device, choose_dtype
from tunesmith.model.scratch import END_OF_TEXT, new_model, new_tokenizer
from tunesmith.model.size import (
    SMALL_MODEL_PARAMETERS,
    count_parameters,
    default_learning_rate,
    default_method,
    format_count,
)
from tunesmith.model.source import find_source

__all__ = [
    "END_OF_TEXT",
    "SMALL_MODEL_PARAMETERS",
    "LoadedModel",
    "apply_method",
    "autocast",
    "choose_device",
    "choose_dtype",
    "count_parameters",
    "default_learning_rate",
    "default_method",
    "find_source",
    "format_count",
    "load_adapter",
    "load_base",
    "memory_errors",
    "merge",
    "new_model",
    "new_tokenizer",
    "recompute_activations",
    "save_adapter",
    "token_nll",
]
