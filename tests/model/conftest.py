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
    """Three rows of 9, 6 and 4 tokens, right-padded; what is supervised is uneven and includes a row's first token."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([9, 6, 4])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(4, VOCAB, (3, 9), generator=generator) * mask
    supervised = torch.zeros(3, 9, dtype=torch.bool)
    supervised[0, [0, 4, 5, 8]] = True
    supervised[1, 2:6] = True
    supervised[2, 3] = True
    return Batch(input_ids=ids, attention_mask=mask, supervised=supervised, rows=(2, 3, 4))


@pytest.fixture
def logits_of() -> Any:
    """logits_of(model, batch) -> (B, T, V), without gradients."""

    def compute(model: Any, batch: Batch) -> Tensor:
        with torch.no_grad():
            result: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return result

    return compute
