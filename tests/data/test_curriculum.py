"""A curriculum: what is there at each point of a run, and that its order leaves nobody out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.curriculum import Curriculum
from tunesmith.data.mix import Mixture
from tunesmith.data.order import StepPlan

PACINGS = ("linear", "root", "steps")


@pytest.mark.parametrize(
    ("pacing", "competences"),
    [  # (t (1 - c0^p) + c0^p)^(1/p) with c0 = 0.2, at 0, 1/4, 1/2, 3/4 and all of the time
        ("linear", [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("root", [0.2, 0.28**0.5, 0.52**0.5, 0.76**0.5, 1.0]),
        ("steps", [0.2, 0.36, 0.52, 0.68, 1.0]),
    ],
)
def test_competence(pacing: str, competences: list[float]) -> None:
    curriculum = Curriculum((), pacing, start=0.2, until=0.8)
    assert [curriculum.competence(share * 0.2) for share in range(5)] == pytest.approx(competences)
    assert curriculum.competence(0.9) == 1.0


@given(pacing=st.sampled_from(PACINGS), start=st.floats(0.001, 1), until=st.floats(0.01, 1), t=st.floats(0, 1))
def test_competence_rises_from_start_to_all(pacing: str, start: float, until: float, t: float) -> None:
    curriculum = Curriculum((), pacing, start=start, until=until)
    assert curriculum.competence(0) == pytest.approx(start)
    assert start - 1e-12 <= curriculum.competence(t) <= curriculum.competence(min(1.0, t + 0.1)) + 1e-12 <= 1 + 2e-12
    assert curriculum.competence(1) == 1.0


@given(
    rows=st.integers(1, 60),
    per_step=st.integers(1, 12),
    pacing=st.sampled_from(PACINGS),
    start=st.floats(0.01, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_are_there_before_they_are_drawn(rows: int, per_step: int, pacing: str, start: float, seed: int) -> None:
    difficulties = tuple(float(value) for value in np.random.default_rng(seed).permutation(rows))
    curriculum = Curriculum(difficulties, pacing, start=start, until=0.5)
    plan = StepPlan.for_run(rows, rows_per_step=per_step, epochs=3, max_steps=None, seed=seed).paced(curriculum)
    plain = StepPlan(rows, per_step, plan.total_steps, seed)
    for step in range(plan.total_steps):
        drawn = plan.rows_of(step).tolist()
        assert len(drawn) == len(plain.rows_of(step))
        there = max(curriculum.competence(step / plan.total_steps) * rows, min(per_step, rows))
        assert max(difficulties[row] for row in drawn) < there + 1  # difficulties are ranks: 0, 1, 2 ...


@given(steps=st.integers(8, 40), per_step=st.integers(1, 12), pacing=st.sampled_from(PACINGS), seed=st.integers(0, 99))
def test_a_run_of_one_epoch_sees_every_row_once(steps: int, per_step: int, pacing: str, seed: int) -> None:
    """With rows coming in at least as fast as they are drawn, there is nothing to be drawn again."""
    rows = steps * per_step - seed % per_step
    curriculum = Curriculum(tuple(range(rows)), pacing, start=0.3, until=0.5)
    plan = StepPlan.for_run(rows, rows_per_step=per_step, epochs=1, max_steps=None, seed=seed).paced(curriculum)
    assert plan.times_seen().tolist() == [1] * rows


def test_easy_rows_come_first_and_all_are_seen_in_the_end() -> None:
    difficulties = tuple(float(value) for value in np.random.default_rng(0).normal(size=300))
    plan = StepPlan.for_run(300, rows_per_step=10, epochs=6, max_steps=None, seed=1)
    paced = plan.paced(Curriculum(difficulties, "root", start=0.1, until=0.5))
    means = [np.mean([difficulties[row] for row in paced.rows_of(step)]) for step in range(plan.total_steps)]
    quarter = len(means) // 4
    assert np.mean(means[: quarter // 2]) < np.mean(means[quarter // 2 : quarter]) - 0.1
    assert np.mean(means[:quarter]) < np.mean(means[-quarter:]) - 0.3
    assert paced.times_seen().min() >= 2
    assert paced.times_seen().sum() == 6 * 300


def test_rows_of_equal_difficulty_come_in_no_order_of_the_file() -> None:
    plan = StepPlan(200, 10, 40, seed=3).paced(Curriculum((1.0,) * 200, "linear", start=0.1, until=0.5))
    first = plan.rows_of(0).tolist()
    assert max(first) > 50
    assert first != sorted(first)


def test_the_order_is_a_function_of_the_seed() -> None:
    curriculum = [Curriculum(tuple(range(50)), "linear", start=0.1, until=0.5) for _ in range(2)]
    one, again = (StepPlan(50, 8, 20, seed=5).paced(each) for each in curriculum)
    other = StepPlan(50, 8, 20, seed=6).paced(curriculum[0])
    for step in (19, 3, 0):  # whichever is asked for first
        np.testing.assert_array_equal(one.rows_of(step), again.rows_of(step))
    assert one.rows_of(10).tolist() != other.rows_of(10).tolist()


def test_each_task_of_a_mixture_has_its_own_easy_rows() -> None:
    """The rows of the hard task are all harder, and its easiest come first all the same, by its share."""
    weights = {"easy": 1.0, "hard": 1.0}
    mixture = Mixture.of(["easy"] * 60 + ["hard"] * 20, weights, temperature=1e9)
    curriculum = Curriculum(tuple(map(float, range(80))), "linear", start=0.1, until=0.5)
    plan = StepPlan.for_run(80, rows_per_step=8, epochs=4, max_steps=None, seed=2).mixed(mixture).paced(curriculum)
    first = np.concatenate([plan.rows_of(step) for step in range(3)])
    assert np.sum(first >= 60) == pytest.approx(len(first) / 2, abs=2)
    assert first[first >= 60].max() < 70
    assert first[first < 60].max() < 25
    times = plan.times_seen()
    assert times[60:].sum() == times[:60].sum() == 160
