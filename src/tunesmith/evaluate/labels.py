"""Scores of chosen labels against the right ones. Knows nothing of models or files.

Definitions are those of scikit-learn's classification_report and confusion_matrix with their defaults: the classes are
the labels that occur among the right or the chosen ones, and a score whose denominator is 0 is 0.

accuracy            share of rows whose label is right
macro_f1            mean of the classes' F1, each class counting the same however many rows it has
micro_f1            F1 of all classes' counts together
log_loss            mean of -ln(probability of the right label), in nats; 0 is best
calibration_error   how far stated probabilities are from the share that is right (Naeini et al. 2015, 10 equal bins)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tunesmith.errors import DataError
from tunesmith.evaluate.paired import Floats, Sums, mean_of, ratio

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


def accuracy(chosen: Sequence[str], right: Sequence[str]) -> Sums:
    """Share of rows whose label is right."""
    return mean_of(np.array([given == wanted for given, wanted in zip(chosen, right, strict=True)], dtype=np.float64))


def micro_f1(chosen: Sequence[str], right: Sequence[str]) -> Sums:
    """F1 of the right, wrong and missed labels of all classes together: of one label a row, the accuracy."""
    hits = np.array([given == wanted for given, wanted in zip(chosen, right, strict=True)], dtype=np.float64)

    def score(totals: Floats) -> Floats:
        right, wrong, missed = totals.T
        found: Floats = 2 * right / (2 * right + wrong + missed)
        return found

    return Sums(np.stack([hits, 1 - hits, 1 - hits], axis=1), score)


def macro_f1(chosen: Sequence[str], right: Sequence[str], labels: Collection[str] = ()) -> Sums:
    """Of rows of which each counts, for each label, as right and chosen, as chosen, as right.

    labels: further ones, so that the sums of two models that chose different ones have the same columns.
    """
    place = {label: column for column, label in enumerate(sorted({*chosen, *right, *labels}))}
    counts = np.zeros((len(right), 3, len(place)))
    for row, (given, wanted) in enumerate(zip(chosen, right, strict=True)):
        counts[row, 0, place[wanted]] = given == wanted
        counts[row, 1, place[given]] = 1
        counts[row, 2, place[wanted]] = 1

    def score(totals: Floats) -> Floats:
        hits, given, wanted = totals.reshape(len(totals), 3, len(place)).swapaxes(0, 1)
        occurs = given + wanted > 0  # a label that no drawn row has is no class of the draw
        of_class: Floats = np.divide(2 * hits, given + wanted, out=np.zeros_like(hits), where=occurs)
        found: Floats = of_class.sum(axis=1) / occurs.sum(axis=1)
        return found

    return Sums(counts.reshape(len(right), -1), score)


def log_loss(log_probabilities: Sequence[float | None]) -> Sums:
    """Of ln(probability) that the right labels were given, None where there is none."""
    rows = [(0.0, 0.0) if value is None else (abs(value), 1.0) for value in log_probabilities]
    return Sums(np.array(rows), ratio)


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose chosen label was given a probability in (low, low + a tenth].

    probability: their mean. right: how many of them are right. rows: at least 1.
    """

    low: float
    probability: float
    right: int
    rows: int


def calibration_bins(probabilities: Sequence[float], is_right: Sequence[bool]) -> tuple[Bin, ...]:
    """The bins of `calibration_error` that hold a row, the lowest first."""
    of_bin: dict[int, list[tuple[float, bool]]] = {}
    for probability, right in zip(probabilities, is_right, strict=True):
        of_bin.setdefault(_bin(probability), []).append((probability, right))
    return tuple(
        Bin(
            low=place / _BINS,
            probability=math.fsum(probability for probability, _ in rows) / len(rows),
            right=sum(right for _, right in rows),
            rows=len(rows),
        )
        for place, rows in sorted(of_bin.items())
    )


def _bin(probability: float) -> int:
    return max(0, math.ceil(probability * _BINS) - 1)


def calibration_error(probabilities: Sequence[float], is_right: Sequence[bool]) -> Sums:
    """Mean distance between the probability of the chosen label and the share that is right, over ten bins.

    Bin b holds probabilities in (b / 10, (b + 1) / 10]; each counts by its rows. Few rows in a bin are never right
    exactly as often as stated, so that the error of a model without any is above 0.
    """
    rows = np.zeros((len(is_right), _BINS + 1))
    for row, (probability, right) in enumerate(zip(probabilities, is_right, strict=True)):
        rows[row, _bin(probability)] = probability - right
    rows[:, -1] = 1

    def score(totals: Floats) -> Floats:
        found: Floats = np.abs(totals[:, :-1]).sum(axis=1) / totals[:, -1]
        return found

    return Sums(rows, score, is_distance=True)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
