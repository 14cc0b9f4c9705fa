"""Intervals and verdicts: right on known distributions, calibrated on equal models, and able to see a real gain."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evaluate import paired
from tunesmith.evaluate.paired import Sums, difference, interval, mean_of, ratio


def test_the_interval_of_a_mean_is_that_of_the_t_distribution() -> None:
    scores = np.random.default_rng(0).normal(5, 2, size=400)
    found = interval(mean_of(scores), resamples=20_000)
    half = 1.966 * scores.std(ddof=1) / 20  # t with 399 degrees of freedom
    assert found.value == pytest.approx(scores.mean())
    assert found.low == pytest.approx(scores.mean() - half, abs=0.02)
    assert found.high == pytest.approx(scores.mean() + half, abs=0.02)


def test_few_rows_give_the_wider_interval_of_the_t_distribution() -> None:
    scores = np.random.default_rng(1).normal(0, 1, size=12)
    found = interval(mean_of(scores), resamples=40_000)
    half = 2.201 * scores.std(ddof=1) / np.sqrt(12)  # t with 11 degrees of freedom; 1.96 without the correction
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.04)


def test_a_ratio_is_resampled_as_a_ratio_of_sums() -> None:
    """Perplexity of rows of different lengths is no mean of row perplexities."""
    rows = np.array([[2.0, 1.0], [30.0, 10.0]] * 50)
    sums = Sums(rows, lambda totals: np.exp(ratio(totals)), higher_is_better=False)
    found = interval(sums)
    assert found.value == pytest.approx(np.exp(32 / 11))
    assert found.low < found.value < found.high


def test_lower_is_better_turns_the_verdict() -> None:
    before, after = np.full(50, 3.0), np.full(50, 2.0)
    after[:5] = 3.5
    up = difference(mean_of(before), mean_of(after))
    down = difference(*(replace(mean_of(scores), higher_is_better=False) for scores in (before, after)))
    assert (up.verdict, down.verdict) == ("worse", "better")
    assert up.change == down.change == pytest.approx(-0.85)


def test_rows_decide_not_their_number_of_wins() -> None:
    found = difference(mean_of(np.zeros(9)), mean_of(np.ones(9)))
    assert found.verdict == "too few rows"
    assert difference(mean_of(np.zeros(10)), mean_of(np.ones(10))).verdict == "better"


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40), st.integers(0, 5))
def test_equal_models_never_differ_and_exchange_turns_the_sign(scores: list[float], seed: int) -> None:
    same = mean_of(np.array(scores))
    other = mean_of(np.array(scores[::-1]))
    found = difference(same, same, seed=seed, resamples=200)
    assert (found.change, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    there, back = (difference(*pair, seed=seed, resamples=200) for pair in ((same, other), (other, same)))
    assert there.low == pytest.approx(-back.high)
    assert there.high == pytest.approx(-back.low)


def test_the_same_seed_gives_the_same_answer() -> None:
    generator = np.random.default_rng(3)
    pair = mean_of(generator.random(80)), mean_of(generator.random(80))
    assert difference(*pair, seed=4) == difference(*pair, seed=4)
    assert difference(*pair, seed=4) != difference(*pair, seed=5)


def test_the_mean_of_rows_without_a_score_is_none_and_no_warning() -> None:
    """Such as a task of which a judge's replies cannot be read. A warning would be an error here."""
    sums = mean_of(np.array([np.nan, np.nan]))
    assert np.isnan(sums.value)
    assert np.isnan(sums.by_row).all()
    found = difference(sums, sums)
    assert (found.verdict, found.rows) == ("too few rows", 0)


def test_scores_that_do_not_exist_give_no_verdict() -> None:
    endless = Sums(np.full((20, 1), np.inf), lambda totals: totals[:, 0], higher_is_better=False)
    found = difference(endless, endless)
    assert np.isnan([found.change, found.low, found.high]).all()
    assert found.verdict == "no evidence"


def test_rows_that_a_score_leaves_out_leave_its_interval_finite() -> None:
    known = Sums(np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 0.0]]), lambda totals: totals[:, 0] / totals[:, 1])
    found = interval(known)  # one resample in 27 has nothing but the third row
    assert found.value == 1.5
    assert 1 <= found.low <= found.high <= 2


def test_a_row_that_one_model_has_no_score_for_counts_for_neither() -> None:
    """Left out of one side only, a hard row would make the other look worse."""
    before = np.array([1.0, 2.0, 3.0, 2.0, 1.0, 3.0] * 5)
    after = before.copy()
    after[[2, 5]] = np.nan
    found = difference(mean_of(before), mean_of(after))
    assert (found.change, found.low, found.high, found.verdict) == (0, 0, 0, "no evidence")
    assert found.before == pytest.approx(np.delete(before, [2, 5]).mean())


def test_rows_without_a_score_do_not_make_few_rows_enough() -> None:
    before, after = np.full(100, np.nan), np.full(100, np.nan)
    before[:9], after[:9] = 0.0, 1.0
    assert difference(mean_of(before), mean_of(after)).verdict == "too few rows"
    assert interval(mean_of(after)) == interval(mean_of(after[:9]))
    before[9], after[9] = 0.0, 1.0
    assert difference(mean_of(before), mean_of(after)).verdict == "better"
    none = difference(mean_of(np.full(20, np.nan)), mean_of(after[:20]))
    assert none.verdict == "too few rows"
    assert np.isnan([none.before, none.after, none.change, none.low, none.high]).all()
    assert np.isnan(interval(mean_of(np.full(20, np.nan))).value)


def test_many_rows_are_not_drawn_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 resamples of 500 rows are 8 MB, a chunk of them 0.1 MB."""
    monkeypatch.setattr(paired, "_NUMBERS_AT_ONCE", 2**12)
    scores = mean_of(np.random.default_rng(0).normal(size=500))
    tracemalloc.start()
    try:
        difference(scores, replace(scores, rows=scores.rows[::-1]))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_not_the_same_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows before, 3 after"):
        difference(mean_of(np.zeros(2)), mean_of(np.zeros(3)))
    with pytest.raises(ValueError, match="no rows"):
        interval(mean_of(np.zeros(0)))


def _answers(generator: np.random.Generator, rows: int, gain: float) -> tuple[Sums, Sums]:
    """Scores of two models on the same rows: some rows are hard for both, and each has luck of its own."""
    difficulty = generator.beta(0.8, 0.8, size=rows)
    first, second = ((generator.random(rows) < difficulty).astype(float) for _ in range(2))
    wrong = np.flatnonzero(second == 0)
    second[generator.permutation(wrong)[: round(gain * rows)]] = 1.0
    return mean_of(first), mean_of(second)


def test_equal_models_are_called_different_in_at_most_one_of_twenty() -> None:
    generator = np.random.default_rng(7)
    for rows in (30, 400):
        wrong = sum(
            difference(*_answers(generator, rows, 0.0), seed=trial, resamples=500).verdict in ("better", "worse")
            for trial in range(200)
        )
        assert wrong <= 10, f"{wrong} of 200 at {rows} rows"


def test_ten_points_are_found_at_four_hundred_rows() -> None:
    generator = np.random.default_rng(8)
    found = sum(
        difference(*_answers(generator, 400, 0.1), seed=trial, resamples=500).verdict == "better"
        for trial in range(100)
    )
    assert found >= 90
