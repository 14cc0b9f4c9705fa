"""Norms and gates that keep no more than their inputs for the backward pass, which computes the rest again.

Plain autograd keeps float32 copies of what a norm reads, and the activated gate beside the gate. Results and gradients
are those of the formulas in transformers, rounded where these are.

Shapes: H numbers in each position.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.native.pointwise import Gelu as NativeGelu
from tunesmith.kernels.native.pointwise import RmsNorm as NativeRmsNorm
from tunesmith.kernels.native.pointwise import SiluProduct as NativeSiluProduct


def rms_norm(inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    """inputs / sqrt(mean(inputs^2) + eps) in float32 at least, in the format of `inputs` times `weight` (Zhang &
    Sennrich 2019, arXiv:1910.07467).

    Args:
        inputs: (..., H). weight: (H,).

    Returns:
        (..., H).
    """
    quick = native.is_native(inputs, weight) and not weight.requires_grad
    out: Tensor = (NativeRmsNorm if quick else _RmsNorm).apply(inputs, weight, eps)  # type: ignore[no-untyped-call]
    return out


def silu_product(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both of one shape and format (SwiGLU: Shazeer 2020, arXiv:2002.05202)."""
    quick = native.is_native(gate, up)
    out: Tensor = (NativeSiluProduct if quick else _SiluProduct).apply(gate, up)  # type: ignore[no-untyped-call]
    return out


def gelu(inputs: Tensor) -> Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), rounded once (Hendrycks & Gimpel 2016,
    arXiv:1606.08415)."""
    if not native.is_native(inputs):
        return F.gelu(inputs, approximate="tanh")
    out: Tensor = NativeGelu.apply(inputs)  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = _wide(inputs)
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(inputs, weight, scale)
        return (wide * scale).to(inputs.dtype) * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, scale = ctx.saved_tensors
        wide = _wide(inputs)
        of_inputs = of_weight = None
        if ctx.needs_input_grad[0]:
            of_normed = _wide((of_out * weight).to(inputs.dtype))
            along = (of_normed * wide).mean(-1, keepdim=True).mul_(scale**3)  # (..., 1)
            of_inputs = (of_normed * scale).addcmul_(wide, along, value=-1).to(inputs.dtype)
        if ctx.needs_input_grad[1]:
            normed = (wide * scale).to(inputs.dtype)
            of_weight = (of_out * normed).flatten(0, -2).sum(0).to(weight.dtype)
        return of_inputs, of_weight, None


class _SiluProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(of_out * up, gate), F.silu(gate).mul_(of_out)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
