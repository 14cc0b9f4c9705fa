"""Dropout whose numbers come from a generator that the caller chooses, thread by thread (CPU).

Passes that run side by side then draw the same numbers in whatever order they are computed, and what is computed again
draws them again. On other devices the generator is that of the device.

Shapes: N positions, I numbers each.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

_DRAWS = threading.local()


@contextmanager
def draws_from(generator: torch.Generator) -> Iterator[None]:
    """Inside, in this thread, everything here draws from `generator` on a CPU."""
    before = _generator()
    _DRAWS.generator = generator
    try:
        yield
    finally:
        _DRAWS.generator = before


def draws_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """`context_fn` of torch.utils.checkpoint: what is computed again draws what it drew the first time.

    The checkpoint itself takes care of the default generators only.
    """
    generator = _generator()
    if generator is None:
        return nullcontext(), nullcontext()
    again = torch.Generator()
    again.set_state(generator.get_state())
    return nullcontext(), draws_from(again)


def drop(tensor: Tensor, share: float) -> Tensor:
    """Zeros in place of a share of the numbers, chosen as `chosen_to_drop` does, the others divided by 1 - share."""
    dropped = chosen_to_drop(tensor, share)
    out: Tensor = _Drop.apply(tensor, dropped, 1 / (1 - share))  # type: ignore[no-untyped-call]
    return out


def chosen_to_drop(like: Tensor, share: float) -> Tensor:
    """Which numbers of `like` are dropped, each with probability `share` whatever the others: for `without`."""
    if like.device.type != "cpu":
        return torch.rand(like.shape, device=like.device) < share
    positions: Tensor = _positions(like, share)
    return positions


def without(tensor: Tensor, dropped: Tensor | None) -> Tensor:
    """A contiguous copy of `tensor` with zeros where `chosen_to_drop` says; itself where nothing is dropped (None)."""
    if dropped is None:
        return tensor
    if dropped.dtype == torch.bool:
        return tensor.masked_fill(dropped, 0)
    count = tensor.numel()
    copy = tensor.new_empty(count + 1)  # one more, for positions beyond the end
    copy[:count].view(tensor.shape).copy_(tensor)
    return copy.index_fill_(0, dropped.long(), 0)[:count].view(tensor.shape)


def drawn_positions(count: int, share: float, generator: torch.Generator | None) -> Tensor:
    """Positions of what is dropped of `count` numbers, ascending, int64; those beyond the end all say `count`.

    On a CPU the generator is the cost of dropout. The distances between what is dropped are geometric, so one draw is
    needed for each number dropped and not for each number (Devroye 1986, Non-Uniform Random Variate Generation, X.2).
    """
    distances = torch.empty(_most_dropped(count, share), dtype=torch.int64)
    distances.geometric_(share, generator=generator)
    return distances.cumsum_(0).sub_(1).clamp_(max=count)


# Custom operators, because a compiler can neither see the generator of a thread nor may it draw once for two calls.


@torch.library.custom_op(
    "tunesmith::positions_to_drop", mutates_args=(), device_types="cpu", tags=(torch.Tag.nondeterministic_seeded,)
)
def _positions(like: Tensor, share: float) -> Tensor:
    return drawn_positions(like.numel(), share, _generator()).to(_format_of(like.numel()))


@_positions.register_fake
def _(like: Tensor, share: float) -> Tensor:
    return torch.empty(_most_dropped(like.numel(), share), dtype=_format_of(like.numel()))


@torch.library.custom_op(
    "tunesmith::draw_seed", mutates_args=(), device_types="cpu", tags=(torch.Tag.nondeterministic_seeded,)
)
def draw_seed(like: Tensor) -> Tensor:
    """(1,) int64: the seed of a generator, for who has to draw the same numbers twice. `like` only has to be there."""
    return torch.tensor([drawn_seed()])


@draw_seed.register_fake
def _(like: Tensor) -> Tensor:
    return torch.empty(1, dtype=torch.int64)


def drawn_seed() -> int:
    """A seed by the generator of `draws_from`, below 2^62; not for code that a compiler sees."""
    return int(torch.randint(1 << 62, (), generator=_generator()))


def _generator() -> torch.Generator | None:
    generator: torch.Generator | None = getattr(_DRAWS, "generator", None)
    return generator


def _most_dropped(count: int, share: float) -> int:
    """At least eight standard deviations more than are dropped on average, for every count."""
    thousandths = math.ceil(share * 1000)
    return count * thousandths * 11 // 10_000 + 176


def _format_of(count: int) -> torch.dtype:
    """Of positions that are kept until the backward pass: half the memory wherever they fit."""
    return torch.int32 if count < 2**31 else torch.int64


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dropped: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(dropped)
        ctx.factor = factor
        return without(tensor, dropped).mul_(factor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        (dropped,) = ctx.saved_tensors
        return without(of_out, dropped).mul_(ctx.factor), None, None
