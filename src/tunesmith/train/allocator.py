"""Keep the memory that a training step frees, so that the next step finds it mapped."""

from __future__ import annotations

import ctypes
import sys

# parameters of mallopt(3), glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_TOP_PAD_BYTES = 64 * 2**20
_MMAP_THRESHOLD_BYTES = 32 * 2**20  # the largest that glibc takes on 64 bits


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to hold on to freed memory; elsewhere nothing is done. Returns whether it was told.

    By default glibc gives large freed blocks back to the kernel and gets them again, page fault by page fault, a moment
    later. A training step allocates the same blocks every time, so on a CPU that can cost more than the arithmetic of a
    small model. Blocks over 32 MiB still go back: kept, they would break the heap into pieces that no other fits.
    Threads share one arena: what one frees, another takes. Other allocators (macOS, musl, jemalloc) have no mallopt or
    ignore it.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        _M_ARENA_MAX: 1,
        _M_MMAP_THRESHOLD: _MMAP_THRESHOLD_BYTES,
        _M_TRIM_THRESHOLD: -1,
        _M_TOP_PAD: _TOP_PAD_BYTES,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())
