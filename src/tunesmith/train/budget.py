"""How much is computed at once: halved when memory runs out, which changes no optimizer step."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from tunesmith.errors import ResourceError
from tunesmith.model import is_out_of_memory
from tunesmith.train.device import ALONE, Processes

Result = TypeVar("Result")

MEMORY_FIX = "lower data.max_length, set train.gradient_checkpointing, or take a smaller model or method.name lora"


@dataclass(slots=True)
class MicroBatches:
    """At most `limit` tokens go through the model at once, or one row of up to `longest` tokens in each lane."""

    limit: int
    longest: int
    lanes: int = 1

    def halve(self) -> bool:
        """False when the longest row is alone already."""
        if self.limit <= self.longest:
            alone, self.lanes = self.lanes == 1, 1
            return not alone
        self.limit = max(self.longest, self.limit // 2)
        return True


def within_memory(
    sizes: MicroBatches,
    compute: Callable[[], Result],
    *,
    halved: Callable[[], None],
    processes: Processes = ALONE,
) -> Result:
    """`compute()`, which looks at `sizes.limit`; tried again from its start at half the size until it fits.

    When it does not fit on one of the processes, all try again. Where the weights are divided among them it cannot be
    tried again: the others wait inside the pass that failed.

    Args:
        halved: called after every halving.

    Raises:
        ResourceError: a single row does not fit.
    """
    while True:
        cause = ""
        try:
            result = compute()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            cause = (str(error) or type(error).__name__).splitlines()[0]
            if processes.sharded:
                fix = f"lower train.tokens_per_batch (now {sizes.limit}), or start more processes"
                raise ResourceError("not enough memory with divided weights", cause=cause, fix=fix) from error
        if not processes.highest(int(bool(cause))):
            return result
        # outside the handler: the traceback holds the tensors of the attempt until here
        if not sizes.halve():
            cause = cause or "another process ran out of memory"
            raise processes.echo(ResourceError("not enough memory for a single row", cause=cause, fix=MEMORY_FIX))
        free_memory()
        halved()


def free_memory() -> None:
    """Give what is no longer used back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
