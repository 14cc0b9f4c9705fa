"""The schedules for loops of one's own: the guide's calls, and inside a real MLX optimizer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import AdvancedLRScheduler, create_mlx_compatible_scheduler
from tunesmith.config import load_config
from tunesmith.errors import ResourceError, SettingsError

PHASES = [
    {"name": "up", "until": 0.5, "from": 1e-3, "to": 2e-3, "warmup": 0.4},
    {"name": "down", "until": 1.0, "shape": "exponential", "from": 2e-3, "to": 2e-5},
]
OWN = {"iters": 10, "train.schedule": "phases", "train.phases": PHASES}


def test_the_guide_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "your_config.json"
    path.write_text(json.dumps({"model": "Qwen/Qwen2.5-7B-Instruct", "iters": 2000, "lora_rank": 96}))
    scheduler = AdvancedLRScheduler(json.loads(path.read_text()))
    assert 2e-4 < scheduler.get_learning_rate(step=500) < 5e-4
    assert scheduler.get_phase_info()["phase_name"] == "exploration"
    names = []
    for step in range(0, 2000, 100):
        scheduler.get_learning_rate(step)
        names.append(scheduler.get_phase_info()["phase_name"])
    assert list(dict.fromkeys(names)) == ["exploration", "exploitation", "refinement"]
    assert AdvancedLRScheduler(path).get_learning_rate(700) == scheduler.get_learning_rate(700)


def test_phase_info_of_any_step() -> None:
    scheduler = AdvancedLRScheduler(OWN)
    assert scheduler.get_phase_info() == {
        **{"phase_name": "up", "phase_index": 0, "start_step": 0, "end_step": 5, "progress": 0.0},
        **{"step": 0, "total_steps": 10, "learning_rate": 5e-4},
    }
    info = scheduler.get_phase_info(6)
    assert (info["phase_name"], info["phase_index"], info["progress"]) == ("down", 1, 0.2)
    assert scheduler.get_phase_info(99)["progress"] == 1.0
    assert scheduler.get_learning_rate(99) == 2e-5


def test_any_schedule_and_any_kind_of_settings() -> None:
    overrides = {"train.schedule": "linear", "max_steps": 4, "learning_rate": 1.0, "warmup_ratio": 0}
    for config in (overrides, load_config(overrides=overrides)):
        scheduler = AdvancedLRScheduler(config)
        assert [scheduler.get_learning_rate(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
        assert scheduler.get_phase_info(2)["phase_name"] == "linear"


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"train.schedule": "cosine"}, ["give max_steps", "give learning_rate"]),
        ({}, ["give max_steps"]),
        ({"max_steps": 9, "learning_rate": 1e-4}, ["leave out train.learning_rate"]),
        ({"max_stps": 9}, ["did you mean"]),
    ],
)
def test_what_is_missing_is_told_together(config: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        AdvancedLRScheduler(config)
    assert all(part in str(refused.value) for part in parts)
    assert len(refused.value.problems) == len(parts)


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(SettingsError, match="there is no step -1"):
        AdvancedLRScheduler(OWN).get_learning_rate(-1)


def test_both_are_exported_lazily() -> None:
    assert {"AdvancedLRScheduler", "create_mlx_compatible_scheduler"} <= set(tunesmith.__all__)


def test_without_mlx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(ResourceError, match=r"tunesmith\[mlx\]"):
        create_mlx_compatible_scheduler(OWN)


@pytest.mark.parametrize("compiled", [False, True])
def test_inside_a_real_mlx_optimizer(compiled: bool) -> None:
    """Plain gradient descent with gradient 1 moves a weight by exactly the rate of each step."""
    mx: Any = pytest.importorskip("mlx.core")
    optimizers: Any = pytest.importorskip("mlx.optimizers")
    mx.set_default_device(mx.cpu)
    expected = AdvancedLRScheduler(OWN)
    optimizer = optimizers.SGD(learning_rate=create_mlx_compatible_scheduler(OWN))
    weights = {"w": mx.array(0.0)}
    optimizer.init(weights)

    def step(weights: dict[str, Any]) -> dict[str, Any]:
        return dict(optimizer.apply_gradients({"w": mx.array(1.0)}, weights))

    run = mx.compile(step, inputs=optimizer.state, outputs=optimizer.state) if compiled else step
    for number in range(13):  # three more than the schedule has
        before = weights["w"].item()
        weights = run(weights)
        mx.eval(weights, optimizer.state)
        rate = expected.get_learning_rate(number)
        assert optimizer.learning_rate.item() == pytest.approx(rate, rel=1e-6)
        assert before - weights["w"].item() == pytest.approx(rate, abs=1e-8)
