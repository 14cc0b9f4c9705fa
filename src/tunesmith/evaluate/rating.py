"""From counted preferences to a statement: intervals, when it is decided, strengths of several models. Numbers only.

wilson            score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953)
is_decided        a test that stays right however often one looks: the Bayes factor of "the share is anything" (uniform)
                  over "it is one half" is a non-negative martingale when it is one half, so it ever reaches 1/alpha
                  with probability at most alpha (Ville 1939; Robbins 1970, doi:10.1214/aoms/1177696786). A Wilson
                  interval that is looked at after each vote would leave out one half far too often
bradley_terry     strengths from all pairs at once (Bradley and Terry 1952, doi:10.1093/biomet/39.3-4.324), by the
                  minorization-maximization steps of Hunter 2004 (doi:10.1214/aos/1079120141), with intervals from the
                  observed information
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tunesmith.evaluate.paired import CONFIDENCE, Floats, Interval

# Before this many outcomes the share says little, and two thirds is what a planner hopes for.
_FEWEST_OUTCOMES = 10
_PLANNED_SHARE = 2 / 3
# A decision further away than this is not in sight.
MOST_NEEDED = 10_000
_MM_STEPS = 100_000
_MM_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Tally:
    """Outcomes of one model against another, one a question. `both_bad` are among the ties."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    both_bad: int = 0

    @property
    def decisive(self) -> int:
        return self.wins + self.losses

    @property
    def total(self) -> int:
        return self.decisive + self.ties


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """The share of successes and its score interval. Without trials: NaN, from 0 to 1.

    >>> interval = wilson(60, 100)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.502, 0.691)
    """
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    share = successes / trials
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    shrink = 1 + z**2 / trials
    center = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return Interval(share, max(0.0, center - half), min(1.0, center + half))


def is_decided(wins: float, losses: float, *, alpha: float = 1 - CONFIDENCE) -> bool:
    """Whether one side is preferred, at an error probability of `alpha` over any number of looks."""
    return _log_bayes_factor(wins, losses) >= -math.log(alpha)


def outcomes_needed(tally: Tally, *, alpha: float = 1 - CONFIDENCE) -> int | None:
    """How many more questions until a decision, when it goes on as so far: same share of wins, same share of ties.

    Until 10 questions have a winner, a share of two thirds is assumed.

    Returns:
        0 when it is decided already, None when more than 10,000 would be needed.
    """
    if is_decided(tally.wins, tally.losses, alpha=alpha):
        return 0
    more = max(tally.wins, tally.losses)
    share = more / tally.decisive if tally.decisive >= _FEWEST_OUTCOMES else _PLANNED_SHARE
    with_winner = tally.decisive / tally.total if tally.total and tally.decisive else 1.0
    most = math.floor(MOST_NEEDED * with_winner)
    for further in range(1, most + 1):
        wins = more + share * further
        losses = tally.decisive - more + (1 - share) * further
        if is_decided(wins, losses, alpha=alpha):
            return math.ceil(further / with_winner)
    return None


def outcomes_to_undecide(tally: Tally, *, alpha: float = 1 - CONFIDENCE) -> int:
    """How many questions won by the winner would have to be left out until nothing is decided; 0 when nothing is."""
    more, fewer = max(tally.wins, tally.losses), min(tally.wins, tally.losses)
    dropped = 0
    while is_decided(more - dropped, fewer, alpha=alpha):
        dropped += 1
    return dropped


def bradley_terry(wins: Sequence[Sequence[float]] | Floats, confidence: float = CONFIDENCE) -> list[Interval] | None:
    """Log-strengths with mean 0: a beats b with probability 1 / (1 + exp(b - a)).

    Args:
        wins: [i][j] = how often i beat j; a tie counts half a win for each. Shape (models, models).

    Returns:
        An interval for each model; None when there is no finite answer: somebody (or a group) never lost or never won
        against the rest (Ford 1957).
    """
    won = np.array(wins, dtype=np.float64)
    np.fill_diagonal(won, 0.0)
    if not _all_connected(won):
        return None
    played = won + won.T
    total = won.sum(axis=1)
    strength = np.ones(len(won))
    for _ in range(_MM_STEPS):
        updated = total / (played / (strength[:, None] + strength[None, :])).sum(axis=1)
        updated /= np.exp(np.log(updated).mean())
        change = float(np.abs(np.log(updated / strength)).max())
        strength = updated
        if change < _MM_TOLERANCE:
            break
    log_strength = np.log(strength)
    probability = strength[:, None] / (strength[:, None] + strength[None, :])
    weight = played * probability * (1 - probability)
    information = np.diag(weight.sum(axis=1)) - weight  # its null space is the direction that the mean of 0 fixes
    deviation = np.sqrt(np.diag(np.linalg.pinv(information)))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return [
        Interval(float(value), float(value - z * one), float(value + z * one))
        for value, one in zip(log_strength, deviation, strict=True)
    ]


def _log_bayes_factor(wins: float, losses: float) -> float:
    """log of Beta(wins + 1, losses + 1) / 0.5^(wins + losses)."""
    trials = wins + losses
    log_beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(trials + 2)
    return log_beta + trials * math.log(2)


def _all_connected(won: Floats) -> bool:
    """Whether everybody has beaten everybody else, directly or over others."""
    reached = (won > 0) | np.eye(len(won), dtype=bool)
    for middle in range(len(won)):
        reached |= reached[:, middle, None] & reached[middle]
    return bool(reached.all())
