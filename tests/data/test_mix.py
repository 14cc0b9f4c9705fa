"""Mixing: shares by weight and temperature, whole rows of them, and an order that starves nobody."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.mix import Mixture, apportion, mixing_shares, passes
from tunesmith.data.order import StepPlan

PLAIN = [[6, 7, 0, 10], [3, 5, 2, 4], [9, 1, 8], [0, 7, 4, 9], [8, 3, 1, 2], [10, 6, 5]]
BUCKETED = [[5, 7, 2, 0], [3, 4, 6, 10], [9, 1, 8], [7, 2, 9, 0], [8, 4, 3, 1], [10, 6, 5]]
SIZES = st.lists(st.integers(1, 500), min_size=2, max_size=6)


@st.composite
def plans(draw: st.DrawFn) -> StepPlan:
    sizes = draw(st.lists(st.integers(1, 60), min_size=2, max_size=5))
    weights = {f"task {index}": draw(st.floats(0.01, 100)) for index in range(len(sizes))}
    tasks = [name for name, size in zip(weights, sizes, strict=True) for _ in range(size)]
    mixture = Mixture.of(tasks, weights, temperature=draw(st.floats(0.5, 20)))
    plan = StepPlan.for_run(
        len(tasks),
        rows_per_step=draw(st.integers(1, 20)),
        epochs=draw(st.integers(1, 3)),
        max_steps=draw(st.one_of(st.none(), st.integers(1, 30))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    return plan.mixed(mixture)


def groups_seen(plan: StepPlan) -> list[list[int]]:
    """The group of every row of every step."""
    assert plan.mixture is not None
    group_of = {row: group for group, rows in enumerate(plan.mixture.members) for row in rows}
    return [[group_of[row] for row in plan.rows_of(step).tolist()] for step in range(plan.total_steps)]


@given(sizes=SIZES)
def test_temperature_1_sees_every_row_as_often_as_any_other(sizes: list[int]) -> None:
    shares = mixing_shares(sizes, weights=[1] * len(sizes))
    assert apportion(shares, sum(sizes)) == sizes


@given(sizes=SIZES, temperature=st.floats(1, 50))
def test_shares_are_weight_times_size_to_the_inverse_temperature(sizes: list[int], temperature: float) -> None:
    weights = [index + 0.5 for index in range(len(sizes))]
    shares = mixing_shares(sizes, weights=weights, temperature=temperature)
    assert math.isclose(sum(shares), 1)
    for index in range(1, len(sizes)):
        ratio = weights[index] / weights[0] * (sizes[index] / sizes[0]) ** (1 / temperature)
        assert math.isclose(shares[index] / shares[0], ratio, rel_tol=1e-9)


def test_a_higher_temperature_brings_the_shares_together() -> None:
    # 0.3 = 1 / 3.33: the exponent of XLM-R; multilingual BERT's 0.7 in between
    small = [mixing_shares([10_000, 100], weights=[1, 1], temperature=t)[1] for t in (1, 1 / 0.7, 1 / 0.3, 1e6)]
    assert small == pytest.approx([0.0099, 0.0383, 0.2008, 0.5], abs=1e-4)


@given(
    shares=st.lists(st.floats(1e-6, 1), min_size=1, max_size=8),
    total=st.integers(0, 2000),
)
def test_whole_parts_add_up_and_nobody_gets_nothing(shares: list[float], total: int) -> None:
    shares = [share / math.fsum(shares) for share in shares]
    counts = apportion(shares, total)
    assert sum(counts) == total
    assert min(counts) >= (1 if total >= len(shares) else 0)
    if all(share * total >= 1 for share in shares):
        assert all(abs(count - share * total) < 1 for count, share in zip(counts, shares, strict=True))


@given(size=st.integers(1, 40), first=st.integers(0, 200), count=st.integers(1, 120), seed=st.integers(0, 99))
def test_a_stream_of_passes_can_be_taken_up_anywhere(size: int, first: int, count: int, seed: int) -> None:
    whole = passes(size, 0, first + count, seed=(seed,))
    np.testing.assert_array_equal(passes(size, first, count, seed=(seed,)), whole[first:])
    for start in range(0, len(whole) - size + 1, size):
        assert sorted(whole[start : start + size].tolist()) == list(range(size))


@given(plan=plans())
def test_an_epoch_has_its_rows_and_every_task_is_in_it(plan: StepPlan) -> None:
    assert plan.mixture is not None
    seen = groups_seen(plan)
    sizes = list(map(len, seen))
    assert sizes == [len(rows) for rows in steps_of_plain(plan)]
    shorter = min(plan.rows, plan.total_steps * plan.rows_per_step)
    if sum(sizes) >= shorter >= len(plan.mixture.members):
        first = [group for step in seen for group in step][:shorter]
        assert np.bincount(first, minlength=len(plan.mixture.members)).tolist() == apportion(
            plan.mixture.shares, shorter
        )
        assert set(first) == set(range(len(plan.mixture.members)))


def steps_of_plain(plan: StepPlan) -> list[list[int]]:
    plain = StepPlan(plan.rows, plan.rows_per_step, plan.total_steps, plan.seed)
    return [plain.rows_of(step).tolist() for step in range(plan.total_steps)]


@given(plan=plans())
def test_no_row_comes_again_before_all_of_its_task_have(plan: StepPlan) -> None:
    assert plan.mixture is not None
    times = plan.times_seen()
    assert times.sum() == sum(len(step) for step in groups_seen(plan))
    if plan.total_steps % plan.steps_per_epoch == 0:
        for members in plan.mixture.members:
            assert np.ptp(times[list(members)]) <= 1


@given(sizes=st.lists(st.integers(1, 80), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_every_stretch_holds_the_tasks_by_their_shares(sizes: list[int], seed: int) -> None:
    tasks = [str(index) for index, size in enumerate(sizes) for _ in range(size)]
    mixture = Mixture.of(tasks, dict.fromkeys(dict.fromkeys(tasks), 1.0), temperature=1)
    order = mixture.groups_of(len(tasks), np.random.default_rng(seed))
    for stop in range(1, len(tasks) + 1):
        counts = np.bincount(order[:stop], minlength=len(sizes))
        for count, size in zip(counts, sizes, strict=True):
            # one row in each of `size` equal parts of the epoch, whose borders other tasks shift by at most theirs
            assert abs(count - stop * size / len(tasks)) <= 1 + len(sizes) * size / len(tasks)


def test_one_file_has_the_order_it_always_had() -> None:
    """Recorded before there were mixtures: a run of one file sees these rows in these steps."""
    plan = StepPlan.for_run(11, rows_per_step=4, epochs=2, max_steps=None, seed=42)
    bucketed = plan.bucketed((5, 9, 3, 7, 7, 1, 8, 2, 6, 4, 10))
    assert [plan.rows_of(step).tolist() for step in range(plan.total_steps)] == PLAIN
    assert [bucketed.rows_of(step).tolist() for step in range(plan.total_steps)] == BUCKETED
