"""How several groups of rows (data sets, replayed rows) share an epoch: how many rows of each, and in which order.

Pure arithmetic on sizes and indices. Knows nothing of files, tokens or what the groups are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def mixing_shares(sizes: Sequence[int], *, weights: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """Share of the rows that each group gets, proportional to weight x size^(1/temperature). They sum to 1.

    At temperature 1 with equal weights every row is seen as often as any other; the higher it is, the more alike the
    groups' shares. Source: Raffel et al. 2020 (T5, arXiv:1910.10683), section 3.5.2, temperature-scaled mixing; the
    exponent of multilingual BERT (0.7) is 1/temperature.

    >>> mixing_shares([900, 100], weights=[1, 1], temperature=2)
    (0.75, 0.25)
    """
    sized = [weight * size ** (1 / temperature) for size, weight in zip(sizes, weights, strict=True)]
    total = math.fsum(sized)
    return tuple(value / total for value in sized)


def apportion(shares: Sequence[float], total: int) -> list[int]:
    """`total` in whole parts, one for each share, by largest remainders.

    From as many units as shares on, each part is at least 1: nobody starves.

    >>> apportion([0.6, 0.39, 0.01], 10)
    [6, 3, 1]
    """
    least = 1 if total >= len(shares) else 0
    # a share of 300 rows in 400 is not to become 299 because its product is 299.99999999999997
    wanted = [share * total for share in shares]
    counts = [max(least, math.floor(want + 1e-9)) for want in wanted]
    while sum(counts) > total:
        richest = max(
            (index for index, count in enumerate(counts) if count > least),
            key=lambda index: (counts[index] - wanted[index], counts[index]),
        )
        counts[richest] -= 1
    while sum(counts) < total:
        poorest = max(range(len(counts)), key=lambda index: wanted[index] - counts[index])
        counts[poorest] += 1
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Groups of rows that are mixed. None is empty.

    names: of the groups. members: indices of the rows of each. shares: of the rows seen that each group gets.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, tasks: Iterable[str], weights: dict[str, float], *, temperature: float) -> Mixture:
        """Rows grouped by their task, given for each row; groups come in the order of `weights`.

        Raises:
            KeyError: a task has no weight.
        """
        members: dict[str, list[int]] = {name: [] for name in weights}
        for index, task in enumerate(tasks):
            members[task].append(index)
        sizes = [len(rows) for rows in members.values()]
        shares = mixing_shares(sizes, weights=list(weights.values()), temperature=temperature)
        return cls(tuple(members), tuple(map(tuple, members.values())), shares)

    def groups_of(self, rows: int, draw: np.random.Generator) -> NDArray[np.int64]:
        """(rows,) the group of each row of an epoch, evenly spread: every stretch holds all groups by their shares.

        The stretch of an epoch that a group's rows lie in is cut into as many equal parts as it has rows, and one row
        is put at a random place in each.
        """
        counts = apportion(self.shares, rows)
        places = np.concatenate([(np.arange(count) + draw.random(count)) / count for count in counts if count])
        groups = np.repeat(np.arange(len(counts)), counts)
        return groups[np.argsort(places, kind="stable")]


def passes(size: int, first: int, count: int, *, seed: Sequence[int]) -> NDArray[np.int64]:
    """(count,) numbers `first`, `first` + 1, ... of an endless stream of passes over range(size), each shuffled anew.

    A pure function: the stream of a seed can be taken up anywhere, and no row comes again before all others have.
    """
    numbers = np.arange(first, first + count)
    orders = {
        number: np.random.default_rng([*seed, number]).permutation(size)
        for number in range(first // size, (first + count - 1) // size + 1)
    }
    parts = [orders[number][numbers[numbers // size == number] % size] for number in orders]
    return np.concatenate([*parts, numbers[:0]])
