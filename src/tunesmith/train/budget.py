"""How much is computed at once: halved when memory runs out, which changes no optimizer step."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from tunesmith.errors import ResourceError
from tunesmith.model import is_out_of_memory

Result = TypeVar("Result")

MEMORY_FIX = "lower data.max_length, set train.gradient_checkpointing, or take a smaller model or method.name lora"


@dataclass(slots=True)
class MicroBatches:
    """At most `limit` tokens go through the model at once, or one row of up to `longest` tokens."""

    limit: int
    longest: int

    def halve(self) -> bool:
        """False when the longest row is alone already."""
        if self.limit <= self.longest:
            return False
        self.limit = max(self.longest, self.limit // 2)
        return True


def within_memory(sizes: MicroBatches, compute: Callable[[], Result], *, halved: Callable[[], None]) -> Result:
    """`compute()`, which looks at `sizes.limit`; tried again from its start at half the size until it fits.

    Args:
        halved: called after every halving.

    Raises:
        ResourceError: a single row does not fit.
    """
    while True:
        try:
            return compute()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            cause = (str(error) or type(error).__name__).splitlines()[0]
        # outside the handler: the traceback holds the tensors of the attempt until here
        if not sizes.halve():
            raise ResourceError("not enough memory for a single row", cause=cause, fix=MEMORY_FIX)
        free_memory()
        halved()


def free_memory() -> None:
    """Give what is no longer used back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
