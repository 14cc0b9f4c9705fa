"""Defects planted in what a run remembers: stopping it at every step notices each of them.

A test that cannot fail proves nothing. DEFECTS is the table. Those of what is on the disk are in
tests/faults/test_planted.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resume_runs import stop_at_every_step
from tunesmith.data import StepPlan
from tunesmith.errors import TrainingError
from tunesmith.train import checkpoint, loop, schedule
from tunesmith.train.checkpoint import Checkpoints, TrainingState

pytestmark = pytest.mark.slow

Patch = pytest.MonkeyPatch
_load = Checkpoints._load


def forgets(**values: Any) -> Callable[[Patch], None]:
    """A resumed run begins with these values whatever was stored."""

    def plant(patch: Patch) -> None:
        def load(self: Checkpoints, *arguments: Any) -> TrainingState | None:
            state = _load(self, *arguments)
            for name, value in values.items() if state is not None else ():
                setattr(state, name, value)
            return state

        patch.setattr(Checkpoints, "_load", load)

    return plant


def another_draw_in_each_process(patch: Patch) -> None:
    """As a generator that is not restored."""
    processes = itertools.count()
    real = loop._step_seed

    def load(self: Checkpoints, *arguments: Any) -> TrainingState | None:
        number = next(processes)
        patch.setattr(loop, "_step_seed", lambda seed, step, rank: real(seed, step, rank) + number)
        return _load(self, *arguments)

    patch.setattr(Checkpoints, "_load", load)


def cursor_off_by_one(patch: Patch) -> None:
    """A resumed run sees the rows of the step before."""
    real_rows = StepPlan.rows_of

    def load(self: Checkpoints, *arguments: Any) -> TrainingState | None:
        state = _load(self, *arguments)
        if state is not None:
            first = state.step
            patch.setattr(
                StepPlan, "rows_of", lambda plan, step: real_rows(plan, max(0, step - 1) if step == first else step)
            )
        return state

    patch.setattr(Checkpoints, "_load", load)


def rows_in_another_order(patch: Patch) -> None:
    """Every process shuffles anew."""
    real_rows, processes = StepPlan.rows_of, itertools.count()

    def load(self: Checkpoints, *arguments: Any) -> TrainingState | None:
        number = next(processes)
        patch.setattr(
            StepPlan,
            "rows_of",
            lambda plan, step: np.random.default_rng(number).permutation(real_rows(plan, step)),
        )
        return _load(self, *arguments)

    patch.setattr(Checkpoints, "_load", load)


def optimizer_not_restored(patch: Patch) -> None:
    patch.setattr(checkpoint, "_load_optimizer", lambda *arguments: None)


def weights_not_restored(patch: Patch) -> None:
    patch.setattr(checkpoint, "load_weights", lambda *arguments: None)


def warmup_starts_anew(patch: Patch) -> None:
    """The schedule counts the steps of the process, not of the run."""
    real = schedule.Schedule.__call__
    first = {"step": 0}

    def load(self: Checkpoints, *arguments: Any) -> TrainingState | None:
        state = _load(self, *arguments)
        first["step"] = state.step if state else 0
        return state

    patch.setattr(Checkpoints, "_load", load)
    patch.setattr(schedule.Schedule, "__call__", lambda self, step: real(self, step - first["step"]))


def goes_back_to_where_it_was_stopped(patch: Patch) -> None:
    def load(self: Checkpoints, *arguments: Any) -> TrainingState | None:
        state = _load(self, *arguments)
        if state is not None:
            state.anchor = state.step
        return state

    patch.setattr(Checkpoints, "_load", load)


# name -> what is broken, the mode that shows it, and how it is seen
DEFECTS: dict[str, tuple[Callable[[Patch], None], str, str]] = {
    "another draw in each process": (another_draw_in_each_process, "dropout", "weights differ"),
    "another draw, side by side": (another_draw_in_each_process, "side by side", "weights differ"),
    "the cursor is off by one": (cursor_off_by_one, "lora", "weights differ"),
    "the rows are shuffled anew": (rows_in_another_order, "accumulation", "weights differ"),
    "the optimizer is not restored": (optimizer_not_restored, "lora", "weights differ"),
    "Muon is not restored": (optimizer_not_restored, "muon", "weights differ"),
    "the weights are not restored": (weights_not_restored, "full", "weights differ"),
    "the warm-up starts anew": (warmup_starts_anew, "cosine", "weights differ"),
    "early stopping starts anew": (forgets(evaluations_without_gain=0), "early stopping", "weights differ"),
    "the best is forgotten": (forgets(best_loss=None, best_step=None), "lora", "best weights differ"),
    "a validation put off is forgotten": (forgets(validation_pending=False), "all validations", "best weights differ"),
    "the plateau is forgotten": (forgets(rate_factor=1.0), "plateau", "weights differ"),
    "usual losses are forgotten": (forgets(recent_losses=[]), "lora", "state differ"),
    "tokens are counted anew": (forgets(tokens=0), "lora", "state differ"),
    "where to go back to is forgotten": (forgets(anchor=None), "back after NaN", "the loss is nan at step 19"),
    "a stop moves where to go back to": (goes_back_to_where_it_was_stopped, "back after NaN", "weights differ"),
    "a skipped step is forgotten": (forgets(skipped=[]), "back after NaN", "weights differ"),
    "having gone back is forgotten": (forgets(rollbacks=0), "back after NaN", "state differ"),
    "the lower rate is forgotten": (forgets(rate_factor=1.0), "back after NaN", "weights differ"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_noticed(
    name: str, harness: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, mode, seen = DEFECTS[name]
    one, whole = harness(mode)  # made before anything is broken
    plant(monkeypatch)
    with pytest.raises((AssertionError, TrainingError), match=f"^{seen}"):
        stop_at_every_step(mode, one, whole, tmp_path)
