"""Linear layers with low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) as one differentiable operation.

Plain autograd keeps the input twice (in the adapter's float32, and after dropout) and makes three more tensors of the
size of the output. Here the input is kept once, in the format of the computation, and the adapter's product is added in
place. Layers that read the same input (q, k and v; gate and up) are one operation: their adapters read it once, and its
gradient is one sum instead of one tensor for each.

Shapes: N positions, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.dropout import chosen_to_drop, without
from tunesmith.kernels.linear import add_product, quick_linear
from tunesmith.kernels.native.lora import add_adapters as native_add_adapters
from tunesmith.kernels.native.lora import add_gradients as native_add_gradients


class LoraLayer(NamedTuple):
    """A frozen linear layer and its adapter.

    weight: (O, I). bias: (O,) or None. down: (r, I). up: (O, r).
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float


def lora_linear(inputs: Tensor, *layers: LoraLayer, dropout: float = 0.0) -> tuple[Tensor, ...]:
    """inputs @ weight.T + bias + scale * dropout(inputs) @ down.T @ up.T, of each layer.

    Gradients reach `inputs`, and `down` and `up` of the layers whose result was used. Under autocast everything is
    computed in autocast's type, as linear layers would be, else in the type of the first `weight`.

    Args:
        inputs: (..., I).
        dropout: share of the adapters' inputs set to zero, the others divided by 1 - dropout. Each adapter draws for
            itself, in their order.

    Returns:
        Of each layer (..., O).
    """
    device = inputs.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layers[0].weight.dtype
    *kinds, scales = zip(*layers, strict=True)
    tensors = [None if tensor is None else tensor.to(dtype) for kind in kinds for tensor in kind]
    factors = [scale / (1 - dropout) for scale in scales]
    with torch.autocast(device, enabled=False):
        flat = inputs.to(dtype).reshape(-1, inputs.shape[-1])  # (N, I)
        outs: tuple[Tensor, ...] = _LoraLinear.apply(flat, dropout, factors, *tensors)  # type: ignore[no-untyped-call]
        return tuple(out.view(*inputs.shape[:-1], out.shape[-1]) for out in outs)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, dropout: float, scales: list[float], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights, biases, downs, ups = _by_kind(tensors, kinds=4)
        ctx.is_native = native.is_native(inputs, *weights, *downs, *ups)
        if ctx.is_native:
            inputs, downs, ups = inputs.contiguous(), [d.contiguous() for d in downs], [u.contiguous() for u in ups]
        outs = [quick_linear(inputs, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        add = native_add_adapters if ctx.is_native else _add_adapters
        middles, dropped = add(outs, inputs, downs, ups, scales, dropout)
        ctx.save_for_backward(inputs, *weights, *downs, *ups, *middles, *dropped)
        ctx.scales = scales
        ctx.set_materialize_grads(False)
        return tuple(outs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *of_outs: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, *saved = ctx.saved_tensors
        # a layer whose result was not used has no part in it, as if it had not been called
        used = [number for number, of_out in enumerate(of_outs) if of_out is not None]
        kinds = [[kind[number] for number in used] for kind in (of_outs, ctx.scales, *_by_kind(saved, kinds=5))]
        of_used, scales, weights, downs, ups, middles, dropped = kinds
        of_used = [of_out.contiguous() for of_out in of_used]
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = quick_linear(of_used[0], weights[0].T)  # (N, I)
            for of_out, weight in zip(of_used[1:], weights[1:], strict=True):
                add_product(of_inputs, of_out, weight)
        add = native_add_gradients if ctx.is_native else _add_gradients
        of_adapters = add(of_inputs, of_used, inputs, downs, ups, scales, middles, dropped)
        of_downs, of_ups = (dict(zip(used, found, strict=True)) for found in of_adapters)
        layers = range(len(of_outs))
        frozen = [None] * 2 * len(layers)  # weights and biases
        return of_inputs, None, None, *frozen, *map(of_downs.get, layers), *map(of_ups.get, layers)


def _by_kind(tensors: Sequence[Any], *, kinds: int) -> list[Any]:
    """Of all layers the first tensor each, of all the second ..."""
    count = len(tensors) // kinds
    return [tensors[kind * count : (kind + 1) * count] for kind in range(kinds)]


def _add_adapters(
    outs: list[Tensor],
    inputs: Tensor,
    downs: list[Tensor],
    ups: list[Tensor],
    scales: list[float],
    dropout: float,
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Add the adapters' products to `outs`, and return what the backward pass needs.

    That is, of each layer, dropout(inputs) @ down.T, (N, r), and which inputs were dropped.
    """
    dropped = [chosen_to_drop(inputs, dropout) if dropout else None for _ in downs]
    if dropout:
        middles = [without(inputs, chosen) @ down.T for chosen, down in zip(dropped, downs, strict=True)]
    else:
        middles = list((inputs @ torch.cat(downs).T).split([len(down) for down in downs], dim=1))
    for out, middle, up, scale in zip(outs, middles, ups, scales, strict=True):
        out.addmm_(middle, up.T, alpha=scale)
    return middles, dropped


def _add_gradients(
    of_inputs: Tensor | None,
    of_outs: list[Tensor],
    inputs: Tensor,
    downs: list[Tensor],
    ups: list[Tensor],
    scales: list[float],
    middles: list[Tensor],
    dropped: list[Tensor | None],
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of downs and ups; what comes from the adapters is added to that of the inputs."""
    of_middles = [(of_out @ up).mul_(scale) for of_out, up, scale in zip(of_outs, ups, scales, strict=True)]  # (N, r)
    of_ups = [(of_out.T @ middle).mul_(scale) for of_out, middle, scale in zip(of_outs, middles, scales, strict=True)]
    if dropped[0] is None:
        joined = torch.cat(of_middles, dim=1)
        of_downs = (joined.T @ inputs).split([len(down) for down in downs])
        if of_inputs is not None:
            of_inputs.addmm_(joined, torch.cat(downs))
        return list(of_downs), of_ups
    of_downs = [of_middle.T @ without(inputs, chosen) for of_middle, chosen in zip(of_middles, dropped, strict=True)]
    if of_inputs is not None:
        for of_middle, down, chosen in zip(of_middles, downs, dropped, strict=True):
            of_inputs += without(of_middle @ down, chosen)
    return of_downs, of_ups
