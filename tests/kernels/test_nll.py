"""selected_nll against log_softmax in float64: values, gradients, number formats, and the memory it is there for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import nll as nll_module
from tunesmith.kernels import selected_nll

HIDDEN, VOCAB = 8, 23


def make_inputs(positions: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(positions, HIDDEN, generator=generator)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator)
    bias = torch.randn(VOCAB, generator=generator)
    targets = torch.randint(0, VOCAB, (positions,), generator=generator)
    return hidden, weight, bias, targets


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    return -logits.log_softmax(-1)[torch.arange(len(targets)), targets]


@given(
    positions=st.integers(0, 9),
    chunk=st.none() | st.integers(1, 10),
    head_trains=st.booleans(),
    hidden_trains=st.booleans(),
    has_bias=st.booleans(),
)
@example(positions=7, chunk=3, head_trains=True, hidden_trains=True, has_bias=True)
@example(positions=7, chunk=3, head_trains=False, hidden_trains=True, has_bias=False)
@settings(max_examples=60)
def test_equals_log_softmax_in_values_and_gradients(
    positions: int, chunk: int | None, head_trains: bool, hidden_trains: bool, has_bias: bool
) -> None:
    hidden, weight, bias, targets = make_inputs(positions, seed=positions)
    upstream = torch.arange(1.0, positions + 1) - 3.5  # uneven and of both signs: a mean would hide a mix-up
    results = []
    for function in (selected_nll, reference):
        leaves = [hidden.clone().requires_grad_(hidden_trains), weight.clone().requires_grad_(head_trains)]
        leaves += [bias.clone().requires_grad_(head_trains)] if has_bias else []
        extra: dict[str, Any] = {"chunk_tokens": chunk} if function is selected_nll else {}
        values = function(leaves[0], leaves[1], leaves[2] if has_bias else None, targets, **extra)
        if head_trains or hidden_trains:
            (values * upstream.to(values.dtype)).sum().backward()
        results.append((values, [leaf.grad for leaf in leaves]))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    for our_gradient, their_gradient in zip(our_gradients, their_gradients, strict=True):
        assert (our_gradient is None) == (their_gradient is None)
        if our_gradient is not None:
            torch.testing.assert_close(our_gradient, their_gradient, atol=1e-4, rtol=1e-4)


def test_only_a_bias_that_trains_gets_its_gradient() -> None:
    hidden, weight, bias, targets = make_inputs(7)
    bias.requires_grad_()
    selected_nll(hidden, weight, bias, targets, chunk_tokens=3).sum().backward()
    expected = bias.detach().clone().requires_grad_()
    reference(hidden, weight, expected, targets).sum().backward()
    torch.testing.assert_close(bias.grad, expected.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_trains", [False, True])
def test_no_more_logits_than_a_chunk_ever_exist(monkeypatch: pytest.MonkeyPatch, head_trains: bool) -> None:
    seen: list[int] = []

    def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if len(weight) == VOCAB:
            seen.append(len(inputs))
        return F.linear(inputs, weight, bias)

    monkeypatch.setattr(nll_module, "quick_linear", linear)
    hidden, weight, bias, targets = make_inputs(10)
    weight.requires_grad_(head_trains)
    selected_nll(hidden.requires_grad_(), weight, bias, targets, chunk_tokens=4).sum().backward()
    assert seen == [4, 4, 2] * (2 if head_trains else 1)  # a frozen head is never multiplied again


def test_the_chunk_follows_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setitem(nll_module.LOGITS_PER_CHUNK, "cpu", 3 * VOCAB)
    monkeypatch.setattr(nll_module, "quick_linear", lambda h, w, b: (seen.append(len(h)), F.linear(h, w, b))[1])
    selected_nll(*make_inputs(7))
    assert seen == [3, 3, 1]


@pytest.mark.parametrize("chunk", [None, 3])
def test_bfloat16_is_summed_in_float32(chunk: int | None) -> None:
    hidden, weight, bias, targets = make_inputs(8)
    hidden, weight, bias = hidden.bfloat16(), weight.bfloat16(), bias.bfloat16()
    hidden.requires_grad_()
    values = selected_nll(hidden, weight, bias, targets, chunk_tokens=chunk)
    values.sum().backward()
    rounded_logits = F.linear(hidden.detach(), weight, bias).float()
    expected = F.cross_entropy(rounded_logits, targets, reduction="none")
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-6)
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("chunk", [None, 3])
def test_autocast_computes_as_a_linear_layer_would(chunk: int | None) -> None:
    hidden, weight, bias, targets = make_inputs(8)
    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        values = selected_nll(hidden, ours, bias, targets, chunk_tokens=chunk)
        expected = F.cross_entropy(F.linear(hidden, theirs, bias).float(), targets, reduction="none")
    values.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=0.05, rtol=0.02)  # bfloat16 rounds at 1/256
    assert not torch.allclose(values.double(), reference(hidden, weight, bias, targets), atol=1e-6)


def test_without_gradients_nothing_is_kept() -> None:
    hidden, weight, bias, targets = make_inputs(8)
    with torch.no_grad():
        values = selected_nll(hidden, weight.requires_grad_(), bias, targets, chunk_tokens=3)
    assert not values.requires_grad
    torch.testing.assert_close(values.double(), reference(hidden, weight, bias, targets).detach(), atol=1e-5, rtol=1e-5)
