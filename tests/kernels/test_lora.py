"""lora_linear against the formula in plain autograd, and its dropout."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import LoraLayer, lora_linear
from tunesmith.kernels.dropout import chosen_to_drop, without


def make(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> tuple[Tensor, list[LoraLayer]]:
    """Inputs (2, 5, 12), and three layers that read them, each of another size."""
    torch.manual_seed(0)
    layers = [
        LoraLayer(
            torch.randn(outputs, 12, dtype=dtype),
            torch.randn(outputs, dtype=dtype) if bias else None,
            torch.randn(rank, 12, dtype=dtype, requires_grad=True),
            torch.randn(outputs, rank, dtype=dtype, requires_grad=True),
            scale,
        )
        for outputs, rank, scale in ((7, 3, 0.5), (4, 1, 2.0), (9, 5, 0.3))
    ]
    return torch.randn(2, 5, 12, dtype=dtype, requires_grad=True), layers


def adapters_of(layers: Sequence[LoraLayer]) -> list[Tensor]:
    return [weight for layer in layers for weight in (layer.down, layer.up)]


def dropped_of(like: Tensor, share: float) -> Tensor:
    """(N, I) bool, true where `lora_linear` drops."""
    if not share:
        return torch.zeros(like.shape, dtype=torch.bool)
    ones = torch.ones(like.shape)
    return without(ones, chosen_to_drop(ones, share)) == 0


def plain(inputs: Tensor, layer: LoraLayer, kept: Tensor) -> Tensor:
    out = inputs @ layer.weight.T + layer.scale * (inputs * kept) @ layer.down.T @ layer.up.T
    return out if layer.bias is None else out + layer.bias


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_and_gradients(dropout: float, bias: bool, count: int) -> None:
    inputs, layers = make(bias=bias)
    layers = layers[:count]
    torch.manual_seed(5)
    ours = lora_linear(inputs, *layers, dropout=dropout)
    torch.manual_seed(5)
    dropped = [dropped_of(torch.empty(10, 12), dropout).view(2, 5, 12) for _ in layers]
    assert all(chosen.any() == bool(dropout) for chosen in dropped)
    assert not dropout or count == 1 or not torch.equal(dropped[0], dropped[1])
    theirs = [
        plain(inputs, layer, (~chosen).double() / (1 - dropout)) for layer, chosen in zip(layers, dropped, strict=True)
    ]
    incoming = [torch.randn_like(out) for out in ours]
    trained = [inputs, *adapters_of(layers)]
    for mine, reference in zip(
        [*ours, *torch.autograd.grad(ours, trained, incoming)],
        [*theirs, *torch.autograd.grad(theirs, trained, incoming)],
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)


def test_a_layer_whose_result_is_not_used_is_as_if_it_were_not_there() -> None:
    inputs, layers = make()
    first, _, third = lora_linear(inputs, *layers)
    (first.sum() + third.square().sum()).backward()
    found = [weight.grad for weight in adapters_of(layers)]
    assert [gradient is None for gradient in found] == [False, False, True, True, False, False]
    first, third = (plain(inputs, layer, torch.ones(1)) for layer in (layers[0], layers[2]))
    wanted = torch.autograd.grad(first.sum() + third.square().sum(), [inputs, *adapters_of([layers[0], layers[2]])])
    for gradient, reference in zip((inputs.grad, found[0], found[1], found[4], found[5]), wanted, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_an_input_without_gradient_costs_none() -> None:
    inputs, layers = make()
    inputs = inputs.detach()
    sum(out.sum() for out in lora_linear(inputs, *layers)).backward()  # type: ignore[union-attr]
    assert inputs.grad is None
    assert all(weight.grad is not None for weight in adapters_of(layers))


@pytest.mark.parametrize("shape", [(0,), (2, 0), (1,), ()])
def test_of_few_positions_and_none(shape: tuple[int, ...]) -> None:
    inputs, layers = torch.randn(*shape, 12, dtype=torch.float64, requires_grad=True), make()[1]
    ours, theirs = lora_linear(inputs, *layers), [plain(inputs, layer, torch.ones(1)) for layer in layers]
    trained = [inputs, *adapters_of(layers)]
    gradients = (torch.autograd.grad(sum(out.sum() for out in outs), trained) for outs in (ours, theirs))  # type: ignore[arg-type]
    for mine, reference in zip([*ours, *next(gradients)], [*theirs, *next(gradients)], strict=True):
        torch.testing.assert_close(mine, reference)


def test_autocast_decides_the_format_and_gradients_keep_theirs() -> None:
    inputs, layers = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        outs = lora_linear(inputs, *layers)
    for out, layer in zip(outs, layers, strict=True):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), plain(inputs, layer, torch.ones(1)), atol=0.15, rtol=0.05)
    outs[0].sum().backward()
    assert layers[0].down.grad is not None
    assert layers[0].down.grad.dtype == torch.float32


def test_what_is_kept_for_the_backward_pass() -> None:
    """The input once, in the format of the computation, for however many layers: the reason for the kernel."""
    inputs, layers = make(torch.bfloat16)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        lora_linear(inputs, *layers)
    assert sum(tensor.numel() == inputs.numel() for tensor in saved) == 1
    assert max(tensor.numel() for tensor in saved) == inputs.numel()
    assert all(tensor.dtype == torch.bfloat16 for tensor in saved)
