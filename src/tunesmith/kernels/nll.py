"""Negative log-likelihood of chosen tokens, without the logits of a whole batch ever existing.

Knows tensors only: which positions carry loss, and how they are averaged, is the caller's business.

Shapes: N chosen positions, H hidden size, V vocabulary, C positions in a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits alive at once: 128 MiB in float32. Large enough that a chunk's matmul is still efficient.
LOGITS_PER_CHUNK = 2**25


def selected_nll(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk_tokens: int | None = None
) -> Tensor:
    """-log softmax(hidden @ weight.T + bias)[targets], computed chunk by chunk in float32.

    Gradients reach `hidden`, and `weight` and `bias` where they require one. With a frozen head the gradient of
    `hidden` is formed in the forward pass, while the logits are there, so a chunk is multiplied as often as in plain
    autograd; with a trainable head the backward pass computes the logits a second time. The idea of taking the
    gradient while the logits are there is Liger Kernel's (arXiv:2410.10989, section 3.2); since row i of it is
    linear in its incoming gradient, it can be scaled later and needs no reduction to a sum.

    Args:
        hidden: (N, H), any float type; under autocast it is computed in autocast's type, as a linear layer would be.
        weight: (V, H); bias: (V,) or None.
        targets: (N,) int64, each in [0, V).
        chunk_tokens: positions whose logits exist at once; unset, as many as fit `LOGITS_PER_CHUNK`.

    Returns:
        (N,) float32.
    """
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    size = chunk_tokens or max(1, LOGITS_PER_CHUNK // weight.shape[0])
    with torch.autocast(device_type, enabled=False):
        if len(hidden) <= size:  # one chunk: autograd may keep its logits
            return F.cross_entropy(F.linear(hidden, weight, bias).float(), targets, reduction="none")  # (N,)
        nll: Tensor = _ChunkedNll.apply(hidden, weight, bias, targets, size, torch.is_grad_enabled())  # type: ignore[no-untyped-call]  # (N,)
        return nll


class _ChunkedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, size: int, wants_gradient: bool
    ) -> Tensor:
        head_trains = wants_gradient and any(ctx.needs_input_grad[1:3])
        takes_early = wants_gradient and ctx.needs_input_grad[0] and not head_trains
        nll = hidden.new_empty(len(hidden), dtype=torch.float32)  # (N,)
        unscaled = torch.empty_like(hidden) if takes_early else None  # (N, H)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits = F.linear(hidden[part], weight, bias).float()  # (C, V)
            nll[part] = F.cross_entropy(logits, targets[part], reduction="none")
            if unscaled is not None:
                unscaled[part] = _gradient_of_logits(logits, targets[part]).to(weight.dtype) @ weight
        if unscaled is not None:
            ctx.save_for_backward(unscaled)
        elif head_trains:
            ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.size, ctx.head_trains = size, head_trains
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.head_trains:
            (unscaled,) = ctx.saved_tensors
            return (unscaled * incoming[:, None]).to(unscaled.dtype), None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.empty_like(hidden) if wants_hidden else None  # (N, H)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None  # (V, H)
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None  # (V,)
        for start in range(0, len(hidden), ctx.size):
            part = slice(start, start + ctx.size)
            logits = F.linear(hidden[part], weight, bias).float()  # (C, V)
            of_logits = _gradient_of_logits(logits, targets[part]).mul_(incoming[part, None])  # (C, V)
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            of_logits = of_logits.to(weight.dtype)
            if of_hidden is not None:
                of_hidden[part] = of_logits @ weight
            if of_weight is not None:
                of_weight += of_logits.T @ hidden[part]
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _gradient_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """softmax(logits) - onehot(targets), (C, V), for an incoming gradient of one."""
    probabilities = logits.softmax(-1)
    probabilities[torch.arange(len(targets), device=targets.device), targets] -= 1
    return probabilities
