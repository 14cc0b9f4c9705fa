"""lora_linear against the formula in plain autograd, and its dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import lora_linear
from tunesmith.kernels.dropout import chosen_to_drop, without


def make(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"inputs": (2, 5, 12), "weight": (7, 12), "bias": (7,), "down": (3, 12), "up": (7, 3)}
    made = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    for name in ("inputs", "down", "up"):
        made[name].requires_grad_()
    return made


def dropped_of(like: Tensor, share: float) -> Tensor:
    """(N, I) bool, true where `lora_linear` drops."""
    if not share:
        return torch.zeros(like.shape, dtype=torch.bool)
    ones = torch.ones(like.shape)
    return without(ones, chosen_to_drop(ones, share)) == 0


def plain(inputs: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, kept: Tensor) -> Tensor:
    out = inputs @ weight.T + 0.5 * (inputs * kept) @ down.T @ up.T
    return out if bias is None else out + bias


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients(dropout: float, with_bias: bool) -> None:
    tensors = make()
    if not with_bias:
        tensors["bias"] = None  # type: ignore[assignment]
    torch.manual_seed(5)
    ours = lora_linear(**tensors, scale=0.5, dropout=dropout)
    torch.manual_seed(5)
    dropped = dropped_of(torch.empty(10, 12), dropout).view(2, 5, 12)
    assert dropped.any() == bool(dropout)
    theirs = plain(**tensors, kept=(~dropped).double() / (1 - dropout))
    torch.testing.assert_close(ours, theirs)
    incoming = torch.randn_like(ours)
    trained = [tensors[name] for name in ("inputs", "down", "up")]
    for mine, reference in zip(
        torch.autograd.grad(ours, trained, incoming), torch.autograd.grad(theirs, trained, incoming), strict=True
    ):
        torch.testing.assert_close(mine, reference)


def test_an_input_without_gradient_costs_none() -> None:
    tensors = make()
    tensors["inputs"] = tensors["inputs"].detach()
    lora_linear(**tensors, scale=0.5).sum().backward()
    assert tensors["inputs"].grad is None
    assert tensors["up"].grad is not None


def test_autocast_decides_the_format_and_gradients_keep_theirs() -> None:
    tensors = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = lora_linear(**tensors, scale=0.5)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert tensors["down"].grad is not None
    assert tensors["down"].grad.dtype == torch.float32
    torch.testing.assert_close(out.float(), plain(**tensors, kept=torch.ones(1)), atol=0.15, rtol=0.05)


def test_what_is_kept_for_the_backward_pass() -> None:
    """The input once, in the format of the computation: the reason for the kernel."""
    tensors = make(torch.bfloat16)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        lora_linear(**tensors, scale=0.5)
    large = [tensor for tensor in saved if tensor.numel() >= tensors["inputs"].numel()]
    assert sum(tensor.numel() == tensors["inputs"].numel() for tensor in large) == 1
    assert all(tensor.dtype == torch.bfloat16 for tensor in saved)
