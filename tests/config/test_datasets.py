"""Several data sets and a curriculum as settings: what is accepted, and everything wrong told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import DataSet, dump_config, load_config, task_names
from tunesmith.errors import SettingsError


def problems(**settings: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        load_config(overrides={name.replace("__", "."): value for name, value in settings.items()})
    return "\n".join(refused.value.problems)


@pytest.mark.parametrize("name", ["data", "datasets", "train_file", "data.sets"])
def test_a_list_of_paths_is_a_list_of_data_sets(name: str) -> None:
    config = load_config(overrides={name: ["a.csv", {"path": "b.csv", "weight": 2}]})
    assert config.data.sets == [DataSet(path="a.csv"), DataSet(path="b.csv", weight=2)]
    assert config.data.weights == {"a": 1, "b": 2}
    assert config.data.files == ["a.csv", "b.csv"]


def test_a_yaml_file_lists_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data:\n  temperature: 2\n  sets:\n  - a.csv\n  - {path: b.tsv, task: maths, columns: {answer: z}}\n"
    )
    config = load_config(file=path)
    assert config.data.weights == {"a": 1, "maths": 1}
    first, second = config.data.each()
    assert (first.path, first.columns, first.sets) == ("a.csv", {}, [])
    assert (second.path, second.columns, second.temperature) == ("b.tsv", {"answer": "z"}, 1.0)
    stored = tmp_path / "config.yaml"
    stored.write_text(dump_config(config))
    assert load_config(stored=stored).data == config.data


def test_tasks_are_named_after_their_files() -> None:
    sets = [
        DataSet(path="x/faq.csv"),
        DataSet(path="y/faq.xlsx"),
        DataSet(path="?.csv"),
        DataSet(path="c", task="faq-2"),
    ]
    assert task_names(sets) == ["faq", "faq-3", "data", "faq-2"]


def test_all_problems_of_a_list_are_told_together() -> None:
    text = problems(
        data__path="c.csv",
        data__sets=[
            {"path": "a.csv", "task": "x", "weight": 0},
            {"path": "a.csv", "task": "x", "delimiter": ";;"},
            {"path": "b.csv", "task": "a/b", "weight": -1},
        ],
    )
    for part in (
        "data set 1 (a.csv) has weight 0",
        "data set 3 (b.csv) has weight -1",
        "data set 2 (a.csv) has the delimiter ';;'",
        "have the same task 'x'",
        "have the same path 'a.csv'",
        "has the task 'a/b'",
        "data.path is c.csv",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.temperature": 0}, "greater than 0"),
        ({"data.temperature": 2, "data.path": "a.csv"}, "list them in data.sets"),
        ({"data.sets": ["a.csv", "b.csv"], "data.test_path": "t.csv"}, "write it in the entry of data.sets"),
        ({"data.sets": [{"path": "a.csv", "wight": 2}]}, "item 1, wight"),
        ({"train.curriculum_by": "loss"}, "train.order is random"),
        ({"train.order": "bucketed", "train.curriculum_start": 0.2}, "train.order is bucketed"),
        ({"train.order": "curriculum", "train.curriculum_pacing": "square"}, "(allowed: linear | root | steps"),
        ({"train.order": "curriculum", "train.curriculum_start": 0}, "greater than 0"),
        ({"train.order": "curriculum", "train.curriculum_until": 1.5}, "less than or equal to 1"),
        ({"train.order": "curriculum", "train.curriculum_by": "column"}, "name the column here"),
        ({"train.order": "curriculum", "train.curriculum_column": "level"}, "set it to column"),
        ({"train.order": "curriculum", "train.curriculum_by": "loss", "train.sharding": "full"}, "do not go together"),
    ],
)
def test_what_does_not_go(settings: dict[str, Any], message: str) -> None:
    assert message in problems(**settings)
