"""How large a model is, how that reads, and the learning rate that follows from it. Knows no file and no device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from tunesmith.config import METHODS

# A pass keeps its activations: with LoRA on 135 M parameters 1.9, 2.5 and 3.5 GB were in use at 1,024, 2,048 and 4,096
# tokens, at speeds that could not be told apart (one core).
TOKENS_PER_BATCH = {"cpu": 2048, "mps": 4096, "cuda": 16384}
# Up to here all weights train in float32 with AdamW's two moments and their gradients in under a gigabyte (16 bytes a
# parameter), and a step costs hardly more than with LoRA, which learns less of a small file: docs/defaults.md.
SMALL_MODEL_PARAMETERS = 50_000_000


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) parameters; tied weights count once."""
    sizes = [(_numbers_in(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def context_tokens(model: nn.Module) -> int | None:
    """Longest sequence that a model reads, virtual tokens included; None where nothing limits it (ALiBi)."""
    config: Any = model.config
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit or None


def _numbers_in(parameter: nn.Parameter) -> int:
    """4-bit weights are held two in a byte; bitsandbytes keeps their shape beside them."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def format_count(number: int) -> str:
    """950 -> "950", 1234567 -> "1.2M", 124439808 -> "124M"."""
    value = float(number)
    for unit in ("", "K", "M", "B", "T"):
        if value < 999.5 or unit == "T":
            return f"{value:.1f}{unit}" if unit and value < 99.95 else f"{value:.0f}{unit}"
        value /= 1000
    raise AssertionError("unreachable")


def default_method(total_parameters: int) -> tuple[Literal["lora", "full"], str]:
    """What `method.name: auto` stands for with a model of this size, and why."""
    size = f"a model of {format_count(total_parameters)} parameters"
    if total_parameters <= SMALL_MODEL_PARAMETERS:
        return "full", f"{size} is cheap to train whole"
    return "lora", f"{size} would take {16 * total_parameters / 2**30:.0f} GiB to train whole"


def default_learning_rate(method: str, total_parameters: int) -> tuple[float, str]:
    """Peak learning rate for a method and a model size, two significant digits, and why.

    Source: the table `config.METHODS`.
    """
    rate = _interpolate(METHODS[method].rates, max(total_parameters, 1))
    return rate, f"{rate:g} suits {method} on a model of {format_count(total_parameters)} parameters"


def default_tokens_per_batch(device: torch.device) -> tuple[int, str]:
    """Most tokens of a forward pass, and why."""
    return TOKENS_PER_BATCH[device.type], f"a pass of this many tokens keeps a {device.type} busy"


def _interpolate(points: Sequence[tuple[float, float]], size: float) -> float:
    if size <= points[0][0]:
        return points[0][1]
    for (small, at_small), (large, at_large) in pairwise(points):
        if size <= large:
            share = math.log(size / small) / math.log(large / small)
            return float(f"{math.exp(math.log(at_small) + share * math.log(at_large / at_small)):.1e}")
    return points[-1][1]
