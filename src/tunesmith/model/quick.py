"""A model that reads and writes without learning: its mode, and on a CPU its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels import quick_linear


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off for the duration; afterwards every module is as it was, whatever happens: of a model that is trained
    some may be in another mode than the others."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def quick_layers(model: nn.Module) -> Iterator[None]:
    """Inside, plain linear layers are computed by `kernels.quick_linear`, without gradients."""
    layers = [(module, type(module)) for module in model.modules() if type(module) in _QUICK]
    for layer, plain in layers:
        layer.__class__ = _QUICK[plain]
    try:
        yield
    finally:
        for layer, plain in layers:
            layer.__class__ = plain


class _QuickLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return quick_linear(input, self.weight, self.bias)


class _QuickConv1D(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        return quick_linear(x, self.weight.T, self.bias)


_QUICK: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _QuickLinear, Conv1D: _QuickConv1D}
