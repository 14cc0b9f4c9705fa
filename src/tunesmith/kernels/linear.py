"""Products with the weights of linear layers, by the library that is quick on this processor."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

# From which oneDNN is quicker: a call of it costs 10 microseconds more, one of a new shape half a millisecond.
_LEAST_ROWS = 8
_LEAST_FEATURES = 64


def _vendor() -> str:
    """Who made the processor, as Linux tells it: GenuineIntel, AuthenticAMD ...; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


# Asked once: a compiler cannot follow the reading of a file.
_MKL_IS_SLOW = (
    torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and _vendor() == "AuthenticAMD"
)


def quick_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: float32 on a CPU of AMD by oneDNN instead of MKL where no gradient is recorded.

    MKL keeps its best code for Intel. On one core of an AMD EPYC with AVX-512 oneDNN took 0.5 of its time for 32 rows
    and more, 0.7 for 8 and as long for a single row; both are as exact as float32 is. PyTorch itself calls oneDNN for
    float32 only with leave to round to bfloat16.

    Args:
        inputs: (..., I). weight: (O, I). bias: (O,) or None.

    Returns:
        (..., O).
    """
    if not _is_slow_in_mkl(inputs, weight):
        return F.linear(inputs, weight, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return out


def add_product(to: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`to.addmm_(left, right)`, by the library of `quick_linear`. to: (N, O). left: (N, I). right: (I, O)."""
    return to.add_(quick_linear(left, right.T)) if _is_slow_in_mkl(left, right.T) else to.addmm_(left, right)


def _is_slow_in_mkl(inputs: Tensor, weight: Tensor) -> bool:
    is_large = inputs.numel() >= _LEAST_ROWS * inputs.shape[-1] and min(weight.shape) >= _LEAST_FEATURES
    is_float32 = inputs.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    is_recorded = torch.is_grad_enabled() and (inputs.requires_grad or weight.requires_grad)
    return is_large and is_float32 and inputs.device.type == "cpu" and _MKL_IS_SLOW and not is_recorded
