"""Attention in C++ against packed_attention in double precision, which is held against PyTorch's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import native, packed_attention
from tunesmith.kernels.native import is_native, native_kernels, why_not_native

WIDTHS = [16, 20, 48, 64, 80, 128]
NAMES = ("value", "of query", "of key", "of value")
ROUNDING = 2.0**-7  # bfloat16 has 8 digits, and a result goes through three roundings


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    reason = why_not_native()
    if reason:
        pytest.skip(f"no kernels in C++: {reason}")
    with native_kernels(wanted=True):
        yield


def make(lengths: list[int], heads: int, kv_heads: int, width: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """[query, key, value], three views of what one projection gives; the gradient that comes in; boundaries."""
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = sum(lengths)
    joined = torch.randn(tokens, heads + 2 * kv_heads, width, generator=generator).bfloat16()
    incoming = torch.randn(tokens, heads, width, generator=generator).bfloat16()
    return list(joined.split([heads, kv_heads, kv_heads], dim=1)), incoming, torch.tensor([0, *lengths]).cumsum(0)


def computed(tensors: list[Tensor], incoming: Tensor, boundaries: Tensor, scale: float) -> list[Tensor]:
    """The result and the three gradients."""
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    out = packed_attention(*inputs, boundaries, scale=scale)
    return [out.detach(), *torch.autograd.grad(out, inputs, incoming)]


@given(
    lengths=st.lists(st.one_of(st.just(1), st.integers(1, 300)), min_size=1, max_size=3),
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 8),
    width=st.sampled_from(WIDTHS),
    sharpness=st.floats(0.1, 3),
)
@settings(max_examples=25)
def test_equals_double_precision_within_the_formats_rounding(
    lengths: list[int], kv_heads: int, groups: int, width: int, sharpness: float
) -> None:
    tensors, incoming, boundaries = make(lengths, kv_heads * groups, kv_heads, width)
    scale = sharpness * width**-0.5
    assert is_native(*tensors)
    ours = computed(tensors, incoming, boundaries, scale)
    exact = computed([tensor.double() for tensor in tensors], incoming.double(), boundaries, scale)
    for name, found, wanted in zip(NAMES, ours, exact, strict=True):
        off = (found.double() - wanted).abs()
        # where a softmax is all but certain, gradients of scores are small differences of numbers that are not
        unit = sharpness if name in ("of query", "of key") else 0.0
        assert off.norm() < ROUNDING * (wanted.norm() + 0.3 * unit * wanted.numel() ** 0.5), name
        assert off.max() < 2 * ROUNDING * (wanted.abs().max() + 2 * unit), name


@pytest.mark.parametrize("width", [20, 64])
def test_the_same_to_the_bit_with_any_number_of_threads(width: int) -> None:
    tensors, incoming, boundaries = make([1, 37, 200, 64, 5], 6, 3, width)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(computed(tensors, incoming, boundaries, 0.3))
    finally:
        torch.set_num_threads(before)
    for name, one, two in zip(NAMES, *found, strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["query", "key", "value", "incoming"])
def test_a_number_that_is_none_comes_out_as_one(which: str, bad: float) -> None:
    """In the last token of the first sequence; the second is as it was without."""
    tensors, incoming, boundaries = make([70, 40], 4, 2, 20)
    wanted = computed(tensors, incoming, boundaries, 0.3)
    tensors, incoming = [tensor.clone() for tensor in tensors], incoming.clone()
    spoilt = dict(zip(("query", "key", "value", "incoming"), (*tensors, incoming), strict=True))[which]
    spoilt[69, 0, 3] = bad
    out, *gradients = computed(tensors, incoming, boundaries, 0.3)
    assert which == "incoming" or not out[69, 0].isfinite().all()
    assert not all(gradient[:70].isfinite().all() for gradient in gradients)
    for name, found, plain in zip(NAMES, (out, *gradients), wanted, strict=True):
        assert torch.equal(found[70:], plain[70:]), name


def test_memory_that_runs_out_in_a_kernel_is_an_error_and_no_end() -> None:
    """A sequence, or a rank, for which no machine has memory; nothing of it is read before."""
    tensor, endless = torch.zeros(1, 1, 16).bfloat16(), 1 << 43
    tensors, strides = [tensor] * 6, [16] * 8
    sizes = (torch.tensor([0, endless]), 1, 1, 1, 16, 1.0)
    with pytest.raises(MemoryError, match=r"for the kernel attend$"):
        native.call("attend", *tensors[:3], strides, *sizes, tensor, tensor)
    with pytest.raises(MemoryError, match="for the kernel attend_backward"):
        native.call("attend_backward", *tensors, strides, *sizes, *tensors[:3])
    layers = (1, 16, 1, [16], [endless], [tensor], [tensor], [1.0])
    with pytest.raises(MemoryError, match=r"for the kernel lora$"):
        native.call("lora", tensor, *layers, 0.0, [0], *[[tensor]] * 2, [tensor[:0]])
    with pytest.raises(MemoryError, match="for the kernel lora_backward"):
        native.call("lora_backward", tensor, *layers, *[[tensor]] * 2, [tensor[:0]], tensor, *[[tensor]] * 2)


def test_is_a_well_formed_operator() -> None:
    tensors, _, boundaries = make([5, 70], 4, 2, 20)
    inputs = [tensor.clone().requires_grad_() for tensor in tensors]
    torch.library.opcheck(torch.ops.tunesmith.native_attend.default, (*inputs, boundaries, 0.3))
