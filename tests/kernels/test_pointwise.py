"""Norms and gates against plain autograd of the formulas in transformers, and what they keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.kernels import rms_norm, silu_product

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def plain_norm(inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(inputs.dtype)


def gradients(compute: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    out = compute(*inputs)
    incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad(out, inputs, incoming)


def make(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_norm_equals_plain_autograd(dtype: torch.dtype, eps: float) -> None:
    inputs = make((3, 5, 16), (16,), dtype=dtype)
    ours = gradients(lambda x, w: rms_norm(x, w, eps), *inputs)
    theirs = gradients(lambda x, w: plain_norm(x, w, eps), *inputs)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == reference.dtype
        torch.testing.assert_close(mine, reference)


def test_norm_of_a_weight_in_float32_over_bfloat16() -> None:
    """As where all weights train under autocast."""
    inputs, weight = make((7, 16), dtype=torch.bfloat16)[0], make((16,), dtype=torch.float32)[0]
    ours = gradients(lambda x, w: rms_norm(x, w, 1e-5), inputs, weight)
    theirs = gradients(lambda x, w: plain_norm(x, w, 1e-5), inputs, weight)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == reference.dtype
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_equals_plain_autograd(dtype: torch.dtype) -> None:
    inputs = make((3, 5, 16), (3, 5, 16), dtype=dtype)
    ours, theirs = gradients(silu_product, *inputs), gradients(lambda gate, up: F.silu(gate) * up, *inputs)
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("compute", [lambda x: rms_norm(x, x.new_ones(16), 1e-6), lambda x: silu_product(x, x)])
def test_only_inputs_are_kept(compute: Callable[[Tensor], Tensor]) -> None:
    (inputs,) = make((1000, 16), dtype=torch.bfloat16)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        compute(inputs)
    large = [tensor for tensor in kept if tensor.numel() > 1000]
    assert large
    assert all(tensor.data_ptr() == inputs.data_ptr() for tensor in large)
