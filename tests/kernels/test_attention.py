"""packed_attention against PyTorch's own attention on every sequence by itself, in double precision."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.kernels import packed_attention

WIDTH = 8


def make(
    lengths: list[int], heads: int, kv_heads: int, dtype: torch.dtype = torch.float64, width: int = WIDTH
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(sum(lengths))
    sizes = (heads, kv_heads, kv_heads)
    tensors = (torch.randn(sum(lengths), size, width, generator=generator, dtype=torch.float64) for size in sizes)
    boundaries = torch.tensor([0, *lengths]).cumsum(0)
    return *(tensor.to(dtype).requires_grad_() for tensor in tensors), boundaries


def one_by_one(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float) -> Tensor:
    parts = []
    for start, end in pairwise(boundaries.tolist()):
        rows = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(*rows, is_causal=True, scale=scale, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1), (1, 1)]),
    scale=st.floats(0.01, 2),
)
@settings(max_examples=25)
def test_equals_each_sequence_by_itself(lengths: list[int], heads: tuple[int, int], scale: float) -> None:
    *tensors, boundaries = make(lengths, *heads)
    ours = packed_attention(*tensors, boundaries, scale=scale)
    theirs = one_by_one(*tensors, boundaries, scale)
    incoming = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    for mine, reference in zip(
        torch.autograd.grad(ours, tensors, incoming), torch.autograd.grad(theirs, tensors, incoming), strict=True
    ):
        torch.testing.assert_close(mine, reference, atol=1e-11, rtol=1e-9)


def test_is_as_exact_in_bfloat16_as_pytorchs_own() -> None:
    *exact, boundaries = make([200, 37, 129], 4, 2)
    rough = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    exact = [tensor.detach().double().requires_grad_() for tensor in rough]  # the same numbers
    reference = one_by_one(*exact, boundaries, 0.35)
    incoming = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted = (reference, *torch.autograd.grad(reference, exact, incoming.double()))

    def errors(out: Tensor) -> list[float]:
        found = (out, *torch.autograd.grad(out, rough, incoming))
        return [(a.detach().double() - b.detach()).abs().mean().item() for a, b in zip(found, wanted, strict=True)]

    ours = errors(packed_attention(*rough, boundaries, scale=0.35))
    theirs = errors(one_by_one(*rough, boundaries, 0.35))
    assert all(mine < 1.4 * reference for mine, reference in zip(ours, theirs, strict=True))


def dropped_probabilities(query: Tensor, key: Tensor, scale: float, dropout: float, seed: int) -> Tensor:
    """(H, T, T) of one sequence, made visible by values that are a unit matrix."""
    tokens = len(query)
    values = torch.eye(tokens, dtype=query.dtype)[:, None].expand(-1, key.shape[1], -1)  # (T, K, T)
    torch.manual_seed(seed)
    out = packed_attention(query, key, values, torch.tensor([0, tokens]), scale=scale, dropout=dropout)
    return out.transpose(0, 1)


def test_dropout_is_that_of_the_formula() -> None:
    """The rows are over a block long. What was dropped is read off; all else follows from it in plain autograd."""
    tokens, scale, dropout = 130, 0.05, 0.3
    query, key, value, boundaries = make([tokens], 4, 2, width=tokens)
    kept = dropped_probabilities(query.detach(), key.detach(), scale, dropout, seed=6) > 0  # (H, T, T)
    torch.manual_seed(6)
    ours = packed_attention(query, key, value, boundaries, scale=scale, dropout=dropout)
    keys, values = (tensor.repeat_interleave(2, dim=1) for tensor in (key, value))
    scores = scale * torch.einsum("qhd,khd->hqk", query, keys)
    probabilities = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf).softmax(-1)
    theirs = torch.einsum("hqk,khd->qhd", probabilities * kept / (1 - dropout), values)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    tensors, incoming = (query, key, value), torch.randn_like(ours)
    for mine, reference in zip(
        torch.autograd.grad(ours, tensors, incoming), torch.autograd.grad(theirs, tensors, incoming), strict=True
    ):
        torch.testing.assert_close(mine, reference, atol=1e-11, rtol=1e-9)


def test_dropout_takes_its_share_of_every_head_and_of_both_halves() -> None:
    tokens, dropout = 130, 0.3
    query, key, *_ = (tensor.detach() for tensor in make([tokens], 4, 2, width=tokens))
    seen = torch.ones(tokens, tokens).tril().bool()
    drawn = torch.stack([dropped_probabilities(query, key, 0.05, dropout, seed) == 0 for seed in range(8)])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    for part in (seen & (torch.arange(tokens) < 96)[:, None], seen & (torch.arange(tokens) >= 96)[:, None]):
        shares = drawn[:, :, part].double().mean((0, 2))
        assert (shares - dropout).abs().max() < 5 * (dropout * (1 - dropout) / (8 * part.sum())) ** 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_is_a_well_formed_operator(dropout: float) -> None:
    *tensors, boundaries = make([5, 150], 4, 2, torch.float32)
    torch.library.opcheck(torch.ops.tunesmith.attend.default, (*tensors, boundaries, 0.3, dropout, torch.tensor([7])))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu() -> None:
    *tensors, boundaries = make([200, 37, 129], 4, 2, torch.bfloat16)
    wide = [torch.cat([tensor] * 8, dim=-1).detach() for tensor in tensors]  # FlashAttention wants 64 numbers per head
    on_cpu = [tensor.clone().requires_grad_() for tensor in wide]
    on_gpu = [tensor.cuda().requires_grad_() for tensor in wide]
    ours = packed_attention(*on_gpu, boundaries, scale=0.05)
    theirs = packed_attention(*on_cpu, boundaries, scale=0.05)
    torch.testing.assert_close(ours.cpu(), theirs, atol=2e-2, rtol=2e-2)
    for mine, reference in zip(
        torch.autograd.grad(ours.sum(), on_gpu), torch.autograd.grad(theirs.sum(), on_cpu), strict=True
    ):
        torch.testing.assert_close(mine.cpu(), reference, atol=5e-2, rtol=5e-2)


def test_computes_in_autocasts_format() -> None:
    *tensors, boundaries = make([5, 9], 2, 1, torch.float32)
    mixed = [tensors[0], tensors[1], tensors[2].bfloat16()]  # as rotary embeddings leave them
    with torch.autocast("cpu", torch.bfloat16):
        assert packed_attention(*mixed, boundaries, scale=0.3).dtype == torch.bfloat16


def test_autocast_does_not_reach_into_the_operator() -> None:
    *tensors, boundaries = make([120, 80], 2, 1, torch.bfloat16, width=64)
    incoming = torch.ones(200, 2, 64, dtype=torch.bfloat16)
    plain = packed_attention(*tensors, boundaries, scale=1.0)  # scores of up to 30: rounded, they are off by a tenth
    wanted = (plain, *torch.autograd.grad(plain, tensors, incoming))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = packed_attention(*tensors, boundaries, scale=1.0)
        found = (mixed, *torch.autograd.grad(mixed, tensors, incoming))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
