"""Which errors mean that memory ran out, and what becomes of them."""

from __future__ import annotations

import pytest
import torch

from tunesmith.errors import ResourceError
from tunesmith.model import memory_errors


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 9 TB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
def test_out_of_memory_is_a_resource_error(error: Exception) -> None:
    with (
        pytest.raises(ResourceError, match="not enough memory for writing") as caught,
        memory_errors("writing", fix="x"),
    ):
        raise error
    assert caught.value.exit_code == 4
    assert caught.value.fix == "x"
    assert caught.value.cause


def test_torch_really_says_so() -> None:
    with pytest.raises(ResourceError), memory_errors("an impossible tensor", fix="x"):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)), memory_errors("writing", fix="x"):
        raise error
