"""Encoded rows -> padded tensors. The only file of this part that needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tunesmith.types import Batch, Encoded


def collate(rows: Sequence[Encoded], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Right-pad rows to the longest: ids (B, T), attention mask (B, T), supervised (B, T)."""
    shape = (len(rows), max(map(len, rows)))
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    supervised = np.zeros(shape, dtype=np.bool_)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row.input_ids
        attention_mask[index, : len(row)] = 1
        supervised[index, : len(row)] = row.supervised
    return Batch(
        torch.from_numpy(input_ids).to(device, non_blocking=True),
        torch.from_numpy(attention_mask).to(device, non_blocking=True),
        torch.from_numpy(supervised).to(device, non_blocking=True),
        tuple(row.row for row in rows),
    )


def batches(
    encoded: Sequence[Encoded],
    *,
    rows: Sequence[int] | None = None,
    batch_size: int,
    pad_id: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The chosen rows in batches of `batch_size`, longest together: less padding, and memory runs out first if at all.

    Losses are sums over tokens, so which rows share a batch changes nothing.
    """
    chosen = range(len(encoded)) if rows is None else rows
    ordered = sorted(chosen, key=lambda index: -len(encoded[index]))
    for start in range(0, len(ordered), batch_size):
        yield collate([encoded[index] for index in ordered[start : start + batch_size]], pad_id, device)
