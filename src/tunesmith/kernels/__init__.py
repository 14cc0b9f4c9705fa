"""Computations that save time or memory, on plain tensors. They know no model, no method and no data."""

from tunesmith.kernels.attention import packed_attention
from tunesmith.kernels.dropout import draws_again, draws_from, drop
from tunesmith.kernels.linear import quick_linear
from tunesmith.kernels.lora import LoraLayer, lora_linear
from tunesmith.kernels.native import NO_COMPILER, code_cache, find_compiler, is_native, native_kernels, why_not_native
from tunesmith.kernels.native.pointwise import rotate
from tunesmith.kernels.nll import selected_nll
from tunesmith.kernels.pointwise import gelu, rms_norm, silu_product
from tunesmith.kernels.sizes import recurring_size

__all__ = [
    "NO_COMPILER",
    "LoraLayer",
    "code_cache",
    "draws_again",
    "draws_from",
    "drop",
    "find_compiler",
    "gelu",
    "is_native",
    "lora_linear",
    "native_kernels",
    "packed_attention",
    "quick_linear",
    "recurring_size",
    "rms_norm",
    "rotate",
    "selected_nll",
    "silu_product",
    "why_not_native",
]
