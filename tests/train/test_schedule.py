"""Schedules against transformers' own, and their ends."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from tunesmith.train.schedule import SHAPES, Schedule


def _reference(make: object, *, warmup: int, total: int, peak: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = make(optimizer, num_warmup_steps=warmup, num_training_steps=total)  # type: ignore[operator]
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("shape", "make"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
def test_after_warmup_equals_transformers(shape: str, make: object) -> None:
    ours = Schedule(shape, peak=3e-4, total_steps=50, warmup_steps=10)
    expected = _reference(make, warmup=10, total=50, peak=3e-4)
    assert [ours(step) for step in range(10, 50)] == pytest.approx(expected[10:], rel=1e-9)


def test_warmup_starts_above_zero_so_that_no_step_is_wasted() -> None:
    ours = Schedule("linear", peak=1.0, total_steps=100, warmup_steps=4)
    assert [ours(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    total=st.integers(1, 500),
    share=st.floats(0, 0.9),
    floor=st.floats(0, 1),
    peak=st.floats(1e-6, 1),
)
def test_rate_is_between_floor_and_peak_and_never_rises_after_warmup(
    shape: str, total: int, share: float, floor: float, peak: float
) -> None:
    schedule = Schedule(shape, peak=peak, total_steps=total, warmup_steps=round(share * total), floor=floor)
    rates = [schedule(step) for step in range(schedule.warmup_steps, total)]
    assert all(peak * floor * (1 - 1e-9) <= rate <= peak * (1 + 1e-9) for rate in rates)
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(rates))
    assert math.isfinite(schedule(total + 10))
