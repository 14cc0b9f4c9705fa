"""Which rows every optimizer step sees: a pure function of (seed, step), so a resumed run needs only its step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.curriculum import Curriculum, PacedRows
from tunesmith.data.mix import Mixture, apportion, passes

# Steps among which rows change places to meet rows of their length: enough for lengths to match, and few enough that
# the rows of a step are still a draw from the whole file.
_WINDOW_STEPS = 32
# Streams of random numbers beside that of the plain order, whose seed is (seed, epoch).
_MIXED, _PACED = 1, 2


@dataclass(frozen=True, slots=True)
class StepPlan:
    """`rows` training rows, `rows_per_step` of them a step, `total_steps` steps, shuffled anew each epoch.

    An epoch has as many rows as there are, of which the groups of a mixture have their shares.

    lengths: tokens of each row; when given, rows of like length share a step (see `bucketed`).
    steps_before: steps of an earlier run over the same rows, after which the order goes on.
    """

    rows: int
    rows_per_step: int
    total_steps: int
    seed: int
    lengths: tuple[int, ...] | None = None
    mixture: Mixture | None = None
    curriculum: Curriculum | None = None
    steps_before: int = 0

    @classmethod
    def for_run(cls, rows: int, *, rows_per_step: int, epochs: float, max_steps: int | None, seed: int) -> StepPlan:
        """The plan of a run. The last step of an epoch may hold fewer rows; `max_steps` wins over `epochs`."""
        steps = max(1, math.ceil(epochs * math.ceil(rows / rows_per_step) - 1e-9))
        return cls(rows, rows_per_step, max_steps or steps, seed)

    def bucketed(self, lengths: Iterable[int]) -> StepPlan:
        """The same plan with rows of like length in a step, within shuffled windows, and the steps shuffled again."""
        return replace(self, lengths=tuple(lengths))

    def mixed(self, mixture: Mixture) -> StepPlan:
        """The same plan with so many rows of each group; all rows are in one of them."""
        return replace(self, mixture=mixture)

    def paced(self, curriculum: Curriculum) -> StepPlan:
        """The same plan with the easy rows first, those of each group of a mixture by themselves."""
        return replace(self, curriculum=curriculum)

    def after(self, epochs: float) -> StepPlan:
        """The same plan for a model that has seen the rows in `epochs` epochs already. Not for a curriculum."""
        return replace(self, steps_before=round(epochs * self.steps_per_epoch))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.rows_per_step)

    def epoch_at(self, step: int) -> float:
        """Passes over the data completed after `step` steps, those of an earlier run included."""
        whole, rest = divmod(self.steps_before + step, self.steps_per_epoch)
        return whole + min(1.0, rest * self.rows_per_step / self.rows)

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """Indices of the rows of step `step`, counted from 0."""
        epoch, position = divmod(self.steps_before + step, self.steps_per_epoch)
        start = position * self.rows_per_step
        if self.curriculum is not None:
            start += epoch * self.rows
            return _paced(self)[start : min(start + self.rows_per_step, (epoch + 1) * self.rows)]
        return _order(self, epoch)[start : start + self.rows_per_step]

    def times_seen(self) -> NDArray[np.int64]:
        """(rows,) how often the run sees each row."""
        seen = np.zeros(self.rows, dtype=np.int64)
        for step in range(self.total_steps):
            np.add.at(seen, self.rows_of(step), 1)
        return seen


@lru_cache(maxsize=4)
def _order(plan: StepPlan, epoch: int) -> NDArray[np.int64]:
    """The rows of an epoch in the order of its steps; without a mixture every row once."""
    draw = np.random.default_rng([plan.seed, epoch])
    order = draw.permutation(plan.rows) if plan.mixture is None else _mixed(plan, plan.mixture, epoch, draw)
    if plan.lengths is None:
        return order
    lengths = np.asarray(plan.lengths)
    full = len(order) // plan.rows_per_step * plan.rows_per_step
    window = _WINDOW_STEPS * plan.rows_per_step
    parts = [order[start : min(full, start + window)] for start in range(0, full, window)]
    sorted_parts = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
    steps = np.concatenate([*sorted_parts, order[:0]]).reshape(-1, plan.rows_per_step)
    draw.shuffle(steps)
    return np.concatenate([steps.ravel(), order[full:]])


def _rows_at_a_time(plan: StepPlan) -> int:
    """Rows that a mixture's shares are counted in: an epoch, or the whole run where that is shorter."""
    return min(plan.rows, plan.total_steps * plan.rows_per_step)


def _mixed(plan: StepPlan, mixture: Mixture, epoch: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """The rows of an epoch: each group's next ones, for no row is seen twice before all others of its group are."""
    rows = _rows_at_a_time(plan)
    groups = mixture.groups_of(rows, draw)
    order = np.empty(rows, dtype=np.int64)
    for group, (members, count) in enumerate(zip(mixture.members, apportion(mixture.shares, rows), strict=True)):
        chosen = passes(len(members), epoch * count, count, seed=(plan.seed, _MIXED, group))
        order[groups == group] = np.asarray(members, dtype=np.int64)[chosen]
    return order


@lru_cache(maxsize=2)
def _paced(plan: StepPlan) -> NDArray[np.int64]:
    """All rows of a run in order."""
    assert plan.curriculum is not None
    draw = np.random.default_rng([plan.seed, _PACED, 0])
    members = plan.mixture.members if plan.mixture else (range(plan.rows),)
    streams = [PacedRows(rows, plan.curriculum, draw, least=plan.rows_per_step) for rows in members]
    order: list[int] = []
    for step in range(plan.total_steps):
        epoch, position = divmod(step, plan.steps_per_epoch)
        start = position * plan.rows_per_step
        groups = _groups(plan, epoch)[start : start + plan.rows_per_step]
        chances = draw.random(len(groups)).tolist()
        progress = step / plan.total_steps
        order += [streams[group].take(progress, chance) for group, chance in zip(groups, chances, strict=True)]
    return np.asarray(order, dtype=np.int64)


@lru_cache(maxsize=2)
def _groups(plan: StepPlan, epoch: int) -> NDArray[np.int64]:
    """The group of each row of an epoch, in the order of its steps."""
    if plan.mixture is None:
        return np.zeros(plan.rows, dtype=np.int64)
    return plan.mixture.groups_of(_rows_at_a_time(plan), np.random.default_rng([plan.seed, epoch]))
