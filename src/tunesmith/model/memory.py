"""Running out of memory, told as what it is: something that the machine does not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunesmith.errors import ResourceError

# How torch says it where it has no exception of its own: the CPU allocator; MPS and CUDA libraries.
_IN_WORDS = ("can't allocate memory", "out of memory")


@contextmanager
def memory_errors(doing: str, *, fix: str) -> Iterator[None]:
    """Turn running out of memory inside into a ResourceError about `doing`; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise ResourceError(f"not enough memory for {doing}", cause=cause, fix=fix) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the host or the device has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _IN_WORDS)
