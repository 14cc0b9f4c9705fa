"""Old rows: the sample is even over all generations, and each step has its share of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tunesmith.data import ReplayBuffer, ReplayPlan, StepPlan
from tunesmith.types import Example, Message


def examples(first: int, last: int) -> list[Example]:
    return [
        Example((Message("user", f"q{row}", "context" if row % 2 else None), Message("assistant", f"a{row}")), row=row)
        for row in range(first, last)
    ]


def rows_of(buffer: ReplayBuffer) -> list[int]:
    return [kept.example.row for kept in buffer.rows]


def test_rows_of_all_generations_are_kept_alike() -> None:
    """30, 60 and 10 rows go by in three runs: each of the 100 is in a tenth of the buffers, whenever it came."""
    counts: Counter[int] = Counter()
    for seed in range(2000):
        buffer = ReplayBuffer(10)
        for run, (first, last) in {"a": (0, 30), "b": (30, 90), "c": (90, 100)}.items():
            buffer = buffer.after(examples(first, last), run=run, seed=seed)
        assert len(set(rows_of(buffer))) == 10
        assert buffer.seen == 100
        counts.update(rows_of(buffer))
    per_run = [
        sum(counts[row] for row in range(first, last)) / (last - first)
        for first, last in ((0, 30), (30, 90), (90, 100))
    ]
    assert per_run == pytest.approx([200, 200, 200], rel=0.05)
    # of a binomial with mean 200 and deviation 13.4, five deviations for the outermost of 100
    assert all(abs(counts[row] - 200) < 67 for row in range(100))


def test_the_same_seed_keeps_the_same_rows_and_knows_whose_they_were() -> None:
    one, other = (ReplayBuffer(8).after(examples(0, 50), run="faq", seed=3) for _ in range(2))
    assert one == other
    assert one != ReplayBuffer(8).after(examples(0, 50), run="faq", seed=4)
    later = one.after(examples(50, 60), run="more", seed=3)
    assert {kept.run for kept in later.rows} <= {"faq", "more"}
    assert all((kept.run == "more") == (kept.example.row >= 50) for kept in later.rows)


def test_what_fits_is_kept_whole_and_in_order() -> None:
    buffer = ReplayBuffer(8).after(examples(0, 5), run="faq", seed=0)
    assert rows_of(buffer) == [0, 1, 2, 3, 4]
    assert rows_of(ReplayBuffer(0).after(examples(0, 5), run="faq", seed=0)) == []


def test_text_and_back() -> None:
    odd = Example(text="line\u2028separator\nand a break", row=7, sheet="Blatt 1")
    buffer = ReplayBuffer(9).after([*examples(0, 3), odd], run="faq", seed=0)
    text = buffer.to_text()
    assert text.count("\n") == 4
    assert ReplayBuffer.from_text(text, capacity=9, seen=4) == buffer


def test_a_buffer_shrinks_and_grows_only_while_nothing_is_gone() -> None:
    whole = ReplayBuffer(10).after(examples(0, 6), run="faq", seed=0)
    assert whole.of_capacity(20, seed=0).capacity == 20
    small = whole.of_capacity(3, seed=0)
    assert len(small.rows) == 3
    assert set(small.rows) < set(whole.rows)
    assert small.seen == 6
    with pytest.raises(ValueError, match="3 of 6 rows are gone"):
        small.of_capacity(4, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.75])
def test_a_step_has_its_new_rows_and_its_share_of_old_ones(share: float) -> None:
    new = StepPlan.for_run(50, rows_per_step=8, epochs=3, max_steps=None, seed=5)
    plan = ReplayPlan(new, 7, share)
    seen: Counter[int] = Counter()
    total_new = total_old = 0
    for step in range(plan.total_steps):
        rows = plan.rows_of(step)
        fresh, old = rows[rows < 50], rows[rows >= 50] - 50
        assert np.array_equal(fresh, new.rows_of(step))
        assert len(rows) <= plan.rows_per_step
        total_new, total_old = total_new + len(fresh), total_old + len(old)
        assert total_old == int(total_new * share / (1 - share) + 1e-9)
        seen.update(old.tolist())
        assert np.array_equal(rows, ReplayPlan(new, 7, share).rows_of(step))  # the step alone decides
    assert set(seen) == set(range(7))
    assert max(seen.values()) - min(seen.values()) <= 1  # all in turn
    assert plan.epoch_at(plan.total_steps) == 3
