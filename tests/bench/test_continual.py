"""The table of continual learning is that of its results, with the right intervals."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench import continual, continual_report


def run(seed: int, arm: str, *, old_after: float, new_after: float, strength: float = 0.0) -> dict[str, Any]:
    def scores(loss: float, exact: float) -> dict[str, float]:
        return {"perplexity": math.exp(loss), "exact_match": exact}

    return {
        **{"seed": seed, "arm": arm, "settings": {"ewc_lambda": strength}, "steps": 20, "tokens": 1, "seconds": 10},
        **{"train_rows": 150, "kept_rows": 225},
        "old": {"rows": 60, "before": scores(0.5, 0.75), "after": scores(old_after, 0.25)},
        "new": {"rows": 40, "before": scores(9.0, 0.0), "after": scores(new_after, 0.5)},
    }


def content() -> dict[str, Any]:
    runs = [run(seed, "none", old_after=3 + seed, new_after=1.0) for seed in (1, 2, 3)]
    runs += [run(seed, "replay", old_after=1 + seed, new_after=1.5) for seed in (1, 2, 3)]
    tuning = [
        run(0, f"EWC-{size}", old_after=old, new_after=new, strength=size)
        for size, old, new in ((10, 4, 1), (99, 1, 2))
    ]
    versions = {"torch": "2", "transformers": "5"}
    facts = {"command": "x", "date": "2026-01-01", "threads": 1, "versions": versions, "strength": 99.0}
    return {**facts, "tuning": tuning, "runs": runs}


def test_means_and_intervals_are_those_of_students_t() -> None:
    """scipy.stats.t.interval(0.95, 2, loc=3, scale=1/sqrt(3)) is 3 -/+ 2.484."""
    middle, half = continual_report.interval([2.0, 3.0, 4.0])
    assert (middle, half) == (pytest.approx(3), pytest.approx(2.4841, abs=1e-3))
    with pytest.raises(ValueError, match="2 to 10 seeds"):
        continual_report.interval([1.0])


def test_arms_are_compared_within_a_seed() -> None:
    """Seeds differ by 1 and the arms by 2 in each: the difference has no spread."""
    text = continual_report.tables(content())
    assert "| none | 0.50 ± 0.00 | 5.00 ± 2.48 | 4.50 ± 2.48 | 75 ± 0 | 25 ± 0 | 1.00 ± 0.00 | 50 ± 0 | 10 |" in text
    assert "| replay | -2.00 ± 0.00 | +0 ± 0 | +0.50 ± 0.00 |" in text
    assert "| 99 | 0.50 | 1.00 | 2.00 | 25 | 50 |" in text


def test_the_strength_has_the_lowest_sum_of_losses() -> None:
    assert continual_report.chosen_strength(content()["tuning"]) == 99
    assert continual.arms(99)["both"] == {"replay_share": continual.SHARE, "ewc_lambda": 99}
    assert continual.TUNING_SEED not in (1, 2, 3)


def test_the_page_agrees_with_the_results() -> None:
    """Fails when bench/continual.json or the page was changed alone: python -m bench.continual_report."""
    assert continual_report.REPORT.is_up_to_date()
