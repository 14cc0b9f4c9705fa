"""PEFT's LoRA layers computed by one kernel while a model trains. Parameters, names and files stay PEFT's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels import LoraLayer, lora_linear
from tunesmith.model.packing import PACKABLE, base_of

# Children that a module of transformers calls with one and the same input, in this order.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@contextmanager
def fused_adapters(model: nn.Module) -> Iterator[int]:
    """Inside, plain LoRA layers are computed by `kernels.lora_linear`, those that read the same input at once.

    Yields how many; others compute as before. Under a compiler each is computed on its own.
    """
    layers = plain_adapters(model)
    # The class changes, not the instance: a compiler takes layers of one class for the same code.
    for layer in layers:
        layer.__class__ = _FusedLinear
    fused = [layer for layer in layers if isinstance(layer, _FusedLinear)]
    for siblings in [*([layer] for layer in fused), *_siblings(model)]:
        for layer in siblings:
            layer.siblings = siblings
    try:
        yield len(layers)
    finally:
        _AHEAD.forget()
        for layer in fused:
            del layer.siblings
        for layer in layers:
            layer.__class__ = Linear


def plain_adapters(model: nn.Module) -> list[Linear]:
    """The LoRA layers that `kernels.lora_linear` can compute."""
    return [module for module in model.modules() if _is_plain(module)]


class _FusedLinear(Linear):
    siblings: list[_FusedLinear]  # itself among them

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters:
            plain: Tensor = super().forward(x, *args, **kwargs)
            return plain
        if torch.compiler.is_compiling() or len(self.siblings) == 1:
            (out,) = _computed(x, [self])
            return out
        return _AHEAD.result_of(self, x)


class _Ahead(threading.local):
    """What the call of a layer computed for its siblings, until they are called. Passes run side by side in threads."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.inputs: Tensor | None = None
        self.results: dict[nn.Module, Tensor] = {}

    def result_of(self, layer: _FusedLinear, inputs: Tensor) -> Tensor:
        if inputs is not self.inputs or layer not in self.results:
            self.forget()
            self.results = dict(zip(layer.siblings, _computed(inputs, layer.siblings), strict=True))
            self.inputs = inputs
        result = self.results.pop(layer)
        if not self.results:
            self.forget()
        return result


_AHEAD = _Ahead()


def _computed(inputs: Tensor, layers: list[_FusedLinear]) -> tuple[Tensor, ...]:
    """The results of layers that drop with the same probability, as all of one adapter do."""
    dropout = layers[0].lora_dropout[layers[0].active_adapters[0]]
    share = dropout.p if layers[0].training and isinstance(dropout, nn.Dropout) else 0.0
    return lora_linear(inputs, *map(_for_kernel, layers), dropout=share)


def _for_kernel(layer: _FusedLinear) -> LoraLayer:
    name = layer.active_adapters[0]
    base: Any = layer.base_layer
    down: Any = layer.lora_A[name]
    up: Any = layer.lora_B[name]
    weight = base.weight.T if isinstance(base, Conv1D) else base.weight
    return LoraLayer(weight, base.bias, down.weight, up.weight, layer.scaling[name])


def _siblings(model: nn.Module) -> Iterator[list[_FusedLinear]]:
    """Of architectures that tests/model/test_fusion.py runs: in others children of these names may read apart."""
    if base_of(model).config.model_type not in PACKABLE:
        return
    for module in model.modules():
        for names in _SIBLINGS:
            found = [layer for name in names if isinstance(layer := getattr(module, name, None), _FusedLinear)]
            if len(found) > 1:
                yield found


def _is_plain(module: nn.Module) -> TypeGuard[Linear]:
    """One trained LoRA adapter on a frozen linear layer, without variant (DoRA ...), bias or merged weights."""
    if type(module) is not Linear or type(module.base_layer) not in (nn.Linear, Conv1D) or module.merged:
        return False
    names = module.active_adapters
    if len(names) != 1 or names[0] not in module.lora_A or names[0] in module.lora_variant:
        return False
    is_frozen = not any(parameter.requires_grad for parameter in module.base_layer.parameters())
    return module.lora_B[names[0]].bias is None and is_frozen
