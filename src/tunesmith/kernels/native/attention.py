"""Attention by the kernel in C++ (attention.cpp): PyTorch differentiates it, and a compiler leaves it alone.

Shapes as in kernels/attention.py: query (T, H, D), key and value (T, K, D), boundaries (S+1,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.kernels.native import call


def attention(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float) -> Tensor:
    """(T, H, D), as `packed_attention` without dropout; all in bfloat16 on a CPU."""
    out, _ = _attend(query, key, value, boundaries, scale)
    assert isinstance(out, Tensor)
    return out


@torch.library.custom_op("tunesmith::native_attend", mutates_args=(), device_types="cpu")
def _attend(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The result, and (H, T) float32: the logarithm of each query's sum of exponentials, for the backward pass."""
    query, key, value = map(_rows_together, (query, key, value))
    out, log_sums = torch.empty_like(query, memory_format=torch.contiguous_format), _of_queries(query)
    call(
        "attend", query, key, value, _strides(query, key, value), *_sizes(query, key, boundaries), scale, out, log_sums
    )
    return out, log_sums


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query, memory_format=torch.contiguous_format), _of_queries(query)


@torch.library.custom_op("tunesmith::native_attend_backward", mutates_args=(), device_types="cpu")
def _attend_backward(
    of_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    query, key, value, of_out = map(_rows_together, (query, key, value, of_out))
    gradients = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (query, key, value)]
    strides = _strides(query, key, value, of_out)
    sizes = _sizes(query, key, boundaries)
    call("attend_backward", of_out, out, log_sums, query, key, value, strides, *sizes, scale, *gradients)
    return gradients[0], gradients[1], gradients[2]


@_attend_backward.register_fake
def _(
    of_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (query, key, value))
    return query, key, value


def _save(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, float],
    output: tuple[Tensor, Tensor],
) -> None:
    *tensors, scale = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.scale = scale  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, of_out: Tensor, of_log_sums: None
) -> tuple[Tensor | None, ...]:
    out, log_sums, *tensors = ctx.saved_tensors  # type: ignore[attr-defined]
    return *_attend_backward(of_out, out, log_sums, *tensors, ctx.scale), None, None  # type: ignore[attr-defined]


_attend.register_autograd(_differentiate, setup_context=_save)


def _rows_together(tensor: Tensor) -> Tensor:
    """With the numbers of a head side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _of_queries(query: Tensor) -> Tensor:
    return query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def _sizes(query: Tensor, key: Tensor, boundaries: Tensor) -> tuple[Tensor, int, int, int, int]:
    return boundaries, len(boundaries) - 1, query.shape[1], key.shape[1], query.shape[2]
