"""How large a model is, how that reads, and the learning rate that follows from it. Knows no file and no device."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from tunesmith.errors import SettingsError

# Peak rate by method: (parameters of the whole model, rate), straight lines between them on logarithmic axes, flat
# outside. The large end is what the guides say: 2e-4 for LoRA, and 5e-5 falling to 1e-5 for full fine-tuning from
# GPT-2 (124 M) upwards. The small end is extrapolated: 2e-3 trains builtin:nano steadily.
LEARNING_RATES: dict[str, tuple[tuple[float, float], ...]] = {
    "lora": ((30e6, 2e-3), (1e9, 2e-4)),
    "full": ((30e6, 1e-3), (100e6, 5e-5), (1e9, 1e-5)),
}
# Larger passes gain little and hold more activations (bench/README.md shows the curve for a CPU).
TOKENS_PER_BATCH = {"cpu": 2048, "mps": 4096, "cuda": 16384}
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) parameters; tied weights count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def count_weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters as they are held now; tied weights count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def format_count(number: int) -> str:
    """950 -> "950", 1234567 -> "1.2M", 124439808 -> "124M"."""
    value = float(number)
    for unit in ("", "K", "M", "B", "T"):
        if value < 999.5 or unit == "T":
            return f"{value:.1f}{unit}" if unit and value < 99.95 else f"{value:.0f}{unit}"
        value /= 1000
    raise AssertionError("unreachable")


def format_bytes(number: int) -> str:
    """512 -> "512 B", 3221225472 -> "3.0 GiB"."""
    value = float(number)
    for unit in _BYTE_UNITS:
        if value < 1023.95 or unit == _BYTE_UNITS[-1]:
            return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def default_learning_rate(method: str, total_parameters: int) -> tuple[float, str]:
    """Peak learning rate for a method and a model size, two significant digits, and why.

    Source: the table `LEARNING_RATES` above it.

    Raises:
        SettingsError: no rates are known for the method.
    """
    if method not in LEARNING_RATES:
        raise SettingsError(
            f"there is no default learning rate for method {method!r}", fix="set train.learning_rate yourself"
        )
    points = LEARNING_RATES[method]
    rate = _interpolate(points, max(total_parameters, 1))
    return rate, f"{rate:g} suits {method} on a model of {format_count(total_parameters)} parameters"


def default_tokens_per_batch(device: torch.device) -> tuple[int, str]:
    """Most tokens of a forward pass, and why."""
    return TOKENS_PER_BATCH[device.type], f"a pass of this many tokens keeps a {device.type} busy"


def _interpolate(points: tuple[tuple[float, float], ...], size: float) -> float:
    if size <= points[0][0]:
        return points[0][1]
    for (small, at_small), (large, at_large) in pairwise(points):
        if size <= large:
            share = math.log(size / small) / math.log(large / small)
            return float(f"{math.exp(math.log(at_small) + share * math.log(at_large / at_small)):.1e}")
    return points[-1][1]
