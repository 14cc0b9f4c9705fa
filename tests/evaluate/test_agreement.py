"""Agreement of raters against published examples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunesmith.evaluate import cohen_kappa, krippendorff_alpha

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, gaps
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
UNITS = [[label for label in unit if label is not None] for unit in zip(*OBSERVERS, strict=True)]


def test_alpha_is_the_published_one() -> None:
    assert krippendorff_alpha(UNITS) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(UNITS, order=[1, 2, 3, 4, 5]) == pytest.approx(0.815, abs=5e-4)


def test_alpha_against_the_package() -> None:
    package = pytest.importorskip("krippendorff")
    generator = np.random.default_rng(0)
    for _ in range(20):
        data = generator.integers(1, 6, size=(3, 15)).astype(float)
        data[generator.random(data.shape) < 0.3] = math.nan
        units = [[int(label) for label in unit if not math.isnan(label)] for unit in data.T]
        for level, order in (("nominal", None), ("ordinal", [1, 2, 3, 4, 5])):
            theirs = package.alpha(reliability_data=data, level_of_measurement=level, value_domain=[1, 2, 3, 4, 5])
            assert krippendorff_alpha(units, order=order) == pytest.approx(theirs, abs=1e-12)


def test_kappa_is_the_published_one() -> None:
    """Cohen 1960, table 1, its proportions of 200 cases: .29 observed, .35 expected."""
    table = [[50, 26, 24], [24, 4, 32], [6, 30, 4]]
    pairs = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    assert cohen_kappa(pairs) == pytest.approx((0.29 - 0.35) / (1 - 0.35), abs=1e-12)


def test_kappa_of_a_two_by_two_table() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)


def test_the_ends_of_the_scale() -> None:
    assert cohen_kappa([("a", "a"), ("b", "b")]) == 1
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"]]) == 1
    assert math.isnan(cohen_kappa([]))
    assert math.isnan(cohen_kappa([("a", "a"), ("a", "a")]))
    assert math.isnan(krippendorff_alpha([["a"], ["b"], []]))
    assert math.isnan(krippendorff_alpha([["a", "a"], ["a", "a"]]))
