"""How probable the model finds the right answers. Knows nothing of text: it sees token ids.

The sum of the negative log-likelihoods is divided once, at the end, by the number of supervised tokens, so that the
result is the training loss of the same rows and does not depend on which rows share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tunesmith.data import collate, groups
from tunesmith.errors import DataError
from tunesmith.evaluate.paired import Floats
from tunesmith.model import eval_mode, packing, token_nll
from tunesmith.types import Encoded

# A pass without gradients keeps little: this many tokens of a 1 B model take well under 1 GiB.
TOKENS_PER_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Likelihood:
    """`nll`: summed negative log-likelihood in nats; `tokens`: supervised tokens it is summed over, at least 1."""

    nll: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per supervised token: the loss."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(mean); infinite where that does not fit a float."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf


def mean_nll(model: nn.Module, encoded: Sequence[Encoded], *, tokens_per_batch: int = TOKENS_PER_BATCH) -> Likelihood:
    """Likelihood of the supervised tokens of all rows, as `row_nll` finds it."""
    nll, tokens = row_nll(model, encoded, tokens_per_batch=tokens_per_batch).sum(axis=0)
    return Likelihood(float(nll), int(tokens))


def row_nll(model: nn.Module, encoded: Sequence[Encoded], *, tokens_per_batch: int = TOKENS_PER_BATCH) -> Floats:
    """Nats and supervised tokens of each row, without dropout and without gradients.

    The modes (training or not) of the model and its modules are as before afterwards, whatever happens. To compute in
    lower precision, call it under autocast.

    Returns:
        (rows, 2), in the order of the rows.

    Raises:
        DataError: no row has a supervised token.
    """
    if not any(row.target_tokens for row in encoded):
        raise DataError(
            f"there is no token to score in {len(encoded)} rows",
            fix="give rows with an answer, or raise data.max_length so that answers fit",
        )
    device = next(model.parameters()).device
    found = np.array([[0.0, row.target_tokens] for row in encoded])
    with eval_mode(model), packing(model), torch.no_grad():
        for group in groups(encoded, tokens=tokens_per_batch):
            batch = collate([encoded[index] for index in group], device)
            of_rows = token_nll(model, batch).double().split(batch.lengths)
            found[group, 0] = torch.stack([row.sum() for row in of_rows]).cpu().numpy()
    return found
