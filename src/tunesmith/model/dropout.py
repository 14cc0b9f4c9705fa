"""The dropout of a model's own layers, drawn on a CPU from a generator that the caller chooses while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from tunesmith.kernels import draws_from, drop
from tunesmith.model.packing import base_of, why_padded

# Architectures that drop in layers of type nn.Dropout and in attention, which `packed_attention` computes, and nowhere
# else (tests/model/test_lanes.py runs each). Others call a function.
_IN_LAYERS = (
    *("llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"),
    *("gpt_neox", "olmo2", "smollm3"),
)


@contextmanager
def seeded_dropout(seed: int) -> Iterator[None]:
    """Inside, in this thread, dropout follows from `seed`, whatever other threads draw (CPU)."""
    with draws_from(torch.Generator().manual_seed(seed)):
        yield


@contextmanager
def seeded_layers(model: nn.Module) -> Iterator[None]:
    """Inside, layers of type nn.Dropout draw as `seeded_dropout` says."""
    layers = [module for module in model.modules() if type(module) is nn.Dropout]
    # The class changes, not the instance: a compiler takes layers of one class for the same code.
    for layer in layers:
        layer.__class__ = _SeededDropout
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Dropout


def draws_itself(model: nn.Module) -> bool:
    """Whether training draws random numbers on a CPU that do not follow from `seeded_dropout`."""
    if any(isinstance(m, _DropoutNd) and m.p > 0 and not isinstance(m, nn.Dropout) for m in model.modules()):
        return True
    base = base_of(model)
    config: dict[str, Any] = base.config.to_dict()
    # Heads other than the language model's have their share in the configuration too.
    shares = [value for name, value in config.items() if "drop" in name and not name.startswith(("classifier", "summ"))]
    if not any(isinstance(share, float) and share > 0 for share in shares):
        return False
    is_packed = why_padded(model) is None and config.get("sliding_window") is None  # rows over the window are padded
    return config["model_type"] not in _IN_LAYERS or not is_packed


class _SeededDropout(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:  # nn.Dropout's own name of it
        if not self.training or not 0 < self.p < 1 or input.device.type != "cpu":
            return super().forward(input)
        return drop(input, self.p)
