"""Schedules against transformers' own, and their ends."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    get_cosine_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from tunesmith.config import Phase, load_config
from tunesmith.train.resolve import schedule_for
from tunesmith.train.schedule import PHASE_SHAPES, SHAPES, PhasedSchedule, Plateau, Schedule, Span


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


def test_inverse_sqrt_equals_transformers() -> None:
    ours = Schedule("inverse_sqrt", peak=3e-4, total_steps=50, warmup_steps=10)

    def make(optimizer: torch.optim.Optimizer, num_warmup_steps: int, num_training_steps: int) -> object:
        return get_inverse_sqrt_schedule(optimizer, num_warmup_steps)

    assert [ours(step) for step in range(10, 50)] == pytest.approx(
        _reference(make, warmup=10, total=50, peak=3e-4)[10:], rel=1e-9
    )


def test_polynomial_equals_transformers_also_with_a_floor() -> None:
    ours = Schedule("polynomial", peak=3e-4, total_steps=50, warmup_steps=10, floor=0.1, power=3)

    def make(optimizer: torch.optim.Optimizer, num_warmup_steps: int, num_training_steps: int) -> object:
        return get_polynomial_decay_schedule_with_warmup(
            optimizer, num_warmup_steps, num_training_steps, lr_end=3e-5, power=3
        )

    assert [ours(step) for step in range(10, 50)] == pytest.approx(
        _reference(make, warmup=10, total=50, peak=3e-4)[10:], rel=1e-9
    )


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


def test_spans_name_the_parts_of_a_schedule() -> None:
    stable = Schedule("warmup_stable_decay", peak=1.0, total_steps=110, warmup_steps=10, decay_ratio=0.2)
    assert stable.spans() == [Span("warm-up", 0, 10), Span("stable", 10, 90), Span("decay", 90, 110)]
    assert stable(90) == pytest.approx(1.0, abs=1e-6)
    assert stable(91) < 0.9
    assert Schedule("cosine", peak=1.0, total_steps=10, warmup_steps=0).spans() == [Span("cosine", 0, 10)]


# --- phases


def _phase(name: str, until: float, start: float, to: float | None, **more: object) -> Phase:
    return Phase.model_validate({"name": name, "until": until, "from": start, "to": to, **more})


def test_three_phases_step_by_step() -> None:
    phases = [
        _phase("explore", 0.5, 5e-4, 1e-4, warmup=0.2),
        _phase("exploit", 0.9, 1e-4, 1e-5, shape="cosine"),
        _phase("refine", 1.0, 1e-5, 1e-6, shape="exponential"),
    ]
    rates = [PhasedSchedule(phases, 20)(step) for step in range(22)]
    assert rates[:2] == pytest.approx([2.5e-4, 5e-4])  # warm-up in a line, no step at 0
    assert rates[2:10] == pytest.approx([5e-4 - 0.5e-4 * step for step in range(8)])
    assert rates[10:18] == pytest.approx([1e-5 + 9e-5 * (1 + math.cos(math.pi * q / 8)) / 2 for q in range(8)])
    assert rates[18:] == pytest.approx([1e-5, 1e-5 * 0.1**0.5, 1e-6, 1e-6])


def test_a_phase_begins_at_its_own_rate_and_constant_holds_it() -> None:
    schedule = PhasedSchedule([_phase("a", 0.5, 1.0, 0.5), _phase("b", 1.0, 0.8, None, shape="constant")], 4)
    assert [schedule(step) for step in range(5)] == [1.0, 0.75, 0.8, 0.8, 0.8]


def test_a_phase_without_a_step_is_left_out() -> None:
    schedule = PhasedSchedule([_phase("a", 0.1, 1.0, 0.5), _phase("b", 1.0, 0.4, 0.2)], 3)
    assert schedule.spans() == [Span("b", 0, 3)]
    assert schedule(0) == 0.4


@given(
    ends=st.lists(st.integers(1, 999), unique=True, max_size=5).map(sorted),
    total=st.integers(1, 2000),
    rates=st.lists(st.floats(1e-7, 1.0), min_size=7, max_size=7),
    shape=st.sampled_from(sorted(PHASE_SHAPES)),
    warmup=st.floats(0, 0.99),
)
def test_any_phases_cover_every_step_within_their_rates(
    ends: list[int], total: int, rates: list[float], shape: str, warmup: float
) -> None:
    untils = [*(end / 1000 for end in ends), 1.0]
    phases = [
        _phase(str(at), until, rates[at], None if shape == "constant" else rates[at + 1], shape=shape, warmup=warmup)
        for at, until in enumerate(untils)
    ]
    schedule = PhasedSchedule(phases, total)
    spans = schedule.spans()
    assert [step for span in spans for step in range(span.first, span.end)] == list(range(total))
    for span in spans:
        phase = phases[int(span.name)]
        low, high = min(phase.start, phase.end), max(phase.start, phase.end)
        length = span.end - span.first
        for step in range(span.first, span.end):
            lowest = 0 if step - span.first < round(warmup * length) else low * (1 - 1e-9)
            assert lowest <= schedule(step) <= high * (1 + 1e-9)
        if warmup * length < 0.5:
            assert schedule(span.first) == pytest.approx(phase.start)


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "inverse_sqrt", "constant", "warmup_stable_decay"])
def test_settings_reach_the_schedule(name: str) -> None:
    overrides = {"train.schedule": name, "learning_rate": 1e-2, "train.power": 3, "train.min_lr_ratio": 0.1}
    schedule = schedule_for(load_config(overrides={**overrides, "warmup_steps": 4}), 40)
    decay_ratio = 0.2 if name == "warmup_stable_decay" else 1.0
    assert schedule == Schedule(name, 1e-2, 40, 4, floor=0.1, decay_ratio=decay_ratio, power=3)


def test_phases_in_the_settings_reach_the_schedule() -> None:
    schedule = schedule_for(load_config(recipe="three-phases"), 2000)
    assert [(span.name, span.first, span.end) for span in schedule.spans()] == [
        *(("exploration", 0, 660), ("exploitation", 660, 1340), ("refinement", 1340, 2000))
    ]
    assert [schedule(step) for step in (99, 660, 1340, 2000)] == pytest.approx([5e-4, 2e-4, 5e-6, 1e-6])


# --- plateau


@given(
    losses=st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0]), max_size=40),
    patience=st.integers(1, 5),
    factor=st.floats(0.1, 0.9),
    floor=st.floats(0, 0.5),
)
def test_plateau_reduces_where_torch_does(losses: list[float], patience: int, factor: float, floor: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # torch reduces when the count exceeds its patience, ours when it reaches it
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience - 1, threshold=0.0, min_lr=floor, eps=0.0
    )
    plateau, current, best, without_gain = Plateau(patience, factor, floor), 1.0, math.inf, 0
    for loss in losses:
        reference.step(loss)
        without_gain = 0 if loss < best else without_gain + 1
        best = min(best, loss)
        current = plateau.rate_factor(current, without_gain=without_gain)
        assert current == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_plateau_never_raises_the_rate() -> None:
    assert Plateau(1, factor=0.5, floor=0.4).rate_factor(0.25, without_gain=1) == 0.25
