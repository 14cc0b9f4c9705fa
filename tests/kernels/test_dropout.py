"""Dropout: its probabilities, its gradient, and that the same generator gives the same numbers."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tunesmith.kernels import draws_again, draws_from, drop
from tunesmith.kernels.dropout import chosen_to_drop, without


def dropped_of(like: Tensor, share: float) -> Tensor:
    """(N, I) bool, true where `chosen_to_drop` says."""
    ones = torch.ones(like.shape)
    return without(ones, chosen_to_drop(ones, share)) == 0


def test_the_rest_is_divided_and_gradients_go_where_numbers_went() -> None:
    tensor = torch.randn(7, 5, 3, dtype=torch.float64).requires_grad_()
    torch.manual_seed(4)
    out = drop(tensor, 0.25)
    kept = out != 0
    assert 0.5 < kept.double().mean() < 0.95
    torch.testing.assert_close(out, torch.where(kept, tensor / 0.75, 0.0))
    incoming = torch.randn_like(tensor)
    (gradient,) = torch.autograd.grad(out, tensor, incoming)
    torch.testing.assert_close(gradient, torch.where(kept, incoming / 0.75, 0.0))


@pytest.mark.parametrize("seeded", [True, False])
def test_what_is_computed_again_drops_the_same(seeded: bool) -> None:
    """Without `draws_again` the backward pass of a checkpoint would drop others: the gradient of another function."""
    tensor = torch.randn(50, 4).requires_grad_()

    def twice(number: Tensor) -> Tensor:
        return drop(torch.sin(drop(number, 0.4)), 0.3)

    gradients = []
    for recomputes in (False, True):
        torch.manual_seed(3)
        with draws_from(torch.Generator().manual_seed(8)) if seeded else nullcontext():
            out = (
                checkpoint(twice, tensor, use_reentrant=False, context_fn=draws_again) if recomputes else twice(tensor)
            )
        gradients.append(torch.autograd.grad(out.sum(), tensor)[0])  # outside, as in the loop
    assert torch.equal(*gradients)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_dropout_has_the_probability_asked_for_and_is_independent(share: float) -> None:
    torch.manual_seed(0)
    dropped = dropped_of(torch.empty(1000, 401), share)
    n = dropped.numel()
    assert dropped.double().mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)
    for step in (1, 2, 3, 4, 401):
        flat = dropped.flatten().double() - share
        correlation = (flat[:-step] * flat[step:]).mean().item() / (share * (1 - share))
        assert abs(correlation) < 5 / n**0.5


@pytest.mark.parametrize("share", [0.001, 0.05, 0.95])
@pytest.mark.parametrize("count", [1, 2, 50, 100_003])
def test_the_last_number_is_dropped_as_often_as_the_first(count: int, share: float) -> None:
    torch.manual_seed(1)
    trials = 400 if count < 1000 else 60
    drawn = torch.stack([dropped_of(torch.empty(1, count), share)[0] for _ in range(trials)]).double()
    for position in (0, -1):
        spread = (share * (1 - share) / trials) ** 0.5
        assert drawn[:, position].mean().item() == pytest.approx(share, abs=5 * spread + 1 / trials)


def test_dropout_is_a_well_formed_operator() -> None:
    like = torch.empty(33, 7)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.tunesmith.positions_to_drop.default, (like, 0.3), test_utils=checks)
    torch.library.opcheck(torch.ops.tunesmith.draw_seed.default, (like,), test_utils=checks)


def test_the_mask_is_a_function_of_the_seed() -> None:
    like = torch.empty(33, 7)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(dropped_of(like, 0.3))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
