"""Is one model better than another on the same rows: intervals and a verdict. Knows numbers of rows, not models.

A score enters as the sums it is made of: a row of k numbers for each test row, and a function from their total to the
score. The mean of a row score is (score, 1) with first/second; perplexity (nats, tokens) with exp(first/second); corpus
BLEU the counts of its n-grams. So every score is resampled in the same way, and exactly.

interval   percentile bootstrap over rows (Efron 1979; for test sets Koehn 2004), both models on the same drawn rows,
           its level widened for few rows as in Hesterberg 2015 (doi:10.1080/00031305.2015.1089789), section 3.3.
           Of a distance (`Sums.is_distance`) the basic bootstrap: the percentiles mirrored at the score (Davison and
           Hinkley 1997, section 5.2; for calibration errors Kumar et al. 2019, arXiv:1909.10155). Luck raises a
           distance: the score lies above the truth, draws lie above the score (less far: the correction is not whole)
p_value    approximate randomization (Noreen 1989; Riezler and Maxwell 2005): how often models that swap their answers
           at random differ as much. Exact level, whatever the distribution of scores

A difference counts only when the interval leaves out 0 and p is below 1 - confidence: at most that share of comparisons
of equal models ends in a false verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
# Below this many rows an interval says little and a verdict nothing.
FEWEST_ROWS = 10
_NUMBERS_AT_ONCE = 2**22

Floats = NDArray[np.float64]
# "different": of a score that is neither better nor worse when it is higher, such as the length of answers
Verdict = Literal["better", "worse", "different", "no evidence", "too few rows"]


@dataclass(frozen=True, slots=True)
class Sums:
    """What a score is made of: `rows` of shape (n, k), and the score of their totals, shape (r, k) -> (r,).

    higher_is_better: None where neither direction is good. is_distance: from 0, so that luck only makes it larger.
    """

    rows: Floats
    score: Callable[[Floats], Floats]
    higher_is_better: bool | None = True
    is_distance: bool = False

    @property
    def value(self) -> float:
        """The score of all rows."""
        return float(self.score(self.rows.sum(axis=0, keepdims=True))[0])

    @property
    def by_row(self) -> Floats:
        """(n,): the score that each row has by itself; NaN for a row that has none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.score(self.rows)

    def only(self, rows: Sequence[int]) -> Sums:
        """Of some of the rows."""
        return replace(self, rows=self.rows[list(rows)])


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the score of further rows of the same kind would lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """after - before, on the `rows` that both have a score of. `verdict` is about `after`, in the good direction."""

    before: float
    after: float
    low: float
    high: float
    p_value: float
    verdict: Verdict
    rows: int

    @property
    def change(self) -> float:
        return self.after - self.before


def mean_of(scores: Floats) -> Sums:
    """The mean of one number per row, as `Sums`. A row with NaN has no score and does not count."""
    known = ~np.isnan(np.asarray(scores, dtype=np.float64))
    return Sums(np.stack([np.where(known, scores, 0.0), known], axis=1), ratio)


def ratio(totals: Floats) -> Floats:
    """First column over second; NaN where both are 0: there was nothing to score."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[:, 0] / totals[:, 1]


def finite(value: float) -> float | None:
    """A number as JSON can hold it: None for infinity and NaN."""
    return value if math.isfinite(value) else None


def interval(sums: Sums, *, seed: int = 0, confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Interval:
    """Bootstrap interval of one model's score. Rows that have none are not drawn; NaN where no row has one.

    Raises:
        ValueError: there are no rows.
    """
    scored = np.flatnonzero(_has_score(sums)).tolist()
    if len(sums.rows) and not scored:
        return Interval(math.nan, math.nan, math.nan)
    known, n = sums.only(scored), len(scored)
    with np.errstate(invalid="ignore"):  # an infinite row that is not drawn: 0 x inf
        draws = np.concatenate([known.score(weights @ known.rows) for weights in _drawn(n, seed, resamples)])
    low, high = _ends(draws, n, confidence)
    value = known.value
    if known.is_distance:
        low, high = _mirrored(low, high, value)
        low, high = max(0.0, low), max(value, high)  # no distance is below 0, nor the score outside of its interval
    return Interval(value, low, high)


def difference(
    before: Sums, after: Sums, *, seed: int = 0, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Difference:
    """Compare two models by one score of the same rows in the same order.

    A row that one of the two has no score for (a judge's reply that cannot be read) is left out of both.

    Raises:
        ValueError: there are no rows, or not the same number of rows.
    """
    if len(after.rows) != len(before.rows):
        raise ValueError(f"{len(before.rows)} rows before, {len(after.rows)} after: not the same rows")
    shared = np.flatnonzero(_has_score(before) & _has_score(after)).tolist()
    if len(before.rows) and not shared:
        return Difference(math.nan, math.nan, math.nan, math.nan, 1.0, "too few rows", 0)
    before, after, n = before.only(shared), after.only(shared), len(shared)
    with np.errstate(invalid="ignore"):  # two infinite perplexities differ by NaN
        changes = [
            after.score(weights @ after.rows) - before.score(weights @ before.rows)
            for weights in _drawn(n, seed, resamples)
        ]
        p_value = _swapped(before, after, seed, resamples)
    low, high = _ends(np.concatenate(changes), n, confidence)
    first, second = before.value, after.value
    if after.is_distance:
        low, high = _mirrored(low, high, second - first)
    verdict: Verdict = "no evidence"
    if n < FEWEST_ROWS:
        verdict = "too few rows"
    elif (low > 0 or high < 0) and p_value < 1 - confidence:
        if after.higher_is_better is None:
            verdict = "different"
        else:
            verdict = "better" if (second > first) == after.higher_is_better else "worse"
    return Difference(first, second, low, high, p_value, verdict, n)


def _has_score(sums: Sums) -> NDArray[np.bool_]:
    """(n,): whether a row has a score by itself. One of nothing but zeros may have none (0 / 0)."""
    found: NDArray[np.bool_] = np.asarray(sums.rows.any(axis=1))
    empty = np.flatnonzero(~found).tolist()
    if empty:
        found[empty] = ~np.isnan(sums.only(empty).by_row)
    return found


def _swapped(before: Sums, after: Sums, seed: int, resamples: int) -> float:
    """Share of random exchanges of the two models' rows that differ at least as much as they do (two-sided)."""
    generator = np.random.default_rng([seed, 2])
    n = len(before.rows)
    gain = after.rows - before.rows
    total_before, total_after = before.rows.sum(axis=0), after.rows.sum(axis=0)
    observed = abs(after.value - before.value)
    slack = 1e-12 * max(1.0, observed)  # equal sums in another order
    as_large = 0
    for size in _chunks(n, resamples):
        moved = generator.integers(0, 2, size=(size, n)).astype(np.float64) @ gain
        changes = after.score(total_after - moved) - before.score(total_before + moved)
        as_large += int((np.abs(changes) >= observed - slack).sum())
    return (as_large + 1) / (resamples + 1)


def _drawn(n: int, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each row is drawn in each resample: chunks of shape (r, n) whose rows sum to n.

    One chunk at a time: all resamples of a hundred thousand rows would take 1.6 GB.
    """
    if n == 0:
        raise ValueError("there are no rows to resample")
    generator = np.random.default_rng([seed, 1])
    for size in _chunks(n, resamples):
        yield generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)


def _chunks(n: int, resamples: int) -> list[int]:
    most = max(1, _NUMBERS_AT_ONCE // n)
    return [min(most, resamples - done) for done in range(0, resamples, most)]


def _ends(draws: Floats, n: int, confidence: float) -> tuple[float, float]:
    """Percentiles of the draws. NaN draws (a score that some resample does not have) are left out; all NaN: NaN."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return math.nan, math.nan
    tail = _widened((1 - confidence) / 2, n)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _mirrored(low: float, high: float, value: float) -> tuple[float, float]:
    """Ends of the basic bootstrap, from those of the percentiles."""
    return 2 * value - high, 2 * value - low


def _widened(tail: float, n: int) -> float:
    """The tail probability at which a percentile interval of n rows has the coverage that Student's t would give it.

    Student's quantile by the expansion of Cornish and Fisher (Abramowitz and Stegun 26.7.5), 4 digits from n = 5 up.
    """
    if n < 3:
        return 0.0
    normal = NormalDist()
    z, freedom = -normal.inv_cdf(tail), n - 1
    t = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    return normal.cdf(-t * math.sqrt(n / (n - 1)))
