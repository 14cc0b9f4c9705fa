"""Phases of the learning rate: what is refused, all together, and what comes back from a stored run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import describe, dump_config, load_config
from tunesmith.errors import SettingsError

TWO = [
    {"name": "explore", "until": 0.4, "from": 5e-4, "to": 2e-4, "warmup": 0.1},
    {"name": "refine", "until": 1.0, "shape": "exponential", "from": 2e-4, "to": 1e-6},
]


def refused(phases: object, **settings: object) -> str:
    overrides = {"train.schedule": "phases", "train.phases": phases, **settings}
    with pytest.raises(SettingsError) as caught:
        load_config(overrides=overrides)
    assert caught.value.exit_code == 2
    return "\n".join(caught.value.problems)


def changed(index: int, **values: Any) -> list[dict[str, Any]]:
    return [{**phase, **(values if index == number else {})} for number, phase in enumerate(TWO)]


@pytest.mark.parametrize(
    ("phases", "part"),
    [
        (changed(1, until=0.3), "phase 2 (refine) ends at 0.3, and phase 1 (explore) before it at 0.4"),
        (changed(1, until=0.4), "each needs a later `until`"),
        (changed(1, until=0.9), "is the last and ends at 0.9: its `until` must be 1.0"),
        (changed(1, until=2000), "ends at 2000: `until` is a share of the run"),
        (changed(0, until=0), "ends at 0: `until` is a share of the run"),
        (changed(1, to=0), "is exponential, which never reaches 0: give `to` a rate above 0"),
        ([{**TWO[1], "from": 0}], "give `from` a rate above 0"),
        (changed(0, to=-1e-4), "has `to` -0.0001: a learning rate is from 0 to 1"),
        ([{**TWO[0], "until": 1.0, "from": 5}], "has `from` 5: a learning rate is from 0 to 1"),
        (changed(0, warmup=1), "warms up for 1"),
        (changed(0, shape="constant"), "is constant but goes from 0.0005 to 0.0002: leave out `to`"),
        (changed(0, to=None), "is linear and has no `to`"),
        (changed(1, name="explore"), "2 phases are called 'explore'"),
        ([], "schedule is phases and there are none"),
        (changed(1, shape="sine"), "item 2, shape = 'sine'"),
        (changed(1, until="end"), "item 2, until = 'end'"),
        (changed(1, til=1.0), "item 2, til = 1.0"),
        (changed(1, to=float("nan")), "item 2, to = nan"),
    ],
)
def test_refused_with_the_fix(phases: object, part: str) -> None:
    assert part in refused(phases)


def test_all_problems_are_told_together_also_those_of_other_settings() -> None:
    backwards = [{**TWO[0], "until": 0.9}, {**TWO[1], "until": 0.5, "to": 0}]
    text = refused(backwards, **{"train.epochs": -1, "train.learning_rate": 1e-3, "train.warmup_steps": 9})
    parts = (
        *("ends at 0.5, and phase 1", "must be 1.0", "never reaches 0", "train.epochs = -1"),
        *("leave out train.learning_rate, found 0.001", "leave out train.warmup_steps, found 9"),
    )
    for part in parts:
        assert part in text
    assert len(text.splitlines()) == len(parts)


def test_phases_beside_another_schedule_are_refused_and_can_be_taken_back() -> None:
    with pytest.raises(SettingsError, match=r"schedule is cosine: set train.schedule to phases"):
        load_config(overrides={"train.phases": TWO})
    config = load_config(recipe="three-phases", overrides={"train.schedule": "linear", "train.phases": "[]"})
    assert (config.train.schedule, config.train.phases) == ("linear", [])


def test_stored_phases_come_back_under_the_names_they_were_written_with(tmp_path: Path) -> None:
    config = load_config(overrides={"train.schedule": "phases", "train.phases": TWO})
    config = config.resolved("train.learning_rate", 5e-4, "the highest of train.phases")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert "from: 0.0005" in (tmp_path / "config.yaml").read_text()
    again = load_config(stored=tmp_path / "config.yaml")
    assert again.model_dump() == config.model_dump()
    assert [(phase.start, phase.end, phase.shape) for phase in again.train.phases] == [
        *((5e-4, 2e-4, "linear"), (2e-4, 1e-6, "exponential"))
    ]


def test_the_settings_page_names_the_keys_of_a_phase() -> None:
    setting = next(setting for setting in describe() if setting.name == "train.phases")
    assert setting.type == "list of {name, until, shape, from, to, warmup}"


def test_the_recipe_holds_the_rates_of_the_guide() -> None:
    config = load_config(recipe="three-phases")
    assert [(phase.name, phase.shape, phase.start, phase.end) for phase in config.train.phases] == [
        ("exploration", "linear", 5e-4, 2e-4),
        ("exploitation", "cosine", 2e-4, 5e-6),
        ("refinement", "exponential", 5e-6, 1e-6),
    ]
    assert config.train.phases[0].warmup > 0


def test_a_plateau_that_early_stopping_would_forestall_is_refused() -> None:
    with pytest.raises(SettingsError, match="early_stopping_patience is 5, raise it above 5 or set it to null"):
        load_config(overrides={"train.plateau_patience": 5})
    for stop in ("6", "null"):
        config = load_config(overrides={"train.plateau_patience": 5, "train.early_stopping_patience": stop})
        assert config.train.plateau_patience == 5
