"""Which rows every optimizer step sees: a pure function of (seed, step), so a resumed run needs only its step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Steps among which rows change places to meet rows of their length: enough for lengths to match, and few enough that
# the rows of a step are still a draw from the whole file.
_WINDOW_STEPS = 32


@dataclass(frozen=True, slots=True)
class StepPlan:
    """`rows` training rows, `rows_per_step` of them a step, `total_steps` steps, shuffled anew each epoch.

    lengths: tokens of each row; when given, rows of like length share a step (see `bucketed`).
    """

    rows: int
    rows_per_step: int
    total_steps: int
    seed: int
    lengths: tuple[int, ...] | None = None

    @classmethod
    def for_run(cls, rows: int, *, rows_per_step: int, epochs: float, max_steps: int | None, seed: int) -> StepPlan:
        """The plan of a run. The last step of an epoch may hold fewer rows; `max_steps` wins over `epochs`."""
        steps = max(1, math.ceil(epochs * math.ceil(rows / rows_per_step) - 1e-9))
        return cls(rows, rows_per_step, max_steps or steps, seed)

    def bucketed(self, lengths: Iterable[int]) -> StepPlan:
        """The same plan with rows of like length in a step, within shuffled windows, and the steps shuffled again."""
        return replace(self, lengths=tuple(lengths))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.rows_per_step)

    def epoch_at(self, step: int) -> float:
        """Passes over the data completed after `step` steps."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return whole + min(1.0, rest * self.rows_per_step / self.rows)

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """Indices of the rows of step `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.rows_per_step
        return _order(self, epoch)[start : start + self.rows_per_step]


@lru_cache(maxsize=4)
def _order(plan: StepPlan, epoch: int) -> NDArray[np.int64]:
    """(rows,) every row once, in the order of the steps."""
    draw = np.random.default_rng([plan.seed, epoch])
    order = draw.permutation(plan.rows)
    if plan.lengths is None:
        return order
    lengths = np.asarray(plan.lengths)
    full = plan.rows // plan.rows_per_step * plan.rows_per_step
    window = _WINDOW_STEPS * plan.rows_per_step
    parts = [order[start : min(full, start + window)] for start in range(0, full, window)]
    sorted_parts = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
    steps = np.concatenate([*sorted_parts, order[:0]]).reshape(-1, plan.rows_per_step)
    draw.shuffle(steps)
    return np.concatenate([steps.ravel(), order[full:]])
