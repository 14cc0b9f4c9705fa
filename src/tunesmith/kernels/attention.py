"""Causal attention over sequences laid end to end: no padding, no mask, no token that sees another sequence.

Knows tensors only. Shapes: T tokens of all sequences, S sequences, H query heads, K key/value heads (H a multiple of K;
query head h reads key/value head h // (H / K)), D numbers per head. `boundaries` (S+1,) int64 holds where each sequence
starts, and T at the end.

CPU    blocks of queries against the keys before them: scores in float32, softmax and its gradient by PyTorch's fused
       kernels, the other products in the tensors' own format. Nothing quadratic outlives a block; the backward pass
       computes the probabilities anew, as FlashAttention does (Dao et al. 2022, arXiv:2205.14135, section 3.1), and
       draws anew which of them are dropped.
CUDA   torch.nn.attention.varlen (FlashAttention), for the half-precision formats that it takes.
else   scaled_dot_product_attention, one sequence after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.kernels import native
from tunesmith.kernels.dropout import draw_seed, drawn_positions
from tunesmith.kernels.native.attention import attention as native_attention

# Queries whose scores exist at once. On one core with avx512_bf16, 96 was fastest of 64 to 256 from 50 to 1,024 tokens.
_BLOCK = 96
# What the length of a sequence is rounded up to, so that there are 32 sizes of blocks up to 1,024 tokens: see sizes.py.
_ROUND = 32


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, *, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(scale * query @ key.T) @ value within each sequence, each token seeing itself and the tokens before it.

    Args:
        query: (T, H, D). key, value: (T, K, D).
        boundaries: (S+1,) int64 on the CPU.
        dropout: share of the probabilities set to zero, the others divided by 1 - dropout. On a CPU drawn from the
            generator of `draws_from`; on CUDA it costs a slower path.

    Returns:
        (T, H, D).
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as scaled_dot_product_attention does
        query, key, value = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (query, key, value))
    if device == "cpu":
        if dropout == 0.0 and native.is_native(query, key, value):
            return native_attention(query, key, value, boundaries, scale)
        seed = draw_seed(query) if dropout else torch.zeros(1, dtype=torch.int64)
        with torch.autocast(device, enabled=False):  # it would reach into the operator and round the scores
            out: Tensor = _attend(query, key, value, boundaries, scale, dropout, seed)
            return out
    if dropout == 0.0 and device == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return _varlen(query, key, value, boundaries, scale)
    query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))  # (1, H or K, T, D)
    parts = [
        F.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            dropout_p=dropout,
            is_causal=True,
            scale=scale,
            enable_gqa=True,
        )
        for start, end in pairwise(boundaries.tolist())
    ]
    return torch.cat(parts, dim=2).squeeze(0).transpose(0, 1)


def _varlen(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float) -> Tensor:
    # Imported here: the module is there on every platform, the kernels behind it are not.
    from torch.nn.attention.varlen import varlen_attn

    longest = int(boundaries.diff().max())
    offsets = boundaries.to(query.device, torch.int32, non_blocking=True)
    out = varlen_attn(
        query, key, value, offsets, offsets, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=True
    )
    assert isinstance(out, Tensor)
    return out


# Custom operators, because a compiler must not look inside: the loop depends on the lengths of the sequences.


@torch.library.custom_op("tunesmith::attend", mutates_args=(), device_types="cpu")
def _attend(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float, dropout: float, seed: Tensor
) -> Tensor:
    """seed: (1,) int64, of the numbers that dropout draws."""
    drops = _Drops(dropout, seed)
    spaced = _Spaced(boundaries)
    query, key, value = map(spaced.lay, (query, key, value))
    queries, keys = _for_scores(query, key, scale)  # (K, G, T, D), (K, D, T)
    values = value.transpose(0, 1)  # (K, T, D)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    out_by_head = _by_head(out, key.shape[1])  # (K, G, T, D), a view
    for start, first, last in _blocks(spaced.boundaries):
        weights = drops.next(_probabilities(queries, keys, start, first, last).to(value.dtype))  # (K, G*m, n)
        block = out_by_head[:, :, first:last]
        block.copy_(torch.bmm(weights, values[:, start:last]).view(block.shape))
    return spaced.take(out)


@_attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float, dropout: float, seed: Tensor
) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.custom_op("tunesmith::attend_backward", mutates_args=(), device_types="cpu")
def _attend_backward(
    of_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    scale: float,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    With P the probabilities and M what dropout multiplies them by, 0 or 1 / (1 - dropout): dV = (M * P).T dO;
    dP = M * (dO V.T); dS = P * (dP - rowsum(P * dP)); dQ = scale dS K; dK = scale dS.T Q.
    """
    drops = _Drops(dropout, seed)
    spaced = _Spaced(boundaries)
    of_out, query, key, value = map(spaced.lay, (of_out, query, key, value))
    heads = key.shape[1]
    queries, keys = _for_scores(query, key, scale)
    scaled = _by_head(query * scale, heads)  # (K, G, T, D)
    keys_by_head = key.transpose(0, 1).contiguous()  # (K, T, D)
    values = value.permute(1, 2, 0).contiguous()  # (K, D, T)
    incoming = _by_head(of_out, heads)  # (K, G, T, D)
    of_query = torch.empty_like(query, memory_format=torch.contiguous_format)
    of_query_by_head = _by_head(of_query, heads)
    # sums over blocks: kept in the scores' format until the end
    of_key, of_value = (keys.new_zeros(heads, len(key), key.shape[2]) for _ in range(2))  # (K, T, D)
    for start, first, last in _blocks(spaced.boundaries):
        probabilities = _probabilities(queries, keys, start, first, last).to(value.dtype)  # (K, G*m, n)
        of_block = incoming[:, :, first:last].reshape(heads, -1, query.shape[2])  # (K, G*m, D)
        of_probabilities = torch.bmm(of_block, values[:, :, start:last])  # (K, G*m, n)
        weights = drops.next(probabilities, of_probabilities)
        of_value[:, start:last] += torch.bmm(weights.transpose(1, 2), of_block)
        # in the tensors' format, which both come in and the result goes out: the kernel itself sums in float32
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, query.dtype)
        block = of_query_by_head[:, :, first:last]
        block.copy_(torch.bmm(of_scores, keys_by_head[:, start:last]).view(block.shape))
        rows = scaled[:, :, first:last].reshape(heads, -1, query.shape[2])  # (K, G*m, D)
        of_key[:, start:last] += torch.bmm(of_scores.transpose(1, 2), rows)
    of_query *= scale
    return (
        spaced.take(of_query),
        spaced.take(of_key.transpose(0, 1)).to(key.dtype).contiguous(),
        spaced.take(of_value.transpose(0, 1)).to(key.dtype).contiguous(),
    )


@_attend_backward.register_fake
def _(
    of_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    scale: float,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (query, key, value))
    return query, key, value


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    *tensors, scale, dropout, seed = inputs
    ctx.save_for_backward(*tensors, seed)
    ctx.scale, ctx.dropout = scale, dropout  # type: ignore[attr-defined]


def _differentiate(ctx: torch.autograd.function.FunctionCtx, of_out: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors  # type: ignore[attr-defined]
    with torch.autocast("cpu", enabled=False):  # where gradients are asked for inside autocast
        gradients = _attend_backward(of_out, *tensors, ctx.scale, ctx.dropout, seed)  # type: ignore[attr-defined]
    return *gradients, None, None, None, None


_attend.register_autograd(_differentiate, setup_context=_save)


class _Spaced:
    """Sequences with room after each, so that they are multiples of `_ROUND` long and the sizes of blocks come again.

    The room comes after the last token, so that no token sees it, and is zero, so that it adds nothing to a sum.

    `boundaries` are those with room.
    """

    def __init__(self, boundaries: Tensor) -> None:
        lengths = boundaries.diff()
        self.boundaries = F.pad(((lengths + _ROUND - 1) // _ROUND * _ROUND).cumsum(0), (1, 0))
        self._total, tokens = int(self.boundaries[-1]), int(boundaries[-1])
        shifts = (self.boundaries - boundaries)[:-1]
        self._places = None if self._total == tokens else torch.arange(tokens) + shifts.repeat_interleave(lengths)

    def lay(self, tensor: Tensor) -> Tensor:
        """(T, ...) -> (T with room, ...)."""
        if self._places is None:
            return tensor
        return tensor.new_zeros(self._total, *tensor.shape[1:]).index_copy_(0, self._places, tensor)

    def take(self, tensor: Tensor) -> Tensor:
        """(T with room, ...) -> (T, ...)."""
        return tensor if self._places is None else tensor.index_select(0, self._places)


class _Drops:
    """What dropout does to one block after the other; the same for the same seed.

    Args:
        share: of the numbers that become zero. seed: (1,) int64.
    """

    def __init__(self, share: float, seed: Tensor) -> None:
        self._share = share
        self._generator = torch.Generator().manual_seed(int(seed)) if share else None

    def next(self, probabilities: Tensor, of_probabilities: Tensor | None = None) -> Tensor:
        """The probabilities of the next block after dropout. The gradient that is given is changed in place."""
        if self._generator is None:
            return probabilities
        count = probabilities.numel()
        positions = drawn_positions(count, self._share, self._generator)
        positions = positions[: int(torch.searchsorted(positions, count))]
        if of_probabilities is not None:
            of_probabilities.view(-1).index_fill_(0, positions, 0)
            of_probabilities /= 1 - self._share
        kept = probabilities / (1 - self._share)
        kept.view(-1).index_fill_(0, positions, 0)
        return kept


def _blocks(boundaries: Tensor) -> Iterator[tuple[int, int, int]]:
    """(start of the sequence, first query, query after the last) of every block."""
    for start, end in pairwise(boundaries.tolist()):
        for first in range(start, end, _BLOCK):
            yield start, first, min(first + _BLOCK, end)


def _for_scores(query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Scaled queries (K, G, T, D) and keys (K, D, T), in float32 at least: scores in bfloat16 are off by percents."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return _by_head(query.to(wide) * scale, key.shape[1]), key.to(wide).permute(1, 2, 0).contiguous()


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """(T, H, D) -> (K, G, T, D) with H = K * G: the queries that share a key/value head side by side."""
    tokens, count, width = tensor.shape
    return tensor.view(tokens, heads, count // heads, width).permute(1, 2, 0, 3)


def _probabilities(queries: Tensor, keys: Tensor, start: int, first: int, last: int) -> Tensor:
    """(K, G*m, n) for the m queries first..last against the n keys start..last."""
    heads, groups, _, width = queries.shape
    rows = last - first
    scores = torch.bmm(queries[:, :, first:last].reshape(heads, groups * rows, width), keys[:, :, start:last])
    own = scores.view(heads, groups, rows, last - start)[..., first - start :]  # (K, G, m, m)
    own += _later(rows, scores.dtype)
    return scores.softmax(-1)


@lru_cache(maxsize=2 * _BLOCK)
def _later(count: int, dtype: torch.dtype) -> Tensor:
    """(m, m), -inf where the key comes after the query, else 0."""
    return torch.full((count, count), -torch.inf, dtype=dtype).triu_(1)
