"""Several passes of one step side by side on a CPU, each on cores of its own. Knows no loss and no order of rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

import torch
from torch import nn

from tunesmith.model.dropout import draws_itself
from tunesmith.model.packing import base_of
from tunesmith.model.size import SMALL_MODEL_PARAMETERS, count_parameters

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tokens of a step for each lane from which lanes pay: 15 M parameters trained whole were 7 % slower at 382, LoRA on
# 135 M a fifth faster at 1,024.
_LEAST_TOKENS = 512


class Lanes:
    """`count` Python threads with `threads` of torch's each; a single lane is the caller's own thread.

    A pass on all cores leaves them waiting for one another between its many small operations: with LoRA on 135 M
    parameters two cores were 1.5 times as fast as one, two passes side by side on a core each 1.9 times.

    Args:
        least_tokens: fewer tokens in a step are computed in a single lane.
    """

    def __init__(self, count: int = 1, threads: int = 1, *, least_tokens: int = 0) -> None:
        self.count = count
        self._threads = threads
        self._least_tokens = least_tokens
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Lanes:
        if self.count > 1:
            self._pool = ThreadPoolExecutor(
                self.count, "lane", initializer=torch.set_num_threads, initargs=(self._threads,)
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            before = torch.get_num_threads()
            self._pool.shutdown()
            self._pool = None
            torch.set_num_threads(before)  # a thread that starts later takes the number that was set last

    def for_step(self, tokens: int) -> Lanes:
        """These lanes, or a single one where they would not pay."""
        return self if tokens >= self._least_tokens else Lanes()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
        """`function` of each item, in their order; no more than `count` results exist unseen.

        It computes under the gradient mode and autocast of the caller. When it raises, or the caller leaves early, what
        is under way ends before this does.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        inside = _as_here(function)
        remaining = iter(items)
        running: deque[Future[Result]] = deque()
        # What the caller does with a result is beside lanes that have every core: a second thread of its would make
        # both wait for a turn (a tenth of a step of 15 M parameters trained whole).
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            running.extend(self._pool.submit(inside, item) for item in islice(remaining, self.count))
            while running:
                yield running.popleft().result()
                running.extend(self._pool.submit(inside, item) for item in islice(remaining, 1))
        finally:
            try:
                wait(running)
            finally:  # a second signal ends the waiting
                torch.set_num_threads(before)


def choose_lanes(model: nn.Module, device: torch.device, *, tokens: int) -> Lanes:
    """As many lanes as pay for passes over `tokens` tokens in all.

    One where lanes would change a result, because dropout draws from the one generator of the process or the model
    keeps something from pass to pass, or would cost much memory, because each has gradients of its own.
    """
    threads = torch.get_num_threads()
    count = min(threads, tokens // _LEAST_TOKENS)
    trainable, _ = count_parameters(model)
    is_large = trainable > SMALL_MODEL_PARAMETERS
    if device.type != "cpu" or count < 2 or is_large or _has_a_memory(model) or draws_itself(model):
        return Lanes()
    return Lanes(count, threads // count, least_tokens=count * _LEAST_TOKENS)


def _has_a_memory(model: nn.Module) -> bool:
    """Quantised layers keep what they compute with, some rotary embeddings the frequencies for the rows of the pass."""
    stretches = any(getattr(module, "rope_type", None) in ("dynamic", "longrope") for module in model.modules())
    return stretches or getattr(base_of(model), "is_quantized", False)


def _as_here(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    gradients, enabled, dtype = (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
    )

    def inside(item: Item) -> Result:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype, enabled=enabled, cache_enabled=False):
            return function(item)

    return inside
