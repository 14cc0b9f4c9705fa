"""Rows of several forms in one file: each is the example that a file of its form alone would give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.config import RunConfig
from tunesmith.data import Prepared, prepare, prepare_rows
from tunesmith.data.forms import by_form
from tunesmith.data.table import Table, columns_of
from tunesmith.types import Example, Record

Row = Mapping[str, Any]
MAKERS = {
    "messages": lambda n: {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": f"m{n}?"},
            {"role": "assistant", "content": f"am{n}"},
        ]
    },
    "conversations": lambda n: {
        "system": "Be kind.",
        "conversations": [{"from": "human", "value": f"c{n}?"}, {"from": "gpt", "value": f"ac{n}"}],
    },
    "prompt": lambda n: {"prompt": f"p{n}", "completion": f"ap{n}"},
    "alpaca": lambda n: {"instruction": f"i{n}", "input": f"in{n}" if n % 2 else "", "output": f"ai{n}"},
    "dolly": lambda n: {"instruction": f"d{n}", "context": f"in{n}", "response": f"ad{n}"},
    "question": lambda n: {"question": f"q{n}?", "context": f"cq{n}", "answer": f"aq{n}", "id": n},
}
PREFERENCE = {"prompt": "Which?", "chosen": "This.", "rejected": "That."}
LABELLED = {"text": "I like it", "label": "good"}


def written(path: Path, rows: Sequence[Row]) -> str:
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return str(path)


def prepared(path: str, **data: Any) -> Prepared:
    config = RunConfig()
    config.data.path = path
    for name, value in data.items():
        setattr(config.data, name, value)
    return prepare(config)


def examples(found: Prepared) -> list[Example]:
    return sorted((*found.train, *found.validation, *found.test), key=lambda example: example.row)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(MAKERS)), min_size=6, max_size=20), st.sampled_from([".json", ".jsonl"]))
def test_every_row_is_read_by_its_own_form(tmp_path: Path, names: list[str], suffix: str) -> None:
    rows = [MAKERS[name](number) for number, name in enumerate(names)]
    found = examples(prepared(written(tmp_path / f"all{suffix}", rows)))
    assert [example.row for example in found] == [*range(1, len(rows) + 1)]
    for name in set(names):
        places = [number for number, other in enumerate(names) if other == name]
        alone = prepared(written(tmp_path / f"one{suffix}", [rows[number] for number in places]))
        assert [replace(found[number], row=0) for number in places] == [
            replace(example, row=0) for example in examples(alone)
        ]


def test_the_forms_are_told_with_their_rows(tmp_path: Path) -> None:
    rows = [make(number) for make in MAKERS.values() for number in range(2)] + [MAKERS["question"](7)]
    report = prepared(written(tmp_path / "a.jsonl", rows)).report
    told = {finding.code: finding.message for finding in report.findings}
    assert told["several_forms"] == (
        "the rows have 6 forms, each read by its own columns: question/answer (3 rows), messages (2 rows), "
        "conversations (2 rows), prompt/completion (2 rows), instruction/output (2 rows), instruction/response (2 rows)"
    )
    assert told["columns_left_out"] == 'question/answer/context: not trained on: column "id"'
    assert "other_forms" not in told
    assert (report.rows_read, report.rows_kept) == (13, 13)
    assert 'prompt/completion: columns "prompt" and "completion" by name; 2 rows' in report.reason


def test_rows_of_data_frames_have_all_columns(tmp_path: Path) -> None:
    rows = [MAKERS[name](number) for number, name in enumerate(("messages", "prompt", "question") * 3)]
    names = columns_of(Record(1, row) for row in rows)
    filled = [{name: row.get(name) for name in names} for row in rows]
    found = examples(prepared(written(tmp_path / "a.json", filled)))
    assert [example.answer for example in found] == ["am0", "ap1", "aq2", "am3", "ap4", "aq5", "am6", "ap7", "aq8"]


def test_the_same_name_may_hold_both_kinds_of_turns(tmp_path: Path) -> None:
    rows = [{"messages": MAKERS["messages"](1)["messages"]}, {"messages": MAKERS["conversations"](2)["conversations"]}]
    found = examples(prepared(written(tmp_path / "a.jsonl", rows)))
    assert [example.answer for example in found] == ["am1", "ac2"]


@pytest.mark.parametrize("other", [PREFERENCE, LABELLED, {"note": "nothing"}], ids=["preference", "label", "note"])
def test_rows_of_no_form_are_told(tmp_path: Path, other: Row) -> None:
    rows = [*(MAKERS["messages"](n) for n in range(4)), *(MAKERS["question"](n) for n in range(2)), other]
    report = prepared(written(tmp_path / "a.jsonl", rows)).report
    found = {finding.code: finding for finding in report.findings}
    assert found["other_forms"].rows == (7,)
    assert "messages (4 rows), question/answer (2 rows)" in found["several_forms"].message
    assert (report.rows_read, report.rows_kept) == (7, 6)


def table_of(rows: Sequence[Row], format_name: str = "jsonl") -> Table:
    records = tuple(Record(number, row) for number, row in enumerate(rows, start=1))
    return Table("a", format_name, records, columns_of(records))


@pytest.mark.parametrize(
    "rows",
    [
        [{"instruction": "Do", "input": "a", "output": "b"}] * 3 + [{"instruction": "", "input": "a", "output": "b"}],
        [{"question": "Q?", "answer": "a", "solution": "s"}] * 3 + [{"question": "Q?", "answer": "", "solution": "s"}],
        [{"question": "Q?", "answer": "a"}] * 2 + [{"question": "Q?"}, {"answer": "a"}],
        [{"prompt": "p", "messages": [{"role": "user", "content": "Hi"}]}] * 2,
        [PREFERENCE] * 3 + [MAKERS["question"](1), MAKERS["prompt"](2)],
        [LABELLED] * 3,
        [{f"question {n}": f"Q{n}?", f"answer {n}": "a"} for n in range(30)],
        [],
    ],
    ids=["gap", "second answer", "parts missing", "prompt beside", "mostly preferences", "labels", "numbered", "none"],
)
def test_a_table_of_one_form_stays(rows: list[Row]) -> None:
    table = table_of(rows)
    assert [form.table for form in by_form(table)] == [table]


def test_a_sheet_stays() -> None:
    table = table_of([MAKERS["prompt"](1), MAKERS["question"](2)], "csv")
    assert by_form(table)[0].table is table


def test_a_shape_or_columns_of_the_user_hold_for_all_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [MAKERS[name](n) for n, name in enumerate(("question", "prompt") * 3)])
    for data in ({"shape": "qa"}, {"columns": {"question": "question", "answer": "answer"}}):
        report = prepared(path, **data).report
        assert report.rows_kept == 3
        assert {finding.code for finding in report.findings} >= {"other_forms"}


@pytest.mark.parametrize("main", [("messages", "prompt"), ("question",), ("prompt", "alpaca", "question")])
@pytest.mark.parametrize("held", [("question", "messages", "alpaca"), ("prompt",), ("alpaca",)])
def test_held_out_files_are_read_alike(tmp_path: Path, main: Sequence[str], held: Sequence[str]) -> None:
    path = written(tmp_path / "a.jsonl", [MAKERS[name](n) for n, name in enumerate(main * 4)])
    rows = [MAKERS[name](100 + n) for n, name in enumerate(held)]
    other = written(tmp_path / "b.jsonl", rows)
    alone = [replace(example, row=0) for row in rows
             for example in examples(prepared(written(tmp_path / "c.jsonl", [row])))]  # fmt: skip
    found = prepared(path, test_path=other)
    assert [replace(example, row=0) for example in found.test] == alone
    assert f"b.jsonl:{len(held) + 1}" not in str(found.report.dropped)
    shape, columns = found.report.shape, found.report.columns
    later = prepare_rows(RunConfig(), other, shape=shape, columns=columns)
    assert [replace(example, row=0) for example in later.test] == alone


def test_a_column_of_difficulties_is_that_of_all_rows(tmp_path: Path) -> None:
    rows = [{**MAKERS[name](n), "level": n} for n, name in enumerate(("question", "prompt") * 4)]
    order = {"order": "curriculum", "curriculum_by": "column", "curriculum_column": "level"}
    config = RunConfig.model_validate({"train": order, "data": {"path": written(tmp_path / "a.jsonl", rows)}})
    assert [example.difficulty for example in examples(prepare(config))] == [*map(float, range(8))]
