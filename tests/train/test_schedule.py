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


def test_stable_then_decay_holds_the_peak_and_falls_by_one_minus_the_root() -> None:
    ours = Schedule("warmup_stable_decay", peak=1.0, total_steps=110, warmup_steps=10, decay_ratio=0.2)
    assert [ours(step) for step in (9, 50, 89)] == [1.0, 1.0, 1.0]
    assert [ours(step) for step in (95, 100, 109, 110)] == pytest.approx(
        [1 - math.sqrt(0.25), 1 - math.sqrt(0.5), 1 - math.sqrt(0.95), 0.0]
    )


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    total=st.integers(1, 500),
    share=st.floats(0, 0.9),
    floor=st.floats(0, 1),
    peak=st.floats(1e-6, 1),
    decay_ratio=st.floats(0.01, 1),
)
def test_rate_is_between_floor_and_peak_and_never_rises_after_warmup(
    shape: str, total: int, share: float, floor: float, peak: float, decay_ratio: float
) -> None:
    warmup = round(share * total)
    schedule = Schedule(shape, peak=peak, total_steps=total, warmup_steps=warmup, floor=floor, decay_ratio=decay_ratio)
    rates = [schedule(step) for step in range(schedule.warmup_steps, total)]
    assert all(peak * floor * (1 - 1e-9) <= rate <= peak * (1 + 1e-9) for rate in rates)
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(rates))
    assert math.isfinite(schedule(total + 10))
