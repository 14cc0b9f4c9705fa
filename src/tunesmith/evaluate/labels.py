"""Scores of chosen labels against the right ones. Knows nothing of models or files.

Definitions are those of scikit-learn's classification_report and confusion_matrix with their defaults: the classes are
the labels that occur among the right or the chosen ones, and a score whose denominator is 0 is 0.

accuracy            share of rows whose label is right
macro_f1            mean of the classes' F1, each class counting the same however many rows it has
log_loss            mean of -ln(probability of the right label), in nats; 0 is best
calibration_error   how far stated probabilities are from the share that is right (Naeini et al. 2015, 10 equal bins)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tunesmith.errors import DataError

_BINS = 10


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Of one label: precision, recall and f1 from 0 to 1; support is the number of rows it is right for."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class LabelReport:
    """labels: in alphabetical order; confusion[i][j]: rows of label i for which label j was chosen."""

    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @cached_property
    def classes(self) -> dict[str, ClassScores]:
        """The scores of each label."""
        chosen = [sum(column) for column in zip(*self.confusion, strict=True)]
        found = {}
        for index, label in enumerate(self.labels):
            right, support = self.confusion[index][index], sum(self.confusion[index])
            found[label] = ClassScores(
                precision=_ratio(right, chosen[index]),
                recall=_ratio(right, support),
                f1=_ratio(2 * right, chosen[index] + support),
                support=support,
            )
        return found

    @property
    def accuracy(self) -> float:
        right = sum(self.confusion[index][index] for index in range(len(self.labels)))
        return right / sum(map(sum, self.confusion))

    @property
    def macro_f1(self) -> float:
        return math.fsum(scores.f1 for scores in self.classes.values()) / len(self.labels)

    def mistakes(self) -> list[tuple[str, str, int]]:
        """(right label, chosen label, rows), the most frequent first."""
        found = [
            (right, chosen, count)
            for right, row in zip(self.labels, self.confusion, strict=True)
            for chosen, count in zip(self.labels, row, strict=True)
            if count and right != chosen
        ]
        return sorted(found, key=lambda mistake: -mistake[2])


def report_labels(chosen: Sequence[str], right: Sequence[str]) -> LabelReport:
    """Count each pair of labels.

    Raises:
        DataError: there are none.
    """
    if not right:
        raise DataError("there are no labels to score", fix="give at least one row with a label")
    counts = Counter(zip(right, chosen, strict=True))
    labels = tuple(sorted({*right, *chosen}))
    return LabelReport(labels, tuple(tuple(counts[row, column] for column in labels) for row in labels))


def log_loss(probabilities: Sequence[float]) -> float:
    """Of the probabilities that the right labels were given; infinite where one is 0."""
    return math.fsum(-math.log(value) if value else math.inf for value in probabilities) / len(probabilities)


def calibration_error(probabilities: Sequence[float], is_right: Sequence[bool]) -> float:
    """Mean distance between the probability of the chosen label and the share that is right, over ten bins.

    Bin b holds probabilities in (b / 10, (b + 1) / 10]; each counts by its rows.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for probability, right in zip(probabilities, is_right, strict=True):
        bins.setdefault(max(0, math.ceil(probability * _BINS) - 1), []).append((probability, right))
    gaps = [abs(math.fsum(stated for stated, _ in rows) - sum(right for _, right in rows)) for rows in bins.values()]
    return math.fsum(gaps) / len(probabilities)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
