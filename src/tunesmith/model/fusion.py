"""PEFT's LoRA layers computed by one kernel while a model trains. Parameters, names and files stay PEFT's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels import lora_linear


@contextmanager
def fused_adapters(model: nn.Module) -> Iterator[int]:
    """Inside, plain LoRA layers are computed by `kernels.lora_linear`. Yields how many; others compute as before."""
    layers = plain_adapters(model)
    # The class changes, not the instance: a compiler takes layers of one class for the same code.
    for layer in layers:
        layer.__class__ = _FusedLinear
    try:
        yield len(layers)
    finally:
        for layer in layers:
            layer.__class__ = Linear


def plain_adapters(model: nn.Module) -> list[Linear]:
    """The LoRA layers that `kernels.lora_linear` can compute."""
    return [module for module in model.modules() if _is_plain(module)]


class _FusedLinear(Linear):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters:
            plain: Tensor = super().forward(x, *args, **kwargs)
            return plain
        name = self.active_adapters[0]
        base: Any = self.base_layer
        down: Any = self.lora_A[name]
        up: Any = self.lora_B[name]
        dropout = self.lora_dropout[name]
        return lora_linear(
            x,
            base.weight.T if isinstance(base, Conv1D) else base.weight,
            base.bias,
            down.weight,
            up.weight,
            scale=self.scaling[name],
            dropout=dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0,
        )


def _is_plain(module: nn.Module) -> TypeGuard[Linear]:
    """One trained LoRA adapter on a frozen linear layer, without variant (DoRA ...), bias or merged weights."""
    if type(module) is not Linear or type(module.base_layer) not in (nn.Linear, Conv1D) or module.merged:
        return False
    names = module.active_adapters
    if len(names) != 1 or names[0] not in module.lora_A or names[0] in module.lora_variant:
        return False
    return module.lora_B[names[0]].bias is None and not module.base_layer.weight.requires_grad
