"""Exports of help desks, chats and other programs: their own columns are no questions and no labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import DataConfig, RunConfig
from tunesmith.data import Table, detect_columns, prepare, read
from tunesmith.data.prepare import Prepared
from tunesmith.types import Example, Record

ASKED = ["I cannot log in.", "My parcel is late.", "The invoice is wrong.", "Please close my account.", "It is broken."]
SAID = ["Set a new password.", "It comes tomorrow.", "We sent a new one.", "That is done now.", "We send another one."]


def export(columns: dict[str, list[Any]]) -> Table:
    rows = zip(*columns.values(), strict=True)
    records = tuple(Record(row, dict(zip(columns, cells, strict=True))) for row, cells in enumerate(rows, start=2))
    return Table("a.csv", "csv", records, tuple(columns))


def test_a_column_with_one_value_is_no_question() -> None:
    """As of HubSpot: the pipeline stands before the resolution."""
    table = export({"Ticket description": ASKED, "Pipeline": ["Support pipeline"] * 5, "Resolution": SAID})
    found = detect_columns(table, DataConfig())
    assert found.columns == {"question": "Ticket description", "answer": "Resolution"}


def test_a_column_with_one_value_is_no_label_unless_it_is_called_so() -> None:
    """As of Zendesk: it is an error that it is a label, and one that says nothing of the texts beside it."""
    assert detect_columns(export({"Description": ASKED, "Tags": ["web"] * 5}), DataConfig()).shape == "text"
    assert detect_columns(export({"text": ASKED, "label": ["web"] * 5}), DataConfig()).shape == "label"


def test_who_speaks_is_no_label() -> None:
    """As of Slack."""
    columns = {"user": ["U1", "U2"] * 10, "text": [f"{text} {place}" for place in range(4) for text in ASKED]}
    assert detect_columns(export(columns), DataConfig()).shape == "text"
    assert detect_columns(export({"team": columns["user"], "text": columns["text"]}), DataConfig()).shape == "label"


def test_answers_that_may_go_on_in_the_next_row_are_told(tmp_path: Path) -> None:
    """One is enough, where a row has nothing else."""
    lines = [f"{number},Asks {number}?,Says {number}." for number in range(20)]
    for extra, told in ((",,And so on.", True), ("20,,And so on.", False)):
        (tmp_path / "faq.csv").write_text("\n".join(["nr,question,answer", *lines, extra]))
        report = prepare(RunConfig.model_validate({"data": {"path": str(tmp_path / "faq.csv")}})).report
        assert report.dropped == {"empty question": (22,)}
        found = [finding for finding in report.findings if finding.code == "many_empty_question"]
        assert [str(finding.fix).startswith("where the answer goes on from the row above") for finding in found] == [
            True
        ] * told


@pytest.mark.parametrize(
    ("lines", "row"),
    [
        (["#separator:tab", "#html:false"], "{asks}\t{says}"),
        (["#separator:Semicolon", "#notetype column:1", "#tags column:4"], 'Basic;"{asks}";{says};a b'),
        (["#separator:tab", "#html:true", "#guid column:1", "#deck column:2"], "x{says}\tDeck\t{asks}\t{says}\textra"),
    ],
)
def test_cards_of_anki_are_questions_and_answers(lines: list[str], row: str, tmp_path: Path) -> None:
    rows = [row.format(asks=asks, says=says) for asks, says in zip(ASKED, SAID, strict=True)]
    (tmp_path / "cards.txt").write_text("\n".join([*lines, *rows, ""]))
    table = read(DataConfig(), tmp_path / "cards.txt")
    assert [record.row for record in table.records] == [len(lines) + number for number in range(1, 6)]
    assert [record.cells["question"] for record in table.records] == ASKED
    assert [record.cells["answer"] for record in table.records] == SAID


def prepared(folder: Path, row: dict[str, Any]) -> Prepared:
    """Of one conversation a line, all alike."""
    path = folder / "chats.jsonl"
    path.write_text(json.dumps(row))
    return prepare(RunConfig.model_validate({"data": {"path": str(path)}}))


def turns(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


ASKS = {"role": "user", "content": "Hi"}
SAYS = {"role": "assistant", "content": "Hello"}


def test_the_system_instruction_of_gemini_is_a_system_turn(tmp_path: Path) -> None:
    contents = [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]
    for role in ({"role": "system"}, {}):
        given = {"systemInstruction": {**role, "parts": [{"text": "Be kind."}]}, "contents": contents}
        (example,) = prepared(tmp_path, given).train
        assert turns(example) == [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")]


def test_preferred_outputs_of_openai_are_answers(tmp_path: Path) -> None:
    row = {
        "input": {"messages": [ASKS], "tools": []},
        "preferred_output": [SAYS],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    found = prepared(tmp_path, row)
    assert turns(found.train[0]) == [("user", "Hi"), ("assistant", "Hello")]
    assert {"rejected_answers", "tools_left_out"} <= {finding.code for finding in found.report.findings}


def test_what_stands_beside_conversations_is_told_once(tmp_path: Path) -> None:
    row = {"messages": [ASKS, SAYS], "rejected": "No.", "tools": "[]", "model": "x"}
    told = [finding.message for finding in prepared(tmp_path, row).report.findings]
    assert [sum(f'"{name}"' in message for message in told) for name in ("rejected", "tools", "model")] == [1, 1, 1]


def test_answers_of_weight_0_are_told(tmp_path: Path) -> None:
    for weight, count in ((0, 1), (1, 0)):
        found = prepared(tmp_path, {"messages": [ASKS, {**SAYS, "weight": weight}, ASKS, SAYS]}).report.findings
        assert [finding.code for finding in found].count("weights_left_out") == count


def test_a_card_of_anki_may_have_several_lines(tmp_path: Path) -> None:
    (tmp_path / "cards.txt").write_text(
        '#separator:tab\n#tags column:3\n"One\nor two?"\t"Two,\nthree."\tx\nWhy?\tSo.\ty\n'
    )
    table = read(DataConfig(), tmp_path / "cards.txt")
    assert [tuple(record.cells.values()) for record in table.records] == [
        ("One\nor two?", "Two,\nthree.", "x"),
        ("Why?", "So.", "y"),
    ]


def test_names_of_fields_of_anki_are_not_parted_by_a_space(tmp_path: Path) -> None:
    (tmp_path / "cards.txt").write_text("#separator:Space\n" + '"Why not?" "Here it is." more\n' * 3)
    table = read(DataConfig(), tmp_path / "cards.txt")
    assert (table.columns, table.findings) == (("question", "answer", "field3"), ())


def test_an_export_of_anki_without_cards_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "cards.txt").write_text("#separator:tab")
    assert read(DataConfig(), tmp_path / "cards.txt").records == ()


@pytest.mark.parametrize(
    "line", ["[01.02.24, 09:00:10] Anna Kunde: Hi: you", "2/1/24, 9:00 AM - Anna: Hi", "2024-02-01 09:00 Anna: Hi"]
)
def test_chats_of_messengers_are_told(line: str, tmp_path: Path) -> None:
    for lines, told in (
        ([line, "and more", line, line], True),
        ([line, *["A line of prose: of any kind."] * 9], False),
    ):
        (tmp_path / "chat.txt").write_text("\n".join(lines))
        found = read(DataConfig(), tmp_path / "chat.txt").findings
        assert [finding.code for finding in found] == ["exported_chat"] * told
