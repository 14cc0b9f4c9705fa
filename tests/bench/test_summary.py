"""What results.json says is what was measured: medians, paired ratios, deviations, work."""

from __future__ import annotations

import pytest

from bench.summary import Measurement, largest_deviation, steady_rate, summarize, useful_flops

from .conftest import FACTS, training


def size(measurements: list[Measurement]) -> dict:
    return summarize(measurements, warmup=1, command="x", date="2026-01-01")["sizes"]["llama-135m"]


def test_warm_up_is_not_timed() -> None:
    assert steady_rate(training(2.0), 1) == 500
    assert steady_rate(training(2.0), 0) == 125


def test_rates_are_medians_over_rounds(measurements: list[Measurement]) -> None:
    ours = size(measurements)["contenders"]["ours"]
    assert ours["rounds"] == [1000, 500]
    assert ours["tokens_per_second"] == 750
    assert ours["rows_per_second"] == 3
    assert ours["peak_bytes"] == 2 * 2**30


def test_ratios_are_taken_within_a_round(measurements: list[Measurement]) -> None:
    """A machine that is half as fast for a round changes no ratio."""
    ratio = size(measurements)["ratios"]["ours"]["trl-default"]
    assert ratio["speed_rounds"] == pytest.approx([10, 10])
    assert ratio["memory"] == pytest.approx(0.4)


def test_goals_are_held_against_the_fastest_of_trl(measurements: list[Measurement]) -> None:
    found = size(measurements)
    assert found["best_trl"] == "trl-best"
    reached = {goal["goal"]: (round(goal["reached"], 6), goal["met"]) for goal in found["goals"]}
    assert reached == {
        "speed against TRL's defaults, at least": (10, True),
        "speed against TRL's best, at least": (3, False),
        "peak memory against TRL's best, at most": (0.5, True),
    }


def test_disagreement_is_seen(measurements: list[Measurement]) -> None:
    deviations = size(measurements)["agreement"]["deviations"]
    assert deviations["trl-best"]["largest"] == pytest.approx(0.025)
    assert deviations["trl-best"]["at_step"] == 2
    assert not deviations["trl-best"]["agrees"]
    assert deviations["script"]["last"] == pytest.approx(0.005)
    assert deviations["script"]["agrees"]


def test_curves_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        largest_deviation([1.0], [1.0, 2.0])


def test_a_failed_contender_is_named_and_left_out(measurements: list[Measurement]) -> None:
    index = next(
        index
        for index, (job, _) in enumerate(measurements)
        if (job.kind, job.contender, job.round) == ("speed", "trl-best", 1)
    )
    measurements[index] = (measurements[index][0], {"error": "out of memory"})
    found = size(measurements)
    assert found["failed"] == {"trl-best, speed": "out of memory"}
    assert "trl-best" not in found["contenders"]
    assert found["best_trl"] == "trl-default"


def test_the_work_of_a_run() -> None:
    """By hand: 4 * 1e8 * 3000 + 6 * 5e6 * 3000 + 4 * 2.8e7 * 1500 + 6 * 30 * 576 * 9e5."""
    assert useful_flops(FACTS, training(1.0)) == 1.2e12 + 9e10 + 1.68e11 + 93_312_000_000


def test_the_share_of_the_ceiling(measurements: list[Measurement]) -> None:
    ours = size(measurements)["contenders"]["ours"]
    per_token = useful_flops(FACTS, training(1.0)) / 3000
    assert ours["ceiling_share"] == pytest.approx(750 * per_token / 2e12)
