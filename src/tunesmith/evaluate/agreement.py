"""Whether raters agree, beyond what chance alone would make. Knows labels, not what they are about.

cohen_kappa          two raters (Cohen 1960, doi:10.1177/001316446002000104)
krippendorff_alpha   any number of raters and missing ratings (Krippendorff 2004, Content Analysis, chapter 11;
                     computed as in Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability")

Both are 1 for perfect agreement and 0 for that of chance; NaN when there is nothing to compare, or one label only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import permutations


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float:
    """Agreement of two raters.

    Args:
        pairs: for each thing that both rated, the label of the first and of the second.
    """
    if not pairs:
        return math.nan
    observed = sum(first == second for first, second in pairs) / len(pairs)
    firsts, seconds = Counter(first for first, _ in pairs), Counter(second for _, second in pairs)
    expected = sum(firsts[label] * seconds[label] for label in firsts) / len(pairs) ** 2
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan


def krippendorff_alpha(units: Sequence[Sequence[Hashable]], *, order: Sequence[Hashable] | None = None) -> float:
    """Agreement of any number of raters.

    Args:
        units: for each thing, the labels it was given, in any order; those with fewer than two labels say nothing.
        order: all labels from lowest to highest, when they have an order (ordinal data); None: they have none.
    """
    coincidences: Counter[tuple[Hashable, Hashable]] = Counter()
    for labels in units:
        for pair in permutations(labels, 2):
            coincidences[pair] += 1 / (len(labels) - 1)  # type: ignore[assignment]  # counts of pairs are fractions
    margins: Counter[Hashable] = Counter()
    for (label, _), count in coincidences.items():
        margins[label] += count
    total = sum(margins.values())

    def distance(first: Hashable, second: Hashable) -> float:
        if order is None or first == second:
            return float(first != second)
        low, high = sorted((order.index(first), order.index(second)))
        return (sum(margins[label] for label in order[low : high + 1]) - (margins[first] + margins[second]) / 2) ** 2

    observed = sum(count * distance(*pair) for pair, count in coincidences.items())
    expected = sum(
        margins[first] * margins[second] * distance(first, second) for first in margins for second in margins
    )
    return 1 - (total - 1) * observed / expected if expected else math.nan
