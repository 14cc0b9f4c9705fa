"""Norms, gates and activations as one operation each while a model trains: by our kernels on a CPU, by Liger's on CUDA.

The loss, LoRA and attention have kernels of their own; a compiler makes the rest one operation itself. Liger was not
run on a GPU yet: what is tested, on a CPU, is when it is chosen and the wiring around it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.kernels import gelu, is_native, rms_norm, rotate, silu_product
from tunesmith.model.packing import base_of
from tunesmith.optional import need

# Architectures whose module has `apply_rotary_pos_emb` as Llama's: halves of a head are rotated, in the inputs' format.
_ROTARY = ("llama", "mistral", "qwen2", "qwen3", "phi", "gemma", "smollm3", "starcoder2")


@contextmanager
def joined_layers(model: nn.Module, *, compiled: bool) -> Iterator[None]:
    """Inside, the layers known here are one operation each. Parameters and files stay as they are.

    Args:
        compiled: whether decoder layers are compiled, which leaves nothing to do.
    """
    device = next(model.parameters()).device
    by_liger = layers_for_liger(model, device, compiled=compiled)
    layers = by_liger or (_known_layers(model) if device.type == "cpu" and not compiled else [])
    rotary = nullcontext() if compiled else _joined_rotary(base_of(model))
    try:
        for layer in layers:
            forwards = _FORWARDS[type(layer).__name__]
            joined = forwards.by_liger if by_liger else None
            layer.forward = MethodType(joined or forwards.ours, layer)
        with rotary:
            yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


@contextmanager
def _joined_rotary(base: PreTrainedModel) -> Iterator[None]:
    """Inside, the rotary positions of rows laid end to end are one operation where kernels in C++ are switched on.

    The function belongs to the module of the architecture, so other models of it compute by it meanwhile, to the same
    result.
    """
    if base.config.model_type not in _ROTARY:
        yield
        return
    # of any class that it inherits from: dividing the weights gives the model one of its own
    modules: list[Any] = [sys.modules[kind.__module__] for kind in type(base).__mro__]
    module = next(module for module in modules if hasattr(module, "apply_rotary_pos_emb"))
    plain = module.apply_rotary_pos_emb

    def apply_rotary_pos_emb(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        if len(q) > 1 or unsqueeze_dim != 1 or not is_native(q, k, cos, sin):
            both: tuple[Tensor, Tensor] = plain(q, k, cos, sin, unsqueeze_dim)
            return both
        query, key = (rotate(tensor[0].transpose(0, 1), cos[0], sin[0]).transpose(0, 1)[None] for tensor in (q, k))
        return query, key

    module.apply_rotary_pos_emb = apply_rotary_pos_emb
    try:
        yield
    finally:
        module.apply_rotary_pos_emb = plain


def layers_for_liger(model: nn.Module, device: torch.device, *, compiled: bool) -> list[nn.Module]:
    """The layers that Liger computes: none without the package, off CUDA, or where a compiler joins them already.

    Args:
        compiled: whether decoder layers are compiled.
    """
    if device.type != "cuda" or compiled or importlib.util.find_spec("liger_kernel") is None:
        return []
    return [layer for layer in _known_layers(model) if _FORWARDS[type(layer).__name__].by_liger]


def _known_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in _FORWARDS and _has_silu(module)]


def _has_silu(module: nn.Module) -> bool:
    """Of a norm, which has no activation, as well."""
    activation = getattr(module, "act_fn", None)
    return activation is None or isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation"


class _Forwards(NamedTuple):
    ours: Callable[..., Tensor]
    by_liger: Callable[..., Tensor] | None = None


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) in float32, then in the format of x times the weight."""
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _norm_by_liger(self: Any, hidden_states: Tensor) -> Tensor:
    ops: Any = need("liger_kernel.ops", extra="liger")
    offset, in_place = 0.0, False  # in place would overwrite a gradient that the residual may still need
    out: Tensor = ops.LigerRMSNormFunction.apply(
        hidden_states, self.weight, self.variance_epsilon, offset, "llama", in_place
    )
    return out


def _gated(self: Any, x: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x))."""
    out: Tensor = self.down_proj(silu_product(self.gate_proj(x), self.up_proj(x)))
    return out


def _gated_by_liger(self: Any, x: Tensor) -> Tensor:
    ops: Any = need("liger_kernel.ops", extra="liger")
    out: Tensor = self.down_proj(ops.LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x)))
    return out


def _gelu(self: Any, input: Tensor) -> Tensor:  # as it is called there
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), without rounding between the operations."""
    return gelu(input)


# Classes of transformers whose forward is the formula above, by name: tests/model/test_joined.py runs each.
_FORWARDS: Mapping[str, _Forwards] = {
    **dict.fromkeys(
        ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm"),
        _Forwards(_norm, _norm_by_liger),
    ),
    "NewGELUActivation": _Forwards(_gelu),  # of GPT-2, GPT-Neo and Phi
    "GELUTanh": _Forwards(_gelu),  # of Gemma and StarCoder2
    **dict.fromkeys(
        ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP"), _Forwards(_gated, _gated_by_liger)
    ),
}
