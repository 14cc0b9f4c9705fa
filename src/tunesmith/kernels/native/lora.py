"""The adapters' part of linear layers by the kernel in C++ (lora.cpp), all in bfloat16 on a CPU.

Shapes, and what the two functions do, as in kernels/lora.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.kernels.dropout import drawn_seed
from tunesmith.kernels.native import call


def add_adapters(
    outs: list[Tensor], inputs: Tensor, downs: list[Tensor], ups: list[Tensor], scales: list[float], dropout: float
) -> tuple[list[Tensor], list[Tensor]]:
    """What is dropped of each layer's inputs: (N, words of 32 bits) int32, no words where nothing is; bit j of word w
    is number 32 w + j."""
    if torch.compiler.is_compiling():
        found = [
            _add_adapter(out, inputs, down, up, scale, dropout)
            for out, down, up, scale in zip(outs, downs, ups, scales, strict=True)
        ]
        return [middle for middle, _ in found], [dropped for _, dropped in found]
    kept = [_kept(inputs, down, dropout) for down in downs]
    middles, dropped = [middle for middle, _ in kept], [marks for _, marks in kept]
    seeds = [drawn_seed() if dropout else 0 for _ in downs]
    call("lora", *_layers(inputs, downs, ups, scales), dropout, seeds, outs, middles, dropped)
    return middles, dropped


def add_gradients(
    of_inputs: Tensor | None,
    of_outs: list[Tensor],
    inputs: Tensor,
    downs: list[Tensor],
    ups: list[Tensor],
    scales: list[float],
    middles: list[Tensor],
    dropped: list[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    if torch.compiler.is_compiling():
        of_each = zip(of_outs, downs, ups, scales, middles, dropped, strict=True)
        found = [_add_gradient(of_inputs, of_out, inputs, *layer) for of_out, *layer in of_each]
        return [of_down for of_down, _ in found], [of_up for _, of_up in found]
    of_downs, of_ups = ([torch.empty_like(weight) for weight in weights] for weights in (downs, ups))
    written = 0 if of_inputs is None else of_inputs, of_downs, of_ups
    call("lora_backward", *_layers(inputs, downs, ups, scales), of_outs, middles, dropped, *written)
    return of_downs, of_ups


# The same for one layer as operators, which a compiler leaves alone: it takes no lists of tensors that are written to.
# Calling these costs 0.1 ms more.


@torch.library.custom_op(
    "tunesmith::native_add_adapter",
    mutates_args=("out",),
    device_types="cpu",
    tags=(torch.Tag.nondeterministic_seeded,),
)
def _add_adapter(
    out: Tensor, inputs: Tensor, down: Tensor, up: Tensor, scale: float, dropout: float
) -> tuple[Tensor, Tensor]:
    (middle,), (dropped,) = add_adapters([out], inputs, [down], [up], [scale], dropout)
    return middle, dropped


@_add_adapter.register_fake
def _(out: Tensor, inputs: Tensor, down: Tensor, up: Tensor, scale: float, dropout: float) -> tuple[Tensor, Tensor]:
    return _kept(inputs, down, dropout)


@torch.library.custom_op("tunesmith::native_add_gradient", mutates_args=("of_inputs",), device_types="cpu")
def _add_gradient(
    of_inputs: Tensor | None,
    of_out: Tensor,
    inputs: Tensor,
    down: Tensor,
    up: Tensor,
    scale: float,
    middle: Tensor,
    dropped: Tensor,
) -> tuple[Tensor, Tensor]:
    (of_down,), (of_up,) = add_gradients(of_inputs, [of_out], inputs, [down], [up], [scale], [middle], [dropped])
    return of_down, of_up


@_add_gradient.register_fake
def _(
    of_inputs: Tensor | None,
    of_out: Tensor,
    inputs: Tensor,
    down: Tensor,
    up: Tensor,
    scale: float,
    middle: Tensor,
    dropped: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(down), torch.empty_like(up)


def _kept(inputs: Tensor, down: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    words = -(-inputs.shape[1] // 32) if dropout else 0
    rows = inputs.shape[0]  # not len(), which would tie a compiled layer to one number of positions
    return inputs.new_empty(rows, down.shape[0]), inputs.new_empty(rows, words, dtype=torch.int32)


def _layers(
    inputs: Tensor, downs: list[Tensor], ups: list[Tensor], scales: list[float]
) -> tuple[Tensor | int | list[int] | list[float] | list[Tensor], ...]:
    """What both functions of the library are told first."""
    outputs, ranks = [len(up) for up in ups], [len(down) for down in downs]
    return inputs, *inputs.shape, len(downs), outputs, ranks, downs, ups, scales
