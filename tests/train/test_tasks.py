"""What a run of several tasks says of each: rows seen, and validation losses that add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from tunesmith.config import load_config
from tunesmith.errors import DataError
from tunesmith.train.observe import Event
from tunesmith.train.resolve import identity_of, plan_steps
from tunesmith.train.tasks import TaskLosses, task_plans
from tunesmith.types import Encoded


@dataclass(frozen=True)
class Measured:
    nll: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.nll / self.tokens


def make_row(length: int, task: str | None) -> Encoded:
    return Encoded(np.arange(length), np.ones(length, dtype=np.bool_), task=task)


def measure(rows: Sequence[Encoded]) -> Measured:
    """A token costs 1 nat in the first task, 3 in the second."""
    nll = sum(row.target_tokens * (3 if row.task == "b" else 1) for row in rows)
    return Measured(nll, sum(row.target_tokens for row in rows))


def test_the_loss_of_all_is_over_all_tokens_and_each_task_has_its_own() -> None:
    rows = [make_row(11, "a"), make_row(5, "b"), make_row(7, "a")]
    losses, told = TaskLosses(measure), list[Event]()
    observe = losses.told_to(told.append)
    assert losses.mean(rows) == measure(rows).mean == (16 + 4 * 3) / 20
    observe(Event("eval", 1, 2, {"validation_loss": 1.4}))
    observe(Event("train", 2, 2, {"loss": 1.0}))
    assert told[0].values == {"validation_loss": 1.4, "validation_loss/a": 1.0, "validation_loss/b": 3.0}
    assert told[1].values == {"loss": 1.0}


def test_one_file_has_one_loss() -> None:
    losses, told = TaskLosses(measure), list[Event]()
    assert losses.mean([make_row(5, None)]) == 1.0
    losses.told_to(told.append)(Event("eval", 1, 2, {"validation_loss": 1.0}))
    assert told[0].values == {"validation_loss": 1.0}


def test_the_plan_says_how_many_rows_of_each_task_are_seen() -> None:
    settings = {"data.sets": ["a", {"path": "b", "weight": 4}], "train.epochs": 2, "train.batch_size": 2}
    config = load_config(overrides=settings)
    rows = [make_row(5, "a") for _ in range(40)] + [make_row(5, "b") for _ in range(10)]
    first, second = task_plans(plan_steps(config, rows))
    assert (first.rows, first.seen, first.passes, first.share) == (40, 50, 1.25, 0.5)
    assert (second.rows, second.seen, second.passes, second.share) == (10, 50, 5.0, 0.5)
    assert task_plans(plan_steps(load_config(overrides={"train.epochs": 1}), rows)) == ()


def test_a_task_of_which_nothing_fits_is_named() -> None:
    config = load_config(overrides={"data.sets": ["a", "b"], "train.epochs": 1})
    with pytest.raises(DataError, match="no row of b fits"):
        plan_steps(config, [make_row(5, "a")])


def test_a_resumed_run_may_find_its_files_elsewhere_but_not_mix_them_otherwise() -> None:
    rows = [make_row(5, "a"), make_row(5, "b")]

    def identity(*sets: object) -> dict[str, object]:
        config = load_config(overrides={"data.sets": list(sets), "train.epochs": 1})
        return identity_of(config, plan_steps(config, rows), data="d", ids="i", base="b", device="cpu")

    first = identity({"path": "a", "task": "a"}, {"path": "b", "task": "b"})
    assert identity({"path": "x/a", "task": "a"}, {"path": "y/b", "task": "b"}) == first
    assert identity({"path": "a", "task": "a"}, {"path": "b", "task": "b", "weight": 2}) != first
