"""What the tests of the model part share: a batch, an answer without our loss, weights to compare."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tunesmith.types import Batch

VOCAB = 200  # below the size of the test tokenizer


@pytest.fixture
def batch() -> Batch:
    """Three rows of 9, 6 and 4 tokens; what is supervised is uneven."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, VOCAB, (19,), generator=generator)
    supervised = torch.zeros(19, dtype=torch.bool)
    supervised[[4, 5, 8, *range(9 + 2, 9 + 6), 15 + 3]] = True
    return Batch(input_ids=ids, supervised=supervised, lengths=(9, 6, 4), rows=(2, 3, 4))


@pytest.fixture
def logits_of() -> Any:
    """logits_of(model, batch) -> (T, V), without gradients, every row on its own, virtual tokens left out."""

    def compute(model: Any, batch: Batch) -> Tensor:
        rows = batch.input_ids.split(batch.lengths)
        with torch.no_grad():
            return torch.cat([model(input_ids=row[None]).logits[0, -len(row) :] for row in rows])

    return compute
