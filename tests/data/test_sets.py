"""Several data sets: each divided by itself, kept apart from the others, and every row kept or named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import RunConfig, load_config
from tunesmith.data import Prepared, prepare, spread_over_tasks
from tunesmith.errors import DataError
from tunesmith.types import Example

Rows = Sequence[tuple[str, str]]


def csv_file(folder: Path, name: str, rows: Rows, header: str = "question,answer") -> str:
    path = folder / name
    path.write_text("\n".join([header, *map(",".join, rows)]) + "\n", encoding="utf-8")
    return str(path)


def numbered(what: str, count: int) -> Rows:
    return [(f"What is {what} {index}?", f"It is {what} {index}.") for index in range(count)]


def config_of(*sets: str | Mapping[str, Any], **changes: Any) -> RunConfig:
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(overrides={"data.sets": list(sets), **changed})


def rows_of(examples: Sequence[Example], task: str) -> list[int]:
    return [example.row for example in examples if example.task == task]


def everything(prepared: Prepared) -> list[Example]:
    return [*prepared.train, *prepared.validation, *prepared.test]


def test_each_set_is_divided_as_if_it_were_alone(tmp_path: Path) -> None:
    a, b = csv_file(tmp_path, "a.csv", numbered("A", 40)), csv_file(tmp_path, "b.csv", numbered("B", 10))
    prepared = prepare(config_of(a, {"path": b, "task": "second", "weight": 3}))
    for path, task in ((a, "a"), (b, "second")):
        alone = prepare(load_config(overrides={"data.path": path}))
        for side in ("train", "validation", "test"):
            assert rows_of(getattr(prepared, side), task) == [row.row for row in getattr(alone, side)]
            assert rows_of(getattr(prepared, side), task)  # each task is on each side
    assert prepared.report.split == {"train": 40, "validation": 5, "test": 5}
    assert prepared.report.rows_read == prepared.report.rows_kept == 50
    assert prepared.report.shares == {"a": pytest.approx(32 / 56), "second": pytest.approx(24 / 56)}


def test_a_list_of_one_is_that_file(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a.csv", numbered("A", 20))
    one, alone = prepare(config_of(path)), prepare(load_config(overrides={"data.path": path}))
    assert one == alone
    assert one.train[0].task is None


def test_sets_have_readers_and_columns_of_their_own(tmp_path: Path) -> None:
    german = tmp_path / "b.txt"
    german.write_text("x;y\n" + "\n".join(f"Frage {n};Antwort {n}" for n in range(10)) + "\n", encoding="cp1252")
    own = {"format": "csv", "delimiter": ";", "encoding": "cp1252", "columns": {"question": "x", "answer": "y"}}
    prepared = prepare(config_of(csv_file(tmp_path, "a.csv", numbered("A", 10)), {"path": str(german), **own}))
    texts = {example.question for example in everything(prepared) if example.task == "b"}
    assert texts == {f"Frage {n}" for n in range(10)}
    assert prepared.report.tasks["b"].columns == {"question": "x", "answer": "y"}


def test_what_one_set_is_measured_with_another_is_not_trained_on(tmp_path: Path) -> None:
    a = csv_file(tmp_path, "a.csv", numbered("A", 30))
    test = {row.question for row in prepare(load_config(overrides={"data.path": a})).test}
    shared = [(question.upper(), "Another answer.") for question, _ in numbered("A", 30)]
    b = csv_file(tmp_path, "b.csv", [*shared, *numbered("B", 60)])
    prepared = prepare(config_of(a, b))
    trained = {row.question.lower() for row in prepared.train}
    assert not trained & {row.question.lower() for row in (*prepared.test, *prepared.validation)}
    assert not {row.question.lower() for row in prepared.validation if row.task == "b"} & {q.lower() for q in test}
    report = prepared.report
    assert len(report.tasks["b"].dropped["question is in the test rows of a"]) >= 2
    assert len(report.tasks["a"].dropped["question is in the validation rows of b"]) >= 1
    assert report.rows_read == 120 == report.rows_kept + sum(map(len, report.dropped.values()))
    assert all(str(place).startswith(("a.csv:", "b.csv:")) for rows in report.dropped.values() for place in rows)
    assert len(everything(prepared)) == report.rows_kept == sum(file.rows_kept for file in report.files)
    assert sum(report.split.values()) == report.rows_kept


def test_rows_of_an_earlier_set_are_not_trained_on_twice(tmp_path: Path) -> None:
    rows = numbered("A", 30)
    a = csv_file(tmp_path, "a.csv", rows)
    kept = [row.row - 2 for row in prepare(load_config(overrides={"data.path": a})).train][:3]
    own = numbered("B", 300)  # so many that the shared rows are likely to be trained on
    b = csv_file(tmp_path, "b.csv", [*(rows[index] for index in kept), *own])
    dropped = prepare(config_of(a, b)).report.tasks["b"].dropped
    assert set(dropped["exact duplicate of a row of a"]) <= {2, 3, 4}
    assert len(dropped["exact duplicate of a row of a"]) >= 1
    both = prepare(config_of(a, b, data__drop_duplicates=False))
    assert "exact duplicate of a row of a" not in both.report.tasks["b"].dropped


def test_a_set_with_nothing_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    a = csv_file(tmp_path, "a.csv", numbered("A", 20))
    copy = csv_file(tmp_path, "copy.csv", numbered("A", 20))
    with pytest.raises(DataError, match=r"copy\.csv \(task copy\) has no row left to train on") as refused:
        prepare(config_of(a, copy))
    assert "exact duplicate of a row of a" in str(refused.value)
    empty = csv_file(tmp_path, "empty.csv", [])
    with pytest.raises(DataError, match=r"empty\.csv"):
        prepare(config_of(a, empty))


def test_held_out_files_belong_to_their_set(tmp_path: Path) -> None:
    a, b = csv_file(tmp_path, "a.csv", numbered("A", 20)), csv_file(tmp_path, "b.csv", numbered("B", 20))
    held = csv_file(tmp_path, "held.csv", [*numbered("C", 5), ("What is B 3?", "Measured.")])
    prepared = prepare(config_of({"path": a, "test_path": held}, b))
    assert len(rows_of(prepared.test, "a")) == 6
    assert "What is B 3?" not in {row.question for row in (*prepared.train, *prepared.validation)}
    report = prepared.report.tasks["a"]
    assert report.split["test"] == 6
    assert [file.side for file in prepared.report.files] == ["data", "test", "data"]


def test_the_hash_covers_every_file(tmp_path: Path) -> None:
    a, b = csv_file(tmp_path, "a.csv", numbered("A", 20)), csv_file(tmp_path, "b.csv", numbered("B", 20))
    before = prepare(config_of(a, b)).report.sha256
    assert prepare(config_of(b, a)).report.sha256 != before
    csv_file(tmp_path, "b.csv", numbered("B", 21))
    assert prepare(config_of(a, b)).report.sha256 != before


def test_the_report_shows_each_set(tmp_path: Path) -> None:
    a = csv_file(tmp_path, "a.csv", [*numbered("A", 20), ("What?", "")])
    b = csv_file(tmp_path, "b.csv", numbered("B", 10), header="prompt,completion")
    report = prepare(config_of(a, b)).report
    text = report.to_text()
    for part in ("task     a: 66.7% of the rows that training sees", "21 rows read, 20 kept", "prompt/completion"):
        assert part in text
    assert text.splitlines()[-1] == "all      2 data sets: 24 train, 3 validation, 3 test"
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["tasks"]["b"]["shape"] == "prompt"
    assert plain["shares"]["a"] == pytest.approx(2 / 3)


def test_a_column_of_difficulties(tmp_path: Path) -> None:
    rows = [(question, answer, ("3.5", "easy", " Hard")[index % 3]) for index, (question, answer) in
            enumerate(numbered("A", 12))]  # fmt: skip
    path = tmp_path / "a.csv"
    path.write_text("question,answer,level\n" + "\n".join(map(",".join, rows)) + "\n")
    column = {"train.order": "curriculum", "train.curriculum_by": "column", "train.curriculum_column": "level"}
    prepared = prepare(load_config(overrides={"data.path": str(path), **column}))
    found = {example.row: example.difficulty for example in everything(prepared)}
    assert [found[row] for row in (2, 3, 4)] == [3.5, 1.0, 3.0]
    with pytest.raises(DataError, match=r"no column 'levl' .*did you mean 'level'"):
        prepare(load_config(overrides={"data.path": str(path), **column, "train.curriculum_column": "levl"}))
    with path.open("a") as file:
        file.write("Who?,Me.,rather\nWhere?,Here.,\n")
    with pytest.raises(DataError, match=r"a\.csv: column 'level' holds no difficulty in rows 14, 15") as refused:
        prepare(load_config(overrides={"data.path": str(path), **column}))
    assert "'rather'" in str(refused.value)


def test_few_rows_to_measure_are_of_every_task(tmp_path: Path) -> None:
    a, b = csv_file(tmp_path, "a.csv", numbered("A", 300)), csv_file(tmp_path, "b.csv", numbered("B", 20))
    test = prepare(config_of(a, b)).test
    few = spread_over_tasks(test, 5)
    assert [example.task for example in few] == ["a"] * 4 + ["b"]
    assert few[:4] == test[:4]
    assert spread_over_tasks(test, None) == test
