"""A schedule drawn before training: the rates of the run itself, and what had to be assumed."""

from __future__ import annotations

import pytest

from tunesmith.api import schedule_curve
from tunesmith.config import load_config
from tunesmith.train import schedule_for


def test_the_curve_is_the_schedule_of_the_run() -> None:
    config = load_config(recipe="three-phases", overrides={"max_steps": 200})
    curve = schedule_curve(config)
    schedule = schedule_for(config, 200)
    assert curve.rates == [schedule(step) for step in range(200)]
    assert [span.name for span in curve.spans] == ["exploration", "exploitation", "refinement"]
    assert (curve.is_share, curve.is_assumed) == (False, False)


def test_json_gives_every_point_once_with_its_phase() -> None:
    document = schedule_curve(load_config(recipe="three-phases", overrides={"max_steps": 10})).to_json()
    points = document["points"]
    assert isinstance(points, list)
    assert [point["step"] for point in points] == list(range(10))
    assert [point["phase"] for point in points] == ["exploration"] * 3 + ["exploitation"] * 4 + ["refinement"] * 3
    assert points[3]["learning_rate"] == pytest.approx(2e-4)
    assert document["unit"] == "learning rate"


def test_what_model_and_data_decide_is_assumed_and_said() -> None:
    curve = schedule_curve(load_config(overrides={"train.schedule": "linear", "warmup_ratio": 0}))
    assert (curve.is_share, curve.is_assumed, len(curve.rates)) == (True, True, 1000)
    assert (curve.rates[0], curve.rates[500]) == (1.0, 0.5)
    assert curve.to_json()["unit"] == "share of the peak"
    known = schedule_curve(load_config(overrides={"learning_rate": 1e-3, "max_steps": 5, "warmup_ratio": 0}))
    assert (known.is_share, known.is_assumed, known.rates[0]) == (False, False, 1e-3)
