"""Freed blocks stay mapped after the allocator is told to keep them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# run from its file: importing the part would import torch first
ALLOCATOR = Path(__file__).parents[2] / "src" / "tunesmith" / "train" / "allocator.py"
SCRIPT = """
import ctypes, resource, runpy, sys
if sys.argv[1] == "keep":
    assert runpy.run_path(sys.argv[2])["keep_freed_memory"]()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 16 * 2**20
def touch():
    block = libc.malloc(size); ctypes.memset(block, 1, size); libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode, str(ALLOCATOR)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_page_faults_vanish() -> None:
    default, kept = faults("default"), faults("keep")
    assert kept < 1000 or kept < default / 10
