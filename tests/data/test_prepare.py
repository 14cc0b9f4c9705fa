"""From a file to three sides and a report: every row is kept or named, held-out files stay apart, refusals say why."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tunesmith.config import RunConfig
from tunesmith.data import Prepared, prepare
from tunesmith.data.report import rows_text
from tunesmith.errors import DataError
from tunesmith.types import Example


def config_for(path: Path, **changes: Any) -> RunConfig:
    """Settings by dotted name, with __ for the dot."""
    config = RunConfig()
    config.data.path = str(path)
    for name, value in changes.items():
        section, leaf = name.split("__")
        setattr(getattr(config, section), leaf, str(value) if isinstance(value, Path) else value)
    return config


def csv_file(folder: Path, rows: list[tuple[str, str]], name: str = "faq.csv", header: str = "question,answer") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *(f"{first},{second}" for first, second in rows)]) + "\n", encoding="utf-8")
    return path


def numbered(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"What is number {index}?", f"It is {index}.") for index in range(start, start + count)]


def everything(prepared: Prepared) -> list[Example]:
    return [*prepared.train, *prepared.validation, *prepared.test]


MESSY = [
    ("What is  it?", "A press."),
    ("", ""),
    ("Who made it?", ""),
    ("", "Nobody asked."),
    (" what is it? ", "A press."),
    ("What is it?", "A  press. "),
    ("When?", "In 1910."),
    ("Where?", "Here."),
]


def test_every_row_is_kept_or_named(tmp_path: Path) -> None:
    prepared = prepare(config_for(csv_file(tmp_path, MESSY)))
    report = prepared.report
    assert report.rows_read == 8
    assert report.rows_kept == 4
    assert report.dropped == {
        "blank row": (3,),
        "empty answer": (4,),
        "empty question": (5,),
        "exact duplicate": (7,),
    }
    assert sorted(example.row for example in everything(prepared)) == [2, 6, 8, 9]
    assert report.rows_read == report.rows_kept + sum(map(len, report.dropped.values()))


def test_the_same_question_stays_on_one_side(tmp_path: Path) -> None:
    rows = numbered(20) + [(question.upper(), f"Otherwise: {answer}") for question, answer in numbered(20)]
    prepared = prepare(config_for(csv_file(tmp_path, rows)))
    questions = [{example.question.lower() for example in side} for side in (prepared.train, prepared.validation)]
    assert not questions[0] & questions[1]
    assert prepared.report.split == {"train": 32, "validation": 4, "test": 4}


def test_duplicates_may_be_kept(tmp_path: Path) -> None:
    report = prepare(config_for(csv_file(tmp_path, MESSY), data__drop_duplicates=False)).report
    assert report.rows_kept == 5
    assert "exact duplicate" not in report.dropped


def test_json_of_the_report_is_the_contract(tmp_path: Path) -> None:
    path = csv_file(tmp_path, MESSY)
    value = json.loads(json.dumps(prepare(config_for(path)).report.to_json()))
    assert value["schema_version"] == 1
    assert value["shape"] == "qa"
    assert value["columns"] == {"question": "question", "answer": "answer"}
    assert (value["rows_read"], value["rows_kept"]) == (8, 4)
    assert value["dropped"]["empty answer"] == [4]
    assert set(value["split"]) == {"train", "validation", "test"}
    assert sum(value["split"].values()) == 4
    assert value["files"][0]["path"] == str(path)
    assert value["files"][0]["sha256"] == value["sha256"]
    assert len(value["sha256"]) == 64
    assert value["lengths"]["answer"] == {"median": 8.0, "p95": 8, "longest": 8, "row": 2}
    assert value["reason"].startswith("question/answer: columns")
    assert value["findings"] == []


def test_text_of_the_report(tmp_path: Path) -> None:
    lines = prepare(config_for(csv_file(tmp_path, MESSY))).report.to_text().split("\n")
    assert lines[0].endswith("faq.csv (csv): 8 rows read, 4 kept")
    assert lines[1].startswith("shape    qa (1.00): question/answer")
    assert lines[2] == "dropped  1 blank row: row 3"
    assert lines[3] == "         1 empty answer: row 4"
    assert "split    2 train, 1 validation, 1 test" in lines
    assert lines[-2] == "lengths  question: median 8.5, 95% up to 11, longest 11 characters (row 2)"


def test_long_lists_of_rows_are_shortened() -> None:
    assert rows_text([5, 9, 12, *range(20, 60)]) == "rows 5, 9, 12 and 40 more"
    assert rows_text([5]) == "row 5"
    assert rows_text(["FAQ!5", "Old!9"]) == "rows FAQ!5, Old!9"


def workbook(folder: Path, sheets: dict[str, list[tuple[Any, Any]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    path = folder / "faq.xlsx"
    book.save(path)
    return path


def test_rows_of_one_sheet_are_numbers_and_of_several_have_the_sheet_in_front(tmp_path: Path) -> None:
    one = [("Question", "Answer"), ("a?", "b"), ("c?", None), ("e?", "f")]
    other = [("Frage", "Antwort"), ("g?", None), ("a?", "b"), ("h?", "i")]
    assert prepare(config_for(workbook(tmp_path, {"FAQ": one}))).report.dropped == {"empty answer": (3,)}
    report = prepare(config_for(workbook(tmp_path, {"FAQ": one, "Mehr": other}))).report
    assert report.dropped == {"empty answer": ("FAQ!3", "Mehr!2"), "exact duplicate": ("Mehr!3",)}
    assert report.sheets == ("FAQ", "Mehr")
    assert report.columns_by_sheet["Mehr"] == {"question": "Frage", "answer": "Antwort"}


def test_findings_name_the_sheet_and_the_file_where_a_number_would_not_do(tmp_path: Path) -> None:
    head = ("Question", "Answer")
    path = workbook(tmp_path, {"FAQ": [head, ("a?", "{{x}}")], "Mehr": [head, ("b?", "c"), ("d?", "{{y}}")]})
    assert [(found.code, found.rows) for found in prepare(config_for(path)).report.findings] == [
        ("placeholders", ("FAQ!2", "Mehr!3"))
    ]
    test = tmp_path / "test.csv"
    test.write_text("question,answer\nz?,{{z}}\n", encoding="utf-8")
    found = prepare(config_for(path, data__test_path=test)).report.findings
    assert [finding.rows for finding in found if finding.code == "placeholders"] == [
        (f"{path.name}:FAQ!2", f"{path.name}:Mehr!3"),
        ("test.csv:2",),
    ]


def test_rows_of_skipped_sheets_do_not_count(tmp_path: Path) -> None:
    sheets = {"FAQ": [("Question", "Answer"), ("a?", "b")], "Colours": [("Hue", "Mix"), ("sea green", "some paint")]}
    report = prepare(config_for(workbook(tmp_path, sheets))).report
    assert (report.rows_read, report.rows_kept) == (1, 1)
    assert report.sheets == ("FAQ",)
    assert "skipped_sheet" in [finding.code for finding in report.findings]


def test_given_files_are_the_other_sides(tmp_path: Path) -> None:
    train = csv_file(tmp_path, numbered(18))
    test = csv_file(tmp_path, numbered(3, start=50), "test.csv")
    prepared = prepare(config_for(train, data__test_path=test))
    assert [example.question for example in prepared.test] == [question for question, _ in numbered(3, start=50)]
    assert prepared.report.split == {"train": 16, "validation": 2, "test": 3}  # 80:10 of 18 rows
    assert [file.side for file in prepared.report.files] == ["data", "test"]
    assert prepared.report.rows_read == 21
    validation = csv_file(tmp_path, numbered(2, start=70), "validation.csv")
    prepared = prepare(config_for(train, data__test_path=test, data__validation_path=validation))
    assert prepared.report.split == {"train": 18, "validation": 2, "test": 3}
    assert len({file.sha256 for file in prepared.report.files} | {prepared.report.sha256}) == 4


def test_what_is_in_the_test_file_is_not_trained_on(tmp_path: Path) -> None:
    train = csv_file(tmp_path, numbered(10))
    test = csv_file(tmp_path, [("what is NUMBER 3", "It is three."), ("New?", "Yes.")], "test.csv")
    validation = csv_file(tmp_path, [*numbered(2), ("What is number 3?", "It is 3.")], "valid.csv")
    prepared = prepare(config_for(train, data__test_path=test, data__validation_path=validation))
    assert prepared.report.dropped == {
        "question is in the test file": ("faq.csv:5", "valid.csv:4"),
        "question is in the validation file": ("faq.csv:2", "faq.csv:3"),
    }
    assert prepared.report.split == {"train": 7, "validation": 2, "test": 2}


def test_a_held_out_file_may_have_another_format_and_other_names(tmp_path: Path) -> None:
    train = csv_file(tmp_path, numbered(6))
    test = tmp_path / "test.jsonl"
    test.write_text('{"Frage": "Wo?", "Antwort": "Hier."}\n')
    prepared = prepare(config_for(train, data__test_path=test, data__format="csv"))
    assert [(example.question, example.answer) for example in prepared.test] == [("Wo?", "Hier.")]


def test_a_limit_draws_rows_with_the_seed(tmp_path: Path) -> None:
    path = csv_file(tmp_path, numbered(50))
    drawn = [sorted(example.row for example in everything(prepare(config)))
             for config in (config_for(path, data__max_rows=10), config_for(path, data__max_rows=10))]  # fmt: skip
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 10
    other = config_for(path, data__max_rows=10)
    other.seed = 43
    assert sorted(example.row for example in everything(prepare(other))) != drawn[0]
    assert len(prepare(other).report.dropped["beyond data.max_rows"]) == 40
    assert prepare(config_for(path, data__max_rows=60)).report.rows_kept == 50


def test_a_limit_takes_a_stretch_of_a_document(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"Paragraph {index}." for index in range(100)))
    rows = sorted(example.row for example in everything(prepare(config_for(path, data__max_rows=10))))
    assert [later - earlier for earlier, later in pairwise(rows)] == [2] * 9


def test_plain_texts_are_not_dropped_as_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ["same", "same", " ", "other", "more"]))
    prepared = prepare(config_for(path))
    assert prepared.report.dropped == {"blank row": (3,)}
    assert sum("same" in [example.text for example in side] for side in (prepared.train, prepared.test)) <= 1
    assert prepared.report.lengths["text"].longest == 5


def test_system_prompt_is_put_before_conversations_that_have_none(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    chats = [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "system", "content": "own"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
    ]
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    prepared = prepare(config_for(path, prompt__system="Be brief."))
    assert {example.messages[0].content for example in everything(prepared)} == {"Be brief.", "own"}
    assert prepare(config_for(path)).train[0].messages[0].content != "Be brief."


def test_turns_after_the_last_answer_are_told(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    path.write_text(json.dumps({"messages": chat}) + "\n")
    findings = prepare(config_for(path)).report.findings
    assert (findings[0].code, findings[0].rows) == ("unanswered_turns", (1,))


def test_sides_that_stay_empty_are_told(tmp_path: Path) -> None:
    prepared = prepare(config_for(csv_file(tmp_path, numbered(2))))
    assert prepared.report.split == {"train": 2, "validation": 0, "test": 0}
    assert [finding.code for finding in prepared.report.findings] == ["no_validation", "no_test"]


@pytest.mark.parametrize(
    ("count", "message"), [(1, "all 12 rows ask the same question,"), (2, "ask one of two questions,")]
)
def test_rows_that_all_ask_the_same_have_no_other_side(tmp_path: Path, count: int, message: str) -> None:
    rows = [(f"Tell me {index % count}", f"It is {index}.") for index in range(12)]
    findings = {finding.code: finding for finding in prepare(config_for(csv_file(tmp_path, rows))).report.findings}
    assert message in findings["no_validation"].message
    assert "data.test_path" in str(findings["no_test"].fix)


def test_nothing_trainable_is_refused_with_what_was_dropped(tmp_path: Path) -> None:
    rows = [(question, "") for question, _ in numbered(5)] + [("", "")]
    with pytest.raises(DataError, match="has no row to train on") as caught:
        prepare(config_for(csv_file(tmp_path, [*rows, ("", "x")])))
    assert caught.value.exit_code == 3
    assert caught.value.cause == (
        "7 rows read: 5 empty answer (rows 2, 3, 4 and 2 more); 1 blank row (row 7); 1 empty question (row 8)"
    )
    assert "answer = 'answer'" in str(caught.value.fix)


def test_header_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(config_for(csv_file(tmp_path, [])))
    assert caught.value.cause == "there is no row below the header"


def test_an_empty_held_out_file_is_refused(tmp_path: Path) -> None:
    test = csv_file(tmp_path, [("a?", "")], "test.csv")
    with pytest.raises(DataError, match="has no row to use for test"):
        prepare(config_for(csv_file(tmp_path, numbered(5)), data__test_path=test))


def test_rows_with_too_many_cells_are_in_the_report(tmp_path: Path) -> None:
    report = prepare(config_for(csv_file(tmp_path, [*numbered(5), ("Why?", "Well,because")]))).report
    assert report.dropped == {"too many cells": (7,)}
    assert report.rows_read == 6


def test_preparing_is_a_pure_function(tmp_path: Path) -> None:
    path = csv_file(tmp_path, numbered(30))
    assert prepare(config_for(path)) == prepare(config_for(path))


def test_inspecting_data_needs_no_torch(tmp_path: Path) -> None:
    path = csv_file(tmp_path, numbered(5))
    program = (
        "import sys\nfrom tunesmith.config import RunConfig\nfrom tunesmith.data import prepare\n"
        f"config = RunConfig()\nconfig.data.path = {str(path)!r}\nprepare(config)\n"
        "print([name for name in ('torch', 'transformers', 'pyarrow') if name in sys.modules])"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert done.stdout.strip() == "[]"


def test_names_of_the_part_are_there() -> None:
    import tunesmith.data as part

    for name in ("read", "detect_columns", "prepare", "StepPlan"):
        assert getattr(part, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = part.nonsense


def test_rows_that_repeat_the_header_are_dropped(tmp_path: Path) -> None:
    rows = [*numbered(4), ("question", "answer"), ("question", "What is a question?"), ("Q", "")]
    report = prepare(config_for(csv_file(tmp_path, rows))).report
    assert report.dropped == {"repeats the header": (6,), "empty answer": (8,)}


def test_a_column_that_is_mostly_empty_is_told_with_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"What is {index}?,{'That' if index < 2 else ''},See page {index} of it" for index in range(10)]
    path.write_text("\n".join(["question,answer,hint", *rows]))
    found = {finding.code: finding for finding in prepare(config_for(path)).report.findings}
    assert "8 of 10 rows have nothing" in found["many_empty_answer"].message
    assert '--data.columns.answer "hint"' in str(found["many_empty_answer"].fix)


def test_a_test_file_may_be_marked_text_like_the_training_file(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("test", 20)):
        pairs = [f"Q: What is {index}?\nA: Number {index}.\n" for index in range(start, start + 8)]
        (tmp_path / f"{name}.txt").write_text("\n".join(pairs))
    config = RunConfig.model_validate(
        {"data": {"path": str(tmp_path / "train.txt"), "test_path": str(tmp_path / "test.txt")}}
    )
    prepared = prepare(config)
    assert prepared.report.shape == "qa"
    assert [example.answer for example in prepared.test] == [f"Number {index}." for index in range(20, 28)]
