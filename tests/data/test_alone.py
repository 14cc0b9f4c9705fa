"""Texts that are learnt by themselves although something says that they are more: told with what to change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tunesmith.config import DataConfig
from tunesmith.data.columns import detect_columns
from tunesmith.data.table import Table
from tunesmith.errors import DataError
from tunesmith.types import Finding, Record

THINGS = ["invoice", "account", "order", "parcel", "voucher", "printer", "password", "address"]
ASKED = [f"My {thing} is wrong and I tried all." for thing in THINGS]
GIVEN = [f"Open the page of your {thing}, choose it, and press the button there." for thing in THINGS]


def table_of(columns: dict[str, list[Any]]) -> Table:
    rows = zip(*columns.values(), strict=True)
    records = tuple(Record(row, dict(zip(columns, cells, strict=True))) for row, cells in enumerate(rows, start=2))
    return Table("a.csv", "csv", records, tuple(columns))


def warnings(columns: dict[str, list[Any]], config: DataConfig | None = None) -> dict[str, str]:
    found = detect_columns(table_of(columns), config or DataConfig())
    return {
        finding.code: f"{finding.message}; {finding.fix}" for finding in found.findings if finding.level == "warning"
    }


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("thread_ts", ["1.5", "1.5", "2.5", "2.5", "3.5", "3.5", "4.5", "4.5"]),
        ("Conversation ID", ["a", "a", "b", "b", "c", "c", "d", "d"]),
        ("ParentId", ["", "1", "", "3", "", "5", "", "7"]),
        ("parent_id", ["t3_a", "t3_a", "t1_b", "t1_c", "t1_d", "t1_e", "t1_f", "t1_g"]),
        ("reference.reply", ["", "1", "", "3", "", "5", "", "7"]),
        ("topic_id", ["1", "1", "2", "2", "3", "3", "4", "4"]),
    ],
)
def test_messages_of_threads(name: str, cells: list[str]) -> None:
    columns = {"id": [str(n) for n in range(1, 9)], name: cells, "score": ["3", "5"] * 4, "text": GIVEN}
    told = warnings(columns)
    assert list(told) == ["loose_rows"]
    assert f'column "{name}" says which rows belong together' in told["loose_rows"]
    assert not warnings(columns, DataConfig(shape="text"))


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("thread", ["1", "2", "3", "4", "5", "6", "7", "8"]),  # a row each
        ("response_time", ["1", "1", "2", "2", "1", "1", "2", "2"]),
        ("parent company", ["Acme"] * 4 + ["Ajax"] * 4),
    ],
)
def test_rows_that_stand_alone(name: str, cells: list[str]) -> None:
    assert "loose_rows" not in warnings({name: cells, "text": GIVEN})


def test_answers_of_a_survey_are_no_parents() -> None:
    said = ["yes", "no", "no", "yes"] * 2
    assert not warnings({"Recommend (response)": said, "Buy again (response)": said[::-1], "Comment": GIVEN})


@pytest.mark.parametrize("name", ["from", "username", "Absender", "role"])
def test_who_writes_is_neither_an_answer_nor_a_class(name: str) -> None:
    columns = {"body": [*ASKED, *GIVEN], name: ["mia", "ole", "tom", "eva"] * 4}
    assert dict(detect_columns(table_of(columns), DataConfig()).columns) == {"text": "body"}
    columns[name] = ["mia", "ole"] * 8
    assert dict(detect_columns(table_of(columns), DataConfig()).columns) == {"text": "body"}


def test_topics_that_never_come_again_are_no_classes() -> None:
    topics = [f"{thing} policy" for thing in THINGS]
    found = detect_columns(table_of({"Text": GIVEN, "Topic": topics}), DataConfig())
    assert (found.shape, dict(found.columns)) == ("text", {"text": "Text"})
    found = detect_columns(table_of({"Text": GIVEN, "Topic": topics[:4] * 2}), DataConfig())
    assert found.shape == "label"


def test_an_answer_by_its_cells_that_stands_before_its_question_is_told() -> None:
    acts = [f"{thing} expert" for thing in THINGS]
    assert list(warnings({"act": acts, "prompt": GIVEN})) == ["columns_guessed"]
    assert not warnings({"prompt": GIVEN, "act": acts})


def test_labels_by_name_are_no_thread() -> None:
    columns = {"conversation_id": ["1", "1", "2", "2"] * 2, "text": GIVEN, "intent": ["buy", "sell"] * 4}
    assert not warnings(columns)


def test_comments_beside_a_description() -> None:
    told = warnings({"Subject": THINGS, "Description": ASKED, "Comments": GIVEN})
    assert list(told) == ["answers_alone"]
    assert '--data.columns.question "Description" --data.columns.answer "Comments"' in told["answers_alone"]
    assert not warnings({"Title": ASKED, "Text": GIVEN})
    assert "answers_alone" not in warnings({"Title": ASKED, "Review": GIVEN})
    assert '"selftext"' in warnings({"title": THINGS, "selftext": ASKED, "comment": GIVEN})["answers_alone"]


def test_an_abstract_is_the_text_and_its_title_is_not() -> None:
    found = detect_columns(table_of({"Title": ASKED, "Abstract": GIVEN, "Speaker": THINGS}), DataConfig())
    assert dict(found.columns) == {"text": "Abstract"}


def test_a_description_is_no_answer_to_its_subject() -> None:
    columns = {"subject": [f"Wrong {thing}" for thing in THINGS], "description": ASKED}
    found = detect_columns(table_of(columns), DataConfig())
    assert (found.shape, dict(found.columns)) == ("text", {"text": "description"})
    assert [finding.code for finding in found.findings if finding.level == "warning"] == ["questions_alone"]


def test_texts_of_which_some_ask() -> None:
    texts = [text for thing in THINGS for text in (f"Where is my {thing}?", f"Here is your {thing}.", "Look again.")]
    told = warnings({"text": texts})
    assert list(told) == ["questions_alone"]
    assert "--data.columns" not in told["questions_alone"]  # there is no other
    told_apart = Finding("warning", "exported_chat", "lines begin with a time and a name")
    table = replace(table_of({"text": texts}), findings=(told_apart,))
    assert detect_columns(table, DataConfig()).findings == ()
    assert not warnings({"text": texts[::3]})


def test_messages_that_are_no_turns_are_not_passed_over() -> None:
    messages = [{"id": "1", "content": "Hi", "author": {"name": "a"}}]
    with pytest.raises(DataError, match="cannot tell which columns") as error:
        warnings({"guild.name": ["Acme"], "channel.name": ["help"], "messages": [messages]})
    assert "not lists of turns" in str(error.value)
    with pytest.raises(DataError, match="cannot tell which columns"):  # "type" would be a label, of the name alone
        warnings({"name": ["Mia"], "type": ["personal_chat"], "messages": [messages]})
