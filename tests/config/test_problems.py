"""Settings made and changed in Python: what is wrong is told as from a file, under the name of the section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.config import DataConfig, MethodConfig, PretrainConfig, RunConfig, SplitConfig, describe, load_config
from tunesmith.errors import SettingsError


def problems(make: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        make()
    assert isinstance(caught.value.__cause__, ValidationError)
    assert caught.value.fix == "tunesmith settings lists them all"
    return caught.value.problems


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RunConfig(sed=1), "RunConfig: unknown setting 'sed', did you mean 'seed'?"),
        (lambda: RunConfig(seed=-1), "RunConfig: seed = -1: Input should be greater than or equal to 0 (allowed: "
         "integer, >= 0, < 4294967296)"),
        (lambda: RunConfig(data={"max_lenght": 9}), "DataConfig: unknown setting 'max_lenght', did you mean "
         "'max_length'?"),
        (lambda: DataConfig(max_rows="x"), "DataConfig: max_rows = 'x': Input should be a valid integer, unable to "
         "parse string as an integer (allowed: integer | null, >= 1)"),
        (lambda: MethodConfig(name="lorra"), "MethodConfig: name = 'lorra': there is no such choice, did you mean "
         "'lora'? (allowed: auto | full | lora | qlora | rslora | dora | pissa | ia3 | prompt | prefix | ptuning)"),
        (lambda: SplitConfig(train=0.5, validation=0.6), "SplitConfig: settings: train + validation + test must be 1, "
         "found 1.2"),
        (lambda: PretrainConfig(heads=3), "PretrainConfig: settings: hidden_size 512 must be a multiple of heads 3, "
         "and heads of kv_heads 2"),
    ],
)  # fmt: skip
def test_what_is_made_in_python_is_refused_in_our_words(make: Callable[[], object], told: str) -> None:
    assert problems(make) == (told,)


@pytest.mark.parametrize(
    ("section", "name", "value", "told"),
    [
        ("data", "max_length", "x", "DataConfig: max_length = 'x': Input should be a valid integer"),
        ("data", "max_lenght", 9, "DataConfig: unknown setting 'max_lenght', did you mean 'max_length'?"),
        ("train", "curriculum_column", "Level", "TrainConfig: curriculum_column = 'Level': train.order is random"),
        ("train", "sharding", "ful", "TrainConfig: sharding = 'ful': there is no such choice, did you mean 'full'?"),
        ("data", "temperature", 2, "DataConfig: settings: data.temperature = 2 mixes several data sets"),
        ("data", "sets", [{"path": "a", "taks": "b"}], "DataConfig: sets, item 1, taks = 'b': Extra inputs"),
    ],
)
def test_what_is_assigned_in_python_is_refused_in_our_words(section: str, name: str, value: Any, told: str) -> None:
    config = RunConfig()
    (problem,) = problems(lambda: setattr(getattr(config, section), name, value))
    assert problem.startswith(told)


def test_several_problems_are_told_together() -> None:
    assert len(problems(lambda: DataConfig(max_rows=-1, max_lenght=9))) == 2
    with pytest.raises(SettingsError) as caught:
        load_config(overrides={"data.max_rows": "-1", "train.epochs": "-1", "sed": 1})
    assert len(caught.value.problems) == 3


@given(
    st.sampled_from(describe()),
    st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none(), st.lists(st.text())),
)
def test_whatever_is_assigned_pydantic_is_not_heard(setting: Any, value: object) -> None:
    config: Any = RunConfig()
    *path, leaf = setting.name.split(".")
    nested: Mapping[str, Any] = {leaf: value}
    for part in path:
        config = getattr(config, part)
    for part in reversed(path):
        nested = {part: nested}
    for make in (lambda: setattr(config, leaf, value), lambda: RunConfig(**nested)):
        with suppress(SettingsError):
            make()
