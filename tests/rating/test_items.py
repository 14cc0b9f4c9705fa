"""What can be rated is read, and what cannot is told with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.errors import DataError, SettingsError
from tunesmith.rating import Item, answers_path, read_items
from tunesmith.runs import Run


def test_a_file_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"question": "Q\u2028?", "answers": {"x": "1", "y": ""}, "reference": "R"}
    path.write_text(json.dumps(row, ensure_ascii=False) + '\n\n{"question": "P", "answers": {"x": "2"}}', "utf-8")
    assert read_items(path) == [Item("Q\u2028?", "R", {"x": "1", "y": ""}), Item("P", None, {"x": "2"})]


def test_predictions_of_a_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "faq", config_text="seed: 0\n", manifest={})
    with pytest.raises(DataError, match="has no answers to rate") as caught:
        answers_path(str(run.path))
    assert str(caught.value.fix) == f"tunesmith eval {run.path} writes it"
    path = run.eval_dir / "predictions.jsonl"
    run.eval_dir.mkdir()
    row = {"row": 2, "sheet": None, "question": "Q", "reference": "R"}
    models = {"base": {"prediction": "b", "exact_match": 0.0}, "tuned": {"prediction": "t", "exact_match": 1.0}}
    path.write_text(json.dumps({**row, **models}) + "\n")
    assert answers_path(str(run.path)) == path
    assert read_items(path) == [Item("Q", "R", {"base": "b", "tuned": "t"})]


def test_a_chat_is_read_with_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "P"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "Q"}]
    row = {"question": "Q", "conversation": turns, "answers": {"x": "1", "y": "2"}}
    path.write_text(json.dumps(row))
    assert read_items(path) == [Item("Q", None, {"x": "1", "y": "2"}, tuple(turns))]


def test_there_is_no_such_run_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="there is no run 'nothing'"):
        answers_path("nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("\n \n", "it is empty"),
        ('{"question": "Q", "answers": {"a": "1"}}\n{"question', r":2 is no JSON"),
        ("[1]", r':1 has no text under "question"'),
        ('{"question": " ", "answers": {"a": "1"}}', r':1 has no text under "question"'),
        ('{"question": "Q"}', r':1 has no texts by name under "answers"'),
        ('{"question": "Q", "answers": {}}', r':1 has no texts by name under "answers"'),
        ('{"question": "Q", "answers": ["a"]}', r':1 has no texts by name under "answers"'),
        ('{"question": "Q", "answers": {"a": 1}}', r':1 has no texts by name under "answers"'),
        ('{"question": "Q", "answers": {"a": "1"}, "reference": 3}', r':1 has no text under "reference"'),
        (
            '{"question": "Q", "answers": {"a": "1"}, "conversation": "P"}',
            r':1 has no list of turns under "conversation"',
        ),
        (
            '{"question": "Q", "answers": {"a": "1"}, "conversation": [{"role": "user"}]}',
            ":1 has no list of turns under",
        ),
    ],
)
def test_what_cannot_be_rated_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_items(path)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read") as caught:
        read_items(path)
    assert "give a measured run" in str(caught.value.fix)
