"""The adapter's part of a linear layer by the kernel in C++ (lora.cpp). Shapes as in kernels/lora.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.kernels.dropout import drawn_seed
from tunesmith.kernels.native import call


class LoraLinear(torch.autograd.Function):
    """inputs @ weight.T + bias + scale * dropout(inputs) @ down.T @ up.T, all in bfloat16 on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        dropout: float,
        scale: float,
    ) -> Tensor:
        inputs, down, up = inputs.contiguous(), down.contiguous(), up.contiguous()
        out = F.linear(inputs, weight, bias)
        add = _ADD_ADAPTER if torch.compiler.is_compiling() else add_adapter
        middle, dropped = add(out, inputs, down, up, dropout, scale)
        ctx.save_for_backward(inputs, weight, down, up, middle, dropped)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, down, up, middle, dropped = ctx.saved_tensors
        of_out = of_out.contiguous()
        of_inputs = of_out @ weight if ctx.needs_input_grad[0] else None
        add = _ADD_GRADIENTS if torch.compiler.is_compiling() else add_gradients
        of_down, of_up = add(of_inputs, of_out, inputs, down, up, middle, dropped, ctx.scale)
        return of_inputs, None, None, of_down, of_up, None, None


def add_adapter(
    out: Tensor, inputs: Tensor, down: Tensor, up: Tensor, dropout: float, scale: float
) -> tuple[Tensor, Tensor]:
    """Add the adapter's product to `out`, and return what the backward pass needs.

    That is dropout(inputs) @ down.T, (N, r), and which inputs were dropped, (N, words of 32 bits) int32, no words where
    none are: bit j of word w is number 32 w + j.
    """
    middle, dropped = _kept(inputs, down, dropout)
    marks, seed = (dropped, drawn_seed()) if dropout else (0, 0)
    call("lora", inputs, down, up, *_sizes(inputs, down, up), scale, dropout, seed, out, middle, marks)
    return middle, dropped


def add_gradients(
    of_inputs: Tensor | None,
    of_out: Tensor,
    inputs: Tensor,
    down: Tensor,
    up: Tensor,
    middle: Tensor,
    dropped: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of down and up; what comes from the adapter is added to that of the inputs."""
    of_down, of_up = torch.empty_like(down), torch.empty_like(up)
    tensors = of_out, inputs, down, up, middle, dropped if dropped.numel() else 0
    written = 0 if of_inputs is None else of_inputs, of_down, of_up
    call("lora_backward", *tensors, *_sizes(inputs, down, up), scale, *written)
    return of_down, of_up


# The same as operators, which a compiler leaves alone; calling these costs 0.1 ms more.
_ADD_ADAPTER = torch.library.custom_op(
    "tunesmith::native_add_adapter",
    add_adapter,
    mutates_args=("out",),
    device_types="cpu",
    tags=(torch.Tag.nondeterministic_seeded,),
)
_ADD_GRADIENTS = torch.library.custom_op(
    "tunesmith::native_add_gradients", add_gradients, mutates_args=("of_inputs",), device_types="cpu"
)


@_ADD_ADAPTER.register_fake
def _(out: Tensor, inputs: Tensor, down: Tensor, up: Tensor, dropout: float, scale: float) -> tuple[Tensor, Tensor]:
    return _kept(inputs, down, dropout)


@_ADD_GRADIENTS.register_fake
def _(
    of_inputs: Tensor | None,
    of_out: Tensor,
    inputs: Tensor,
    down: Tensor,
    up: Tensor,
    middle: Tensor,
    dropped: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(down), torch.empty_like(up)


def _kept(inputs: Tensor, down: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    words = -(-inputs.shape[1] // 32) if dropout else 0
    rows = inputs.shape[0]  # not len(), which would tie a compiled layer to one number of positions
    return inputs.new_empty(rows, down.shape[0]), inputs.new_empty(rows, words, dtype=torch.int32)


def _sizes(inputs: Tensor, down: Tensor, up: Tensor) -> tuple[int, int, int, int]:
    return len(inputs), inputs.shape[1], len(up), len(down)
