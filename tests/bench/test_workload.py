"""All contenders train on the same rows in the same order; lengths and labels are what the page says."""

from __future__ import annotations

import numpy as np

from bench.job import LONGEST_ROW, SHORTEST_ROW, Job
from bench.workload import PAD_ID, in_step_order, make_rows, rows_of
from tunesmith.data import StepPlan

JOB = Job("speed", "tiny", "ours", rows=64, rows_per_step=4)


def test_rows_are_a_function_of_the_seed() -> None:
    first, second = rows_of(JOB), rows_of(JOB)
    assert all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(first, second, strict=True))


def test_lengths_and_labels() -> None:
    rows = make_rows(200, vocab_size=512, row_tokens=None)
    lengths = [len(row) for row in rows]
    assert min(lengths) >= SHORTEST_ROW
    assert max(lengths) <= LONGEST_ROW
    assert len(set(lengths)) > 100
    for row in rows:
        prompt = int(np.argmax(row.supervised))
        assert 0.25 * len(row) < prompt < 0.65 * len(row)
        assert row.supervised[prompt:].all()
        assert PAD_ID not in row.input_ids  # the peers' counters of real tokens go by it
        assert row.input_ids.max() < 512
    assert {len(row) for row in make_rows(9, vocab_size=512, row_tokens=192)} == {192}


def test_the_order_is_that_of_the_loop() -> None:
    rows = rows_of(JOB)
    plan = StepPlan(rows=64, rows_per_step=4, total_steps=16, seed=20261121)
    expected = [int(index) for step in range(16) for index in plan.rows_of(step)]
    assert [row.row for row in in_step_order(rows, JOB)] == expected
    assert sorted(expected) == list(range(64))
