"""How much is computed at once: halved when memory runs out, which changes no optimizer step."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from tunesmith.errors import ResourceError

Result = TypeVar("Result")

# How torch says it where it has no exception of its own: the CPU allocator; MPS and CUDA libraries.
_IN_WORDS = ("can't allocate memory", "out of memory")
_FIX = "lower data.max_length, set train.gradient_checkpointing, or take a smaller model or method.name lora"


@dataclass(slots=True)
class MicroBatches:
    """At most `limit` rows go through the model at once."""

    limit: int

    def halve(self) -> bool:
        """False when there is nothing left to halve."""
        if self.limit == 1:
            return False
        self.limit = (self.limit + 1) // 2
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
            cause = _first_line(error)
        # outside the handler: the traceback holds the tensors of the attempt until here
        if not sizes.halve():
            raise ResourceError("not enough memory for a single row", cause=cause, fix=_FIX)
        free_memory()
        halved()


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn running out of memory, where no smaller batch would help, into a ResourceError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"not enough memory for {doing}", cause=_first_line(error), fix=_FIX) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the host or the device has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _IN_WORDS)


def free_memory() -> None:
    """Give what is no longer used back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
