"""Base models and what is trained on them: load, prepare, measure, save, merge; and new ones from scratch."""

from tunesmith.model.adapters import (
    check_switch,
    load_adapter,
    load_trained,
    merge,
    save_adapter,
    save_tokenizer,
    switch_adapter,
)
from tunesmith.model.dropout import seeded_dropout
from tunesmith.model.guide import Layer, LayerGuide, layer_guide
from tunesmith.model.joined import layers_for_liger
from tunesmith.model.lanes import Lanes, choose_lanes
from tunesmith.model.load import LoadedModel, load_base, load_skeleton, load_tokenizer, quiet
from tunesmith.model.loss import drawn_nll, nll_as_method, token_nll
from tunesmith.model.memory import is_out_of_memory, memory_errors
from tunesmith.model.methods import apply_method, check_method, recompute_activations
from tunesmith.model.packing import base_of, packing, why_padded
from tunesmith.model.precision import autocast, choose_device, choose_dtype, computes_bfloat16, loss_scale, slow_format
from tunesmith.model.quick import eval_mode, quick_layers
from tunesmith.model.scratch import END_OF_TEXT, new_model, new_tokenizer
from tunesmith.model.size import (
    SMALL_MODEL_PARAMETERS,
    context_tokens,
    count_parameters,
    default_learning_rate,
    default_method,
    default_tokens_per_batch,
    format_count,
)
from tunesmith.model.soft import begun_cache, virtual_tokens
from tunesmith.model.source import find_source
from tunesmith.model.speed import accelerated, choose_compile, choose_native, decoder_layers
from tunesmith.model.stream import TrainedTensors, base_folder, open_trained

__all__ = [
    "END_OF_TEXT",
    "SMALL_MODEL_PARAMETERS",
    "Lanes",
    "Layer",
    "LayerGuide",
    "LoadedModel",
    "TrainedTensors",
    "accelerated",
    "apply_method",
    "autocast",
    "base_folder",
    "base_of",
    "begun_cache",
    "check_method",
    "check_switch",
    "choose_compile",
    "choose_device",
    "choose_dtype",
    "choose_lanes",
    "choose_native",
    "computes_bfloat16",
    "context_tokens",
    "count_parameters",
    "decoder_layers",
    "default_learning_rate",
    "default_method",
    "default_tokens_per_batch",
    "drawn_nll",
    "eval_mode",
    "find_source",
    "format_count",
    "is_out_of_memory",
    "layer_guide",
    "layers_for_liger",
    "load_adapter",
    "load_base",
    "load_skeleton",
    "load_tokenizer",
    "load_trained",
    "loss_scale",
    "memory_errors",
    "merge",
    "new_model",
    "new_tokenizer",
    "nll_as_method",
    "open_trained",
    "packing",
    "quick_layers",
    "quiet",
    "recompute_activations",
    "save_adapter",
    "save_tokenizer",
    "seeded_dropout",
    "slow_format",
    "switch_adapter",
    "token_nll",
    "virtual_tokens",
    "why_padded",
]
