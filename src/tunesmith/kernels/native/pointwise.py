"""Norms, gates, GELU, rotary positions and the softmax of a loss by kernels in C++, all in bfloat16 on a CPU.

Called outside of compiled code only: a compiler joins such operations with their neighbours itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.native import call


class RmsNorm(torch.autograd.Function):
    """inputs (..., H), weight (H,) that is not trained, eps -> (..., H), as kernels/pointwise.py says."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
        inputs = inputs.contiguous()
        out = torch.empty_like(inputs)
        scales = inputs.new_empty(inputs.shape[:-1], dtype=torch.float32)
        call("rms_norm", inputs, weight, scales.numel(), inputs.shape[-1], eps, out, scales)
        ctx.save_for_backward(inputs, weight, scales)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None, None]:
        inputs, weight, scales = ctx.saved_tensors
        of_inputs = torch.empty_like(inputs)
        sizes = scales.numel(), inputs.shape[-1]
        call("rms_norm_backward", of_out.contiguous(), inputs, weight, scales, *sizes, of_inputs)
        return of_inputs, None, None


class SiluProduct(torch.autograd.Function):
    """gate, up -> silu(gate) * up, all of one shape."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        call("silu_product", gate, up, gate.numel(), out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        call("silu_product_backward", of_out.contiguous(), gate, up, gate.numel(), of_gate, of_up)
        return of_gate, of_up


class Gelu(torch.autograd.Function):
    """inputs -> gelu(inputs), by its approximation with tanh."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        inputs = inputs.contiguous()
        ctx.save_for_backward(inputs)
        out = torch.empty_like(inputs)
        call("gelu", inputs, inputs.numel(), out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        of_inputs = torch.empty_like(inputs)
        call("gelu_backward", of_out.contiguous(), inputs, inputs.numel(), of_inputs)
        return of_inputs


def rotate(inputs: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): inputs * cosine + (-second half, first half) * sine.

    Args:
        inputs: (T, H, D). cosine, sine: (T, D); no gradient reaches them.

    Returns:
        (T, H, D), each number rounded once.
    """
    out: Tensor = _Rotate.apply(inputs, cosine.contiguous(), sine.contiguous())  # type: ignore[no-untyped-call]
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotated(inputs, cosine, sine, back=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None, None]:
        return _rotated(of_out, *ctx.saved_tensors, back=True), None, None


def _rotated(inputs: Tensor, cosine: Tensor, sine: Tensor, *, back: bool) -> Tensor:
    inputs = inputs if inputs.stride(-1) == 1 else inputs.contiguous()
    out = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    call("rotate", inputs, cosine, sine, *inputs.shape, *inputs.stride()[:2], int(back), out)
    return out


def softmax_errors(logits: Tensor, targets: Tensor, nll: Tensor, *, only_nll: bool) -> None:
    """logits (C, V) and nll (C,) are overwritten, as `_to_errors_` of kernels/nll.py says."""
    call("softmax_errors", logits, targets, *logits.shape, int(only_nll), nll)
