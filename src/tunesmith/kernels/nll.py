"""Negative log-likelihood of chosen tokens, without the logits of a whole batch ever existing.

Knows tensors only: which positions carry loss, and how they are averaged, is the caller's business.

Shapes: N chosen positions, H hidden size, V vocabulary, C positions in a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.linear import quick_linear
from tunesmith.kernels.native.pointwise import softmax_errors as native_softmax_errors
from tunesmith.kernels.sizes import recurring_size

# Logits alive at once: large enough that a chunk's matmul is still efficient. On a CPU a chunk in bfloat16 stays below
# 32 MiB, what the allocator keeps for the next one instead of faulting in new pages.
LOGITS_PER_CHUNK = {"cpu": 15 * 2**20}
LOGITS_PER_CHUNK_ELSEWHERE = 2**25
# On a CPU the softmax goes through a chunk in pieces that stay in its caches: eight times as fast as whole chunks.
_LOGITS_IN_CACHE = 2**19


def selected_nll(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk_tokens: int | None = None
) -> Tensor:
    """-log softmax(hidden @ weight.T + bias)[targets], computed chunk by chunk in float32.

    Gradients reach `hidden`, and `weight` and `bias` where they require one. With a frozen head the gradient of
    `hidden` is formed in the forward pass, while the logits are there, so a chunk is multiplied as often as in plain
    autograd; with a trainable head and more than one chunk the backward pass computes the logits a second time. The
    idea of taking the gradient while the logits are there is Liger Kernel's (arXiv:2410.10989, section 3.2); since row
    i of it is linear in its incoming gradient, it can be scaled later and needs no reduction to a sum.

    Args:
        hidden: (N, H), any float type; under autocast it is computed in autocast's type, as a linear layer would be.
        weight: (V, H); bias: (V,) or None.
        targets: (N,) int64, each in [0, V).
        chunk_tokens: positions whose logits exist at once; unset, as many as fit `LOGITS_PER_CHUNK`.

    Returns:
        (N,) float32.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    size = chunk_tokens or max(1, LOGITS_PER_CHUNK.get(device, LOGITS_PER_CHUNK_ELSEWHERE) // weight.shape[0])
    count = len(targets)
    filler = recurring_size(count) - count if device == "cpu" else 0  # positions whose results nobody takes
    hidden, targets = F.pad(hidden, (0, 0, 0, filler)), F.pad(targets, (0, filler))
    with torch.autocast(device, enabled=False):
        nll: Tensor = _ChunkedNll.apply(hidden, weight, bias, targets, size, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return nll[:count]


class _ChunkedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, size: int, wants_gradient: bool
    ) -> Tensor:
        head_trains = wants_gradient and any(ctx.needs_input_grad[1:3])
        takes_early = wants_gradient and ctx.needs_input_grad[0] and not head_trains
        keeps = head_trains and len(hidden) <= size  # the errors of the only chunk, for the backward pass
        nll = hidden.new_empty(len(hidden), dtype=torch.float32)  # (N,)
        unscaled = torch.empty_like(hidden) if takes_early else None  # (N, H)
        errors = None
        for part in _chunks(len(hidden), size):
            logits = quick_linear(hidden[part], weight, bias)  # (C, V)
            errors = _to_errors_(logits, targets[part], nll[part], only_nll=not (takes_early or keeps))
            if unscaled is not None:
                unscaled[part] = quick_linear(errors, weight.T)
        if unscaled is not None:
            ctx.save_for_backward(unscaled)
        elif head_trains:
            ctx.save_for_backward(hidden, weight, bias, targets, errors if keeps else None)
        ctx.size, ctx.head_trains = size, head_trains
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.head_trains:
            (unscaled,) = ctx.saved_tensors
            return (unscaled * incoming[:, None]).to(unscaled.dtype), None, None, None, None, None
        hidden, weight, bias, targets, kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.empty_like(hidden) if wants_hidden else None  # (N, H)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None  # (V, H)
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None  # (V,)
        nll = torch.empty_like(incoming)
        for part in _chunks(len(hidden), ctx.size):
            errors = kept  # (C, V); the gradient of row i of the logits is incoming[i] times row i of it
            if errors is None:
                errors = _to_errors_(quick_linear(hidden[part], weight, bias), targets[part], nll[part])
            scale = incoming[part, None]  # (C, 1)
            if of_bias is not None:
                of_bias += (errors.T.to(scale.dtype) @ scale).squeeze(1)
            if of_hidden is not None:
                of_hidden[part] = quick_linear(errors, weight.T) * scale
            if of_weight is not None:
                of_weight += errors.T @ (hidden[part] * scale).to(errors.dtype)
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _to_errors_(logits: Tensor, targets: Tensor, nll: Tensor, *, only_nll: bool = False) -> Tensor:
    """Write -log softmax(logits)[targets] into nll (C,), and softmax(logits) - onehot(targets) over the logits (C, V).

    Computed in float32, whatever the format of the logits, which are returned.
    """
    if native.is_native(logits):
        native_softmax_errors(logits, targets, nll, only_nll=only_nll)
        return logits
    on_cpu = logits.device.type == "cpu"
    rows = max(1, _LOGITS_IN_CACHE // logits.shape[1]) if on_cpu else len(logits)
    for part in _chunks(len(logits), rows):
        target = targets[part, None]  # (R, 1)
        log_probabilities = logits[part].log_softmax(-1, dtype=torch.float32)  # (R, V)
        nll[part] = -log_probabilities.gather(1, target).squeeze(1)
        if not only_nll:
            probabilities = log_probabilities.exp_()
            probabilities.scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
            logits[part] = probabilities
    return logits
