"""Liger's Triton kernels (extra liger) for norms and gated layers that train on CUDA: one operation instead of many.

The loss, LoRA and attention have kernels of their own here; a compiler makes the rest one operation itself. Not run on
a GPU yet: what is tested, on a CPU, is when they are chosen and the wiring around them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.optional import need


@contextmanager
def liger_layers(model: nn.Module, *, compiled: bool) -> Iterator[None]:
    """Inside, the layers that `layers_for_liger` finds are computed by Liger. Parameters and files stay as they are."""
    layers = layers_for_liger(model, next(model.parameters()).device, compiled=compiled)
    try:
        for layer in layers:
            layer.forward = MethodType(_FORWARDS[type(layer).__name__], layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def layers_for_liger(model: nn.Module, device: torch.device, *, compiled: bool) -> list[nn.Module]:
    """The layers that Liger computes: none without the package, off CUDA, or where a compiler joins them already.

    Args:
        compiled: whether decoder layers are compiled.
    """
    if device.type != "cuda" or compiled or importlib.util.find_spec("liger_kernel") is None:
        return []
    return [module for module in model.modules() if type(module).__name__ in _FORWARDS and _has_silu(module)]


def _has_silu(module: nn.Module) -> bool:
    """Of a norm, which has no activation, as well."""
    activation = getattr(module, "act_fn", None)
    return activation is None or isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation"


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) in float32, then in the format of x times the weight."""
    ops: Any = need("liger_kernel.ops", extra="liger")
    offset, in_place = 0.0, False  # in place would overwrite a gradient that the residual may still need
    out: Tensor = ops.LigerRMSNormFunction.apply(
        hidden_states, self.weight, self.variance_epsilon, offset, "llama", in_place
    )
    return out


def _gated(self: Any, x: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)): the product is one operation, which keeps its inputs only."""
    ops: Any = need("liger_kernel.ops", extra="liger")
    out: Tensor = self.down_proj(ops.LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x)))
    return out


# Classes of transformers whose forward is the formula above, by name: tests/model/test_liger.py runs each.
_FORWARDS: Mapping[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm"), _norm),
    **dict.fromkeys(("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP"), _gated),
}
