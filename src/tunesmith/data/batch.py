"""Encoded rows -> tensors. The only file of this part that needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The chosen rows in batches of at most `tokens` tokens, a longer row alone.

    The longest come first, so that memory runs out at once if at all, and rows of like length share a batch, which
    costs least where an architecture has to pad. Losses are sums over tokens: which rows share a batch changes nothing.
    """
    for group in groups(encoded, rows=rows, tokens=tokens):
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
