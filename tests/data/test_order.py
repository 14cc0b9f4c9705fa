"""The order of rows: every row once an epoch, whatever the sizes; a pure function of seed and step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.order import StepPlan


@given(
    rows=st.integers(1, 60),
    per_step=st.integers(1, 20),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    bucketed=st.booleans(),
)
def test_every_epoch_sees_every_row_once(rows: int, per_step: int, epochs: int, seed: int, bucketed: bool) -> None:
    plan = StepPlan.for_run(rows, rows_per_step=per_step, epochs=epochs, max_steps=None, seed=seed)
    if bucketed:
        plan = plan.bucketed(index % 7 + 1 for index in range(rows))
    seen = [plan.rows_of(step).tolist() for step in range(plan.total_steps)]
    for epoch in range(epochs):
        steps = seen[epoch * plan.steps_per_epoch : (epoch + 1) * plan.steps_per_epoch]
        assert sorted(row for step in steps for row in step) == list(range(rows))
        assert all(len(step) == per_step for step in steps[:-1])
    assert plan.epoch_at(plan.total_steps) == epochs


def test_order_depends_on_seed_and_epoch_only() -> None:
    plan = StepPlan(40, 10, 8, seed=1)
    again = StepPlan(40, 10, 8, seed=1)
    other = StepPlan(40, 10, 8, seed=2)
    np.testing.assert_array_equal(plan.rows_of(5), again.rows_of(5))
    assert plan.rows_of(0).tolist() != other.rows_of(0).tolist()
    assert plan.rows_of(0).tolist() != plan.rows_of(4).tolist()


def test_max_steps_wins_over_epochs_and_part_epochs_round_up() -> None:
    assert StepPlan.for_run(100, rows_per_step=10, epochs=3, max_steps=7, seed=0).total_steps == 7
    assert StepPlan.for_run(100, rows_per_step=10, epochs=0.25, max_steps=None, seed=0).total_steps == 3
    assert StepPlan.for_run(100, rows_per_step=10, epochs=1.0, max_steps=None, seed=0).total_steps == 10


def test_bucketed_steps_hold_rows_of_like_length_in_no_order_of_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 500, 1000)
    plan = StepPlan.for_run(1000, rows_per_step=8, epochs=2, max_steps=None, seed=3)
    bucketed = plan.bucketed(lengths.tolist())

    def spreads(one: StepPlan) -> list[int]:
        return [int(np.ptp(lengths[one.rows_of(step)])) for step in range(one.steps_per_epoch)]

    assert np.mean(spreads(bucketed)) < 0.1 * np.mean(spreads(plan))
    means = [float(lengths[bucketed.rows_of(step)].mean()) for step in range(bucketed.steps_per_epoch)]
    assert abs(float(np.corrcoef(means, range(len(means)))[0, 1])) < 0.2
    assert bucketed.rows_of(0).tolist() != bucketed.rows_of(125).tolist()


@given(rows=st.integers(1, 60), per_step=st.integers(1, 20), before=st.integers(0, 40))
def test_a_plan_after_epochs_goes_on_where_they_ended(rows: int, per_step: int, before: int) -> None:
    whole = StepPlan(rows, per_step, before + 9, seed=4)
    rest = StepPlan(rows, per_step, 9, seed=4).after(before / whole.steps_per_epoch)
    for step in range(9):
        assert rest.rows_of(step).tolist() == whole.rows_of(before + step).tolist()
        assert rest.epoch_at(step) == whole.epoch_at(before + step)
