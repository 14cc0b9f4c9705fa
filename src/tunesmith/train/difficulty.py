"""How hard each training row is, for a curriculum: by length, the user's column, or loss before training.

The losses are measured once and kept in the run, so that a resumed run has the same order without measuring again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from tunesmith.config import TrainConfig
from tunesmith.data import Curriculum, collate, groups, ids_sha256
from tunesmith.model import packing, token_nll
from tunesmith.runs import Run, atomic_write
from tunesmith.train.budget import MicroBatches, within_memory
from tunesmith.train.device import Processes
from tunesmith.train.signals import PutOff
from tunesmith.types import Encoded

LOSSES_FILE = "row_losses.json"


def curriculum_of(config: TrainConfig, rows: Sequence[Encoded], losses: Callable[[], list[float]]) -> Curriculum:
    """The curriculum of resolved settings over these rows. `losses()` is asked only when they go by loss."""
    if config.curriculum_pacing is None or config.curriculum_start is None or config.curriculum_until is None:
        raise ValueError("the curriculum is still open: resolve_settings comes first")
    if config.curriculum_by == "loss":
        difficulties = losses()
    elif config.curriculum_by == "column":
        difficulties = [row.difficulty for row in rows if row.difficulty is not None]
    else:
        difficulties = [float(len(row)) for row in rows]
    return Curriculum(
        tuple(difficulties), config.curriculum_pacing, start=config.curriculum_start, until=config.curriculum_until
    )


def stored_losses(
    run: Run, rows: Sequence[Encoded], measure: Callable[[], list[float]], *, base: str, processes: Processes
) -> list[float]:
    """The losses in the run, measured and stored there when it has none of the same rows and base model.

    Args:
        base: fingerprint of the base model.

    Raises:
        ResourceError: they cannot be written.
    """
    path = run.path / LOSSES_FILE
    of = {"rows": ids_sha256(rows), "base": base}

    def read() -> list[float] | None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return list(content["losses"]) if content["of"] == of else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    found: list[float] | None = processes.first(read)
    if found is None:
        losses = measure()
        processes.first(lambda: atomic_write(path, json.dumps({"of": of, "losses": losses}) + "\n"))
        return losses
    return found


def row_losses(
    model: nn.Module,
    rows: Sequence[Encoded],
    *,
    sizes: MicroBatches,
    autocast: Callable[[], AbstractContextManager[object]],
    processes: Processes,
    put_off: Callable[[], bool] = lambda: False,
) -> list[float]:
    """Loss of every row in nats per supervised token, as the model is now, without dropout.

    Several processes take a share of the rows each. A loss that is not finite counts as hardest of all.

    Args:
        put_off: asked before every pass.

    Raises:
        PutOff: on all processes, when one was told so. ResourceError: a single row does not fit into memory.
    """
    device = next(model.parameters()).device
    own = processes.share([len(row) for row in rows])

    def measure() -> list[float]:
        sums = [0.0] * len(rows)
        for group in groups(rows, rows=own, tokens=sizes.limit):
            if put_off():
                return [*sums, 1.0]
            with autocast():
                nll = token_nll(model, collate([rows[index] for index in group], device)).double()
            for index, tokens in zip(group, nll.split([len(rows[index]) for index in group]), strict=True):
                sums[index] = tokens.sum().item() / rows[index].target_tokens
        return [*sums, 0.0]

    was_training = model.training
    model.eval()
    with packing(model), torch.no_grad():
        *found, told = processes.total(within_memory(sizes, measure, halved=lambda: None, processes=processes))
    model.train(was_training)
    if told:
        raise PutOff
    # JSON has no NaN, and a row that the model cannot even score is no easy one
    most = torch.finfo(torch.float64).max
    return [value if math.isfinite(value) else most for value in found]
