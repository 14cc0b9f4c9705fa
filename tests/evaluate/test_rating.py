"""Intervals, decisions and strengths against published numbers, exact sums and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from tunesmith.evaluate import Tally, bradley_terry, is_decided, outcomes_needed, outcomes_to_undecide, wilson
from tunesmith.evaluate.rating import MOST_NEEDED

# Wins of the row over the column, American League East 1987: Agresti, Categorical Data Analysis (2002), table 10.10
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
BASEBALL = [
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson(successes, trials)
    assert found.value == successes / trials
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for successes, trials, confidence in product((0, 3, 7), (7, 40), (0.8, 0.95)):
        theirs = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
        ours = wilson(successes, trials, confidence)
        assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


def test_wilson_without_trials_says_nothing() -> None:
    found = wilson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7])
def test_wilson_covers_the_share_it_should(share: float) -> None:
    drawn = np.random.default_rng(3).binomial(120, share, size=4000)
    covered = [one.low <= share <= one.high for one in (wilson(int(count), 120) for count in drawn)]
    assert 0.93 <= float(np.mean(covered)) <= 0.97


def test_the_bayes_factor_is_the_integral_it_claims() -> None:
    """(w, l) is decided exactly when the mean likelihood over all shares is 20 times that of one half."""
    share = (np.arange(200_000) + 0.5) / 200_000
    for wins, losses in product(range(0, 40, 3), range(0, 25, 3)):
        factor = float(np.mean(share**wins * (1 - share) ** losses)) / 0.5 ** (wins + losses)
        assert is_decided(wins, losses, alpha=0.05) == (factor >= 20), (wins, losses, factor)


def test_looking_after_every_vote_errs_in_at_most_five_percent() -> None:
    """Exact: all ways that 400 votes on equal models can go, stopped at the first decision."""
    alive = np.array([1.0])  # probability of so many wins, not yet decided
    decided = peeked = 0.0
    undecided_by_wilson = np.array([1.0])
    for trials in range(1, 401):
        alive = (np.append(alive, 0) + np.insert(alive, 0, 0)) / 2
        undecided_by_wilson = (np.append(undecided_by_wilson, 0) + np.insert(undecided_by_wilson, 0, 0)) / 2
        for wins in range(trials + 1):
            if alive[wins] and is_decided(wins, trials - wins):
                decided, alive[wins] = decided + alive[wins], 0.0
            interval = wilson(wins, trials)
            if undecided_by_wilson[wins] and (interval.low > 0.5 or interval.high < 0.5):
                peeked, undecided_by_wilson[wins] = peeked + undecided_by_wilson[wins], 0.0
    assert 0.01 < decided <= 0.05
    assert peeked > 0.2  # what the rule is there for


def test_a_plain_preference_is_found() -> None:
    generator = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        wins = np.cumsum(generator.random(300) < 0.65)
        found += any(is_decided(int(count), n - int(count)) for n, count in enumerate(wins, start=1))
    assert found >= 190


def test_outcomes_needed_leads_to_a_decision_and_no_earlier() -> None:
    tally = Tally(24, 12, 0)
    needed = outcomes_needed(tally)
    assert needed
    assert is_decided(24 + needed * 2 / 3, 12 + needed / 3)
    assert not is_decided(24 + (needed - 1) * 2 / 3, 12 + (needed - 1) / 3)


def test_outcomes_needed_counts_ties_and_knows_its_ends() -> None:
    plain, with_ties = outcomes_needed(Tally(24, 12)), outcomes_needed(Tally(24, 12, ties=36))
    assert plain
    assert with_ties == 2 * plain
    assert outcomes_needed(Tally(60, 10)) == 0
    assert outcomes_needed(Tally(500, 500)) is None
    assert outcomes_needed(Tally()) == outcomes_needed(Tally(0, 0, ties=0)) != 0
    assert outcomes_needed(Tally(12, 24)) == plain
    assert MOST_NEEDED == 10_000


def test_a_decision_knows_how_many_questions_it_hangs_on() -> None:
    tally = Tally(40, 15)
    dropped = outcomes_to_undecide(tally)
    assert is_decided(40 - (dropped - 1), 15)
    assert not is_decided(40 - dropped, 15)
    assert outcomes_to_undecide(Tally(15, 40)) == dropped
    assert outcomes_to_undecide(Tally(10, 10)) == 0


def test_bradley_terry_is_the_published_fit() -> None:
    """Agresti 2002, table 10.11, and BradleyTerry2's baseballModel1: abilities over Baltimore."""
    found = bradley_terry(BASEBALL)
    assert found
    over_baltimore = {name: one.value - found[-1].value for name, one in zip(TEAMS, found, strict=True)}
    published = {"Milwaukee": 1.58, "Detroit": 1.44, "Toronto": 1.29, "New York": 1.25, "Boston": 1.11}
    for name, value in {**published, "Cleveland": 0.68, "Baltimore": 0.0}.items():
        assert over_baltimore[name] == pytest.approx(value, abs=5e-3)
    assert sum(one.value for one in found) == pytest.approx(0, abs=1e-9)


def test_bradley_terry_is_the_maximum_and_its_interval_that_of_the_curvature() -> None:
    """Against numerical derivatives of the log-likelihood, written down a second time."""
    found = bradley_terry(BASEBALL)
    assert found
    best = np.array([one.value for one in found])
    wins = np.array(BASEBALL, dtype=float)

    def likelihood(strength: np.ndarray) -> float:
        return float(-(wins * np.log1p(np.exp(strength[None, :] - strength[:, None]))).sum())

    steps = np.eye(len(best)) * 1e-4
    slope = [(likelihood(best + step) - likelihood(best - step)) / 2e-4 for step in steps]
    assert np.abs(slope).max() < 1e-6
    curvature = [
        [
            (likelihood(best + a + b) - likelihood(best + a - b) - likelihood(best - a + b) + likelihood(best - a - b))
            / 4e-8
            for b in steps
        ]
        for a in steps
    ]
    contrast = np.vstack([np.eye(6), -np.ones(6)])  # mean 0
    covariance = contrast @ np.linalg.inv(-contrast.T @ np.array(curvature) @ contrast) @ contrast.T
    for one, variance in zip(found, np.diag(covariance), strict=True):
        assert (one.high - one.value) / 1.959964 == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_bradley_terry_of_two_is_the_win_rate() -> None:
    found = bradley_terry([[0, 30], [10, 0]])
    assert found
    assert found[0].value - found[1].value == pytest.approx(math.log(3))


@pytest.mark.parametrize("wins", [[[0, 1, 1], [0, 0, 1], [0, 1, 0]], [[0, 2, 0], [1, 0, 0], [0, 0, 0]]])
def test_bradley_terry_without_a_finite_answer_says_so(wins: list[list[int]]) -> None:
    assert bradley_terry(wins) is None


def test_bradley_terry_covers_the_truth() -> None:
    truth = np.array([0.6, 0.1, -0.7])
    chance = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    generator = np.random.default_rng(5)
    covered = []
    for _ in range(600):
        wins = np.zeros((3, 3))
        for first, second in ((0, 1), (0, 2), (1, 2)):
            wins[first, second] = generator.binomial(80, chance[first, second])
            wins[second, first] = 80 - wins[first, second]
        found = bradley_terry(wins)
        assert found
        covered += [one.low <= value <= one.high for one, value in zip(found, truth, strict=True)]
    assert 0.93 <= float(np.mean(covered)) <= 0.97
