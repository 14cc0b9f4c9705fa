"""Encoded rows -> tensors. The only file of this part that needs torch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch

from tunesmith.types import Batch, Encoded


def collate(rows: Sequence[Encoded], device: torch.device | str = "cpu") -> Batch:
    """Lay rows end to end."""
    lengths = tuple(map(len, rows))
    supervised = np.concatenate([row.supervised for row in rows])
    supervised[np.cumsum((0, *lengths[:-1]))] = False  # nothing in its own row predicts a first token
    return Batch(
        torch.from_numpy(np.concatenate([row.input_ids for row in rows])).to(device, non_blocking=True),
        torch.from_numpy(supervised).to(device, non_blocking=True),
        lengths,
        tuple(row.row for row in rows),
    )


def batches(
    encoded: Sequence[Encoded],
    *,
    rows: Sequence[int] | None = None,
    tokens: int,
    lanes: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The chosen rows in batches, `lanes` of which hold at most `tokens` tokens together, a longer row alone.

    The longest come first, so that memory runs out at once if at all. For one lane, rows of like length share a batch,
    which costs least where an architecture has to pad; for several, the batches are of like size, so that no lane
    waits. Losses are sums over tokens: which rows share a batch changes nothing.
    """
    divide = groups(encoded, rows=rows, tokens=tokens) if lanes == 1 else even_groups(encoded, rows, tokens, lanes)
    for group in divide:
        yield collate([encoded[index] for index in group], device)


def groups(encoded: Sequence[Encoded], *, rows: Sequence[int] | None = None, tokens: int) -> Iterator[list[int]]:
    """The indices of the rows in each of the `batches`."""
    chosen = range(len(encoded)) if rows is None else rows
    group: list[int] = []
    filled = 0
    for index in sorted(chosen, key=lambda index: -len(encoded[index])):
        if group and filled + len(encoded[index]) > tokens:
            yield group
            group, filled = [], 0
        group.append(index)
        filled += len(encoded[index])
    if group:
        yield group


def even_groups(encoded: Sequence[Encoded], rows: Sequence[int] | None, tokens: int, lanes: int) -> Iterator[list[int]]:
    """The indices of the rows in each of the `batches` for several lanes: a multiple of `lanes` of like size."""
    chosen = range(len(encoded)) if rows is None else rows
    lengths = [len(encoded[index]) for index in chosen]
    limit = max(1, tokens // lanes)
    for rounds in count(max(1, math.ceil(sum(lengths) / (limit * lanes)))):
        parts = shares(lengths, min(rounds * lanes, len(chosen)))
        if all(len(part) == 1 or sum(lengths[position] for position in part) <= limit for part in parts):
            return ([chosen[position] for position in part] for part in parts)
    raise AssertionError("unreachable: in the end every row is alone")


def shares(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Positions of the rows in each of `parts` parts of like size, longest first, given the tokens of each row.

    The longest row goes to the part that has the fewest tokens (Graham 1969, at most 4/3 of the best division).
    """
    loads = [(0, part) for part in range(parts)]  # a heap
    divided: list[list[int]] = [[] for _ in range(parts)]
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        load, part = loads[0]
        divided[part].append(position)
        heapq.heapreplace(loads, (load + lengths[position], part))
    return divided
