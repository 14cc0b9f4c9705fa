"""Sizes that come again: few, close to what is asked for, and what the products of the kernels really have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.kernels import packed_attention, recurring_size, selected_nll


@given(st.integers(0, 10**6))
def test_the_next_of_few_sizes(count: int) -> None:
    size = recurring_size(count)
    assert count <= size <= count * 17 / 16
    assert recurring_size(size) == size


def test_there_are_sixteen_between_powers_of_two() -> None:
    assert [len({recurring_size(count) for count in range(low + 1, 2 * low + 1)}) for low in (8, 64, 4096)] == [
        8,
        16,
        16,
    ]


def test_blocks_of_attention_have_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, product = set(), torch.bmm

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.update([*left.shape[1:], right.shape[2]])
        return product(left, right)

    monkeypatch.setattr(torch, "bmm", watched)
    lengths = [1, 33, 95, 97, 100, 131, 200]
    query, key, value = (torch.randn(sum(lengths), heads, 8, requires_grad=True) for heads in (2, 1, 1))
    boundaries = torch.tensor([0, *lengths]).cumsum(0)
    packed_attention(query, key, value, boundaries, scale=1.0).sum().backward()
    assert {size % 32 for size in seen - {8}} == {0}
    assert len(seen) < 10


@pytest.mark.parametrize("head_trains", [True, False])
def test_logits_have_few_sizes(monkeypatch: pytest.MonkeyPatch, head_trains: bool) -> None:
    from tunesmith.kernels import nll

    seen, product = set(), nll.quick_linear

    def watched(inputs: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.add(len(inputs))
        return product(inputs, *others)

    monkeypatch.setattr(nll, "quick_linear", watched)
    weight = torch.randn(50, 8, requires_grad=head_trains)
    for count in range(97, 127):
        hidden = torch.randn(count, 8, requires_grad=True)
        found = selected_nll(hidden, weight, None, torch.zeros(count, dtype=torch.int64), chunk_tokens=64)
        assert found.shape == (count,)
        found.sum().backward()
    assert seen == {64, *range(36, 64, 4)}
