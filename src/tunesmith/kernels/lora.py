"""A linear layer with a low-rank adapter (LoRA, Hu et al. 2021, arXiv:2106.09685) as one differentiable operation.

Plain autograd keeps the input twice (in the adapter's float32, and after dropout) and makes three more tensors of the
size of the output. Here the input is kept once, in the format of the computation, and the adapter's product is added in
place.

Shapes: N positions, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.dropout import chosen_to_drop, without
from tunesmith.kernels.linear import quick_linear
from tunesmith.kernels.native.lora import LoraLinear as NativeLoraLinear


def lora_linear(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, *, scale: float, dropout: float = 0.0
) -> Tensor:
    """inputs @ weight.T + bias + scale * dropout(inputs) @ down.T @ up.T.

    Gradients reach `inputs`, `down` and `up`; `weight` and `bias` are frozen. Under autocast everything is computed in
    autocast's type, as a linear layer would be, else in the type of `weight`.

    Args:
        inputs: (..., I). weight: (O, I). bias: (O,) or None. down: (r, I). up: (O, r).
        dropout: share of the adapter's inputs set to zero, the others divided by 1 - dropout.

    Returns:
        (..., O).
    """
    device = inputs.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    inputs, weight, down, up = (tensor.to(dtype) for tensor in (inputs, weight, down, up))
    bias = None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        flat = inputs.reshape(-1, inputs.shape[-1])  # (N, I)
        if native.is_native(flat, weight, down, up):
            added: Tensor = NativeLoraLinear.apply(flat, weight, bias, down, up, dropout, scale / (1 - dropout))  # type: ignore[no-untyped-call]
            return added.view(*inputs.shape[:-1], -1)
        dropped = chosen_to_drop(flat, dropout) if dropout else None
        scale /= 1 - dropout
        out: Tensor = _LoraLinear.apply(flat, weight, bias, down, up, dropped, scale)  # type: ignore[no-untyped-call]
        return out.view(*inputs.shape[:-1], -1)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        dropped: Tensor | None,
        scale: float,
    ) -> Tensor:
        kept = inputs if dropped is None else without(inputs, dropped)  # (N, I)
        middle = kept @ down.T  # (N, r)
        out = quick_linear(inputs, weight, bias).addmm_(middle, up.T, alpha=scale)  # (N, O)
        ctx.save_for_backward(inputs, weight, down, up, dropped, middle)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, down, up, dropped, middle = ctx.saved_tensors
        of_middle = (of_out @ up).mul_(ctx.scale)  # (N, r)
        of_up = (of_out.T @ middle).mul_(ctx.scale) if ctx.needs_input_grad[4] else None  # (O, r)
        of_down = None
        if ctx.needs_input_grad[3]:
            of_down = of_middle.T @ (inputs if dropped is None else without(inputs, dropped))  # (r, I)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = quick_linear(of_out, weight.T)  # (N, I)
            if dropped is None:
                of_inputs.addmm_(of_middle, down)
            else:
                of_inputs += without(of_middle @ down, dropped)
        return of_inputs, None, None, of_down, of_up, None, None
