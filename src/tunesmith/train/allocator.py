"""Keep the memory that a training step frees, so that the next step finds it mapped."""

from __future__ import annotations

import ctypes
import sys

# parameters of mallopt(3), glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to hold on to freed memory; elsewhere nothing is done. Returns whether it was told.

    By default glibc gives every block over 32 MiB back to the kernel when it is freed and gets it again, page fault by
    page fault, a moment later. A training step allocates the same large blocks every time, so on a CPU that costs more
    than the arithmetic of small models. Other allocators (macOS, musl, jemalloc) have no mallopt or ignore it.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _TOP_PAD_BYTES}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
