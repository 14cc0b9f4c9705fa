"""json and jsonl: nestings, places of damage, exact round trips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.config import DataConfig, RunConfig, SplitConfig
from tunesmith.data import Prepared, Table, prepare, read
from tunesmith.data.readers.jsons import read_json, read_jsonl
from tunesmith.data.readers.nested import records_of
from tunesmith.data.readers.source import Source
from tunesmith.errors import DataError

ROWS = [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]


def load(folder: Path, value: Any, name: str = "a.json") -> Table:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return read(DataConfig(), path)


def cells(table: Table) -> list[dict[str, object]]:
    return [dict(record.cells) for record in table.records]


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.0", "rows": ROWS},
        {"data": {"train": ROWS}},
        {"question": ["a?", "c?"], "answer": ["b", "d"]},
        {"question": {"0": "a?", "1": "c?"}, "answer": {"0": "b", "1": "d"}},
        {"meta": {"by": "us"}, "faqs": ROWS},
        [["question", "answer"], ["a?", "b"], ["c?", "d"]],
        {"a?": "b", "c?": "d"},
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        ",\n".join(map(json.dumps, ROWS)),
    ],
)
def test_nestings_that_mean_the_same(tmp_path: Path, value: Any) -> None:
    table = load(tmp_path, value)
    assert cells(table) == ROWS
    assert table.columns == ("question", "answer")
    assert [record.row for record in table.records] == [1, 2]


def test_rows_at_any_depth_come_with_what_is_above_them(tmp_path: Path) -> None:
    topics = [{"name": "first", "sections": [{"faqs": ROWS[:1]}]}, {"name": "second", "sections": [{"faqs": ROWS[1:]}]}]
    assert cells(load(tmp_path, {"meta": {"by": "us"}, "topics": topics})) == [
        {"name": "first", **ROWS[0]},
        {"name": "second", **ROWS[1]},
    ]


def test_every_question_of_an_intent_with_every_answer(tmp_path: Path) -> None:
    intents = {"intents": [{"tag": "t", "patterns": ["Hi", "Hello"], "responses": ["Hey", "Yes?"]}]}
    found = cells(load(tmp_path, intents))
    pairs = [(row["patterns"], row["responses"]) for row in found]
    assert pairs == [("Hi", "Hey"), ("Hi", "Yes?"), ("Hello", "Hey"), ("Hello", "Yes?")]


def test_lists_that_cannot_all_belong_together_are_refused(tmp_path: Path) -> None:
    listed = {"id": 1, "question": [str(number) for number in range(50)], "answer": ["a"] * 50}
    with pytest.raises(DataError, match="cannot all belong together") as caught:
        load(tmp_path, [listed, listed])
    assert "question 50, answer 50" in str(caught.value.cause)


NAMES = st.sampled_from(["question", "answer", "answers", "patterns", "data", "faqs", "messages", "id", "0", "title"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150)
@given(ANY_JSON)
def test_any_json_is_rows_or_a_data_error(value: Any) -> None:
    source = Source(Path("a.json"), json.dumps(value).encode())
    try:
        table = read_json(source)
    except DataError:
        return
    assert table.records
    assert {name for record in table.records for name in record.cells} == set(table.columns)


def test_listed_answers_stay_together_beside_the_best_one(tmp_path: Path) -> None:
    row = {"question": "a?", "best_answer": "b", "correct_answers": ["b", "c"]}
    assert cells(load(tmp_path, [row])) == [row]


def test_objects_inside_become_columns(tmp_path: Path) -> None:
    item = {"id": 1, "data": {"q": {"text": "a?"}, "a": {"text": "b"}}}
    assert cells(load(tmp_path, [item])) == [{"id": "1", "data.q.text": "a?", "data.a.text": "b"}]


def test_lists_of_cells_without_names(tmp_path: Path) -> None:
    assert cells(load(tmp_path, [["a?", "b"], ["c?", "d"]]))[1] == {"column1": "c?", "column2": "d"}


def test_a_few_damaged_lines_are_left_out_and_told(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"{number}?", "answer": "b"}) for number in range(20)]
    lines[7] = lines[7][:-4]
    table = load(tmp_path, "\n".join(lines), "a.jsonl")
    assert (len(table.records), table.rows_read) == (19, 20)
    assert table.unreadable == {"not valid JSON": (8,)}
    assert [(finding.level, finding.rows) for finding in table.findings] == [("warning", (8,))]


def test_objects_over_several_lines_and_lists_a_line_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
    assert [record.cells for record in read(DataConfig(), path).records] == ROWS
    path.write_text("\n".join(json.dumps([*row.values()]) for row in ROWS))
    assert [[*record.cells.values()] for record in read(DataConfig(), path).records] == [
        [*row.values()] for row in ROWS
    ]


def test_rows_of_other_forms_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        *({"question": f"q{index}?", "answer": "a"} for index in range(8)),
        {"prompt": "b", "chosen": "c", "rejected": "d"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = RunConfig()
    config.data.path = str(path)
    found = {finding.code: finding for finding in prepare(config).report.findings}
    assert found["other_forms"].rows == (9,)
    assert 'found instead: columns "prompt", "chosen", "rejected" (1)' in found["other_forms"].message


def test_a_few_malformed_conversations_do_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    cells = [chat, "hello", [], [{"role": "user", "text": "Hi"}, chat[1]], *[chat] * 10]
    path.write_text("\n".join(json.dumps({"messages": cell}) for cell in cells))
    config = RunConfig()
    config.data.path = str(path)
    config.data.drop_duplicates = False
    report = prepare(config).report
    assert (report.shape, report.rows_kept, sum(map(len, report.dropped.values()))) == ("messages", 11, 3)


def said_in(folder: Path, rows: list[Any], name: str = "a.jsonl") -> Prepared:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return prepare(RunConfig(data=DataConfig(path=str(path), split=SplitConfig(validation=0, test=0))))


@pytest.mark.parametrize("key", ["dialog", "conversation", "messages"])
def test_dialogues_of_texts_take_turns(tmp_path: Path, key: str) -> None:
    found = said_in(tmp_path, [{key: ["Hi", "Hello", "Who?", "Me."], "act": [1, 2, 3, 4]}, {key: ["Why?", "So."]}])
    turns = [[(message.role, message.content) for message in example.messages] for example in found.train]
    assert sorted(turns, key=len) == [
        [("user", "Why?"), ("assistant", "So.")],
        [("user", "Hi"), ("assistant", "Hello"), ("user", "Who?"), ("assistant", "Me.")],
    ]
    assert [finding.message for finding in found.report.findings if finding.code == "flattened"] == [
        "2 rows are dialogues of texts: the first asks, and every other one is the answer"
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"dialog": ["Hi", "Hello", "Bye"]},
        {"dialog": ["Hi", " "]},
        {"dialog": ["Hi", 1]},
        {"contents": ["A paragraph.", "Another one."]},
        {"lines": ["Hi", "Hello"]},
        {"dialogue": ["Hi", "Hello"], "summary": "They greet."},
    ],
    ids=["odd", "blank", "number", "contents", "lines", "summary"],
)
def test_other_lists_of_texts_are_no_dialogue(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="cannot tell which columns"):
        said_in(tmp_path, [row, row])


def test_the_list_that_is_no_dialogue_is_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        said_in(tmp_path, [{"dialog": ["Hi", "Hello"]}, {"dialog": ["a", "b", "c"]}])
    assert """column 'dialog' holds ["a", "b", "c"], not lists of turns""" in str(caught.value.cause)


@given(st.lists(st.text(max_size=4), max_size=6), st.sampled_from(["dialog", "chat", "contents", "text"]))
def test_a_dialogue_keeps_all_that_is_said(texts: list[str], key: str) -> None:
    (record,), notes = records_of("a", [(1, {key: texts})])
    turns = record.cells[key]
    assert turns == texts or (isinstance(turns, list) and [turn["content"] for turn in turns] == texts)
    assert bool(notes) == (turns != texts)


def test_conversations_of_another_form_say_how_to_write_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"who": "me", "said": "Hi"}]}\n' * 3)
    config = RunConfig()
    config.data.path = str(path)
    with pytest.raises(DataError, match="cannot tell which columns") as caught:
        prepare(config)
    assert "holds [{" in str(caught.value.cause)
    assert '{"role": "user", "content": ".."}' in str(caught.value.fix)


def test_json_written_by_str_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, str(ROWS))
    assert "json.dump" in str(caught.value.fix)


def test_objects_by_id(tmp_path: Path) -> None:
    assert cells(load(tmp_path, {"q1": ROWS[0], "q2": ROWS[1]}))[1] == {"key": "q2", "question": "c?", "answer": "d"}


def test_one_object_is_one_row(tmp_path: Path) -> None:
    assert cells(load(tmp_path, {"question": "a?", "answer": "b"})) == ROWS[:1]


def test_one_conversation_is_one_row(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert cells(load(tmp_path, chat)) == [chat]


def test_texts_are_rows(tmp_path: Path) -> None:
    assert cells(load(tmp_path, ["one", "two"])) == [{"text": "one"}, {"text": "two"}]


def squad(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"title": "t", "paragraphs": [{"context": "The press is old.", "qas": questions}]}]


@pytest.mark.parametrize("wrap", [lambda articles: {"version": "1.1", "data": articles}, lambda articles: articles])
def test_squad_is_laid_flat(tmp_path: Path, wrap: Any) -> None:
    questions = [
        {"id": "1", "question": "How old?", "answers": [{"text": "old", "answer_start": 13}, {"text": "very old"}]},
        {"id": "2", "question": "Unanswerable?", "answers": [], "is_impossible": True},
    ]
    assert cells(load(tmp_path, wrap(squad(questions)))) == [
        {"question": "How old?", "context": "The press is old.", "answer": "old", "id": "1"},
        {"question": "Unanswerable?", "context": "The press is old.", "answer": "", "id": "2"},
    ]


@pytest.mark.parametrize(
    "item",
    [
        {"question": {"stem": "Ice is", "choices": [{"text": "hot", "label": "A"}, {"text": "cold", "label": "B"}]}},
        {"question": "Ice is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}},
        {"question_stem": "Ice is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}},
    ],
)
def test_multiple_choice_is_laid_flat(tmp_path: Path, item: dict[str, Any]) -> None:
    table = load(tmp_path, [{**item, "answerKey": "B"}])
    assert table.records[0].cells["question"] == "Ice is\nA. hot\nB. cold"
    assert table.records[0].cells["answer"] == "cold"
    assert [finding.code for finding in table.findings] == ["flattened"]


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ({"text": "Here.", "score": 1}, ["Here."]),
        ([{"text": "Here.", "answer_start": 1}, {"text": "There."}], ["Here.", "There."]),
        ({"text": ["Here.", "There."], "answer_start": [1, 2]}, ["Here.", "There."]),
        ({"de": "Hier.", "en": "Here."}, ["Hier."]),  # one of them, and told
        ({"name": "Ann", "age": 30}, ['{"name": "Ann", "age": 30}']),
        ([{"name": "Änn"}, {"name": "Bo"}], ['[{"name": "Änn"}, {"name": "Bo"}]']),
        ([{"text": "Here."}, {"name": "Bo"}], ['[{"text": "Here."}, {"name": "Bo"}]']),
    ],
)
@pytest.mark.parametrize(("asking", "answering"), [("question", "answer"), ("input", "output")])
def test_answers_that_are_objects(tmp_path: Path, answer: Any, texts: list[str], asking: str, answering: str) -> None:
    """Those that hold texts are answers in words; others are learnt as JSON, which is told."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{asking: f"Who is {number}?", answering: answer} for number in range(4)]))
    config = RunConfig()
    config.data.path = str(path)
    prepared = prepare(config)
    assert sorted({row.answer for row in prepared.train}) == sorted(texts)
    told = "json_answers" in {finding.code for finding in prepared.report.findings}
    assert told == texts[0].startswith(("{", "["))


def test_a_few_answers_that_are_objects_are_named(tmp_path: Path) -> None:
    config = RunConfig()
    config.data.path = str(tmp_path / "a.json")
    rows: list[dict[str, Any]] = [{"question": f"Who is {number}?", "answer": f"Ann {number}."} for number in range(9)]
    Path(config.data.path).write_text(json.dumps([*rows, {"question": "Who?", "answer": [["Bo", 3]]}]))
    (told,) = (one for one in prepare(config).report.findings if one.code == "json_answers")
    assert (told.level, told.rows) == ("warning", (10,))


def test_scalars_become_text_and_nested_values_stay(tmp_path: Path) -> None:
    row = {"a": 501, "b": 1.5, "c": True, "d": None, "e": "00501", "f": [1, {"g": 2}], "h": 12345678901234567890}
    assert cells(load(tmp_path, [row])) == [
        {"a": "501", "b": "1.5", "c": "true", "d": "", "e": "00501", "f": [1, {"g": 2}], "h": "12345678901234567890"}
    ]


def test_columns_are_all_that_occur(tmp_path: Path) -> None:
    assert load(tmp_path, [{"a": 1}, {"b": 2, "a": 3}]).columns == ("a", "b")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "no rows"),
        ({}, "an empty object"),
        ("3", "one number"),
        ('"text"', "one text"),
        ([1, 2], "row 1 is no object: 1"),
        ([["a", ["b"]]], "row 1 is no object: ..a"),
        ({"question": ["a"], "answer": ["b", "c"]}, "not equally long"),
        ({"train": ROWS, "test": ROWS[:1]}, "several lists of rows"),
        ('[{"a": 1}\n, {"b": }]', "not valid JSON"),
        ("[" * 100_000, "JSON that cannot be read"),
        ('{"a":' * 900 + '{"question": "q", "answer": "a"}' + "}" * 900, "nests .* too deep"),
        ('{"a":' * 100_000 + "\n{}", "nests .* too deep"),
        ("[" + "9" * 5000 + "]", "JSON that cannot be read"),
    ],
)
def test_json_without_rows(tmp_path: Path, value: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        load(tmp_path, value)


def test_empty_objects_have_no_column_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[{}, {}]")
    with pytest.raises(DataError, match="cannot tell which columns") as caught:
        prepare(RunConfig(data=DataConfig(path=str(tmp_path / "a.json"))))
    assert "its columns are none" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parsed", "rows"),
    [
        (' [{"question": "Q", "answer": "A"}]\n', 1, 1),
        ('{"question": "Q", "answer": "A"}', 1, 1),
        ('{"question": "Q", "answer": "A"},\n{"question": "R", "answer": "B"},', 2, 2),
    ],
)
def test_each_document_is_parsed_once(
    text: str, parsed: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = json.JSONDecoder.raw_decode, []
    monkeypatch.setattr(json.JSONDecoder, "raw_decode", lambda self, s, idx=0: calls.append(idx) or real(self, s, idx))
    assert len(read_json(Source(tmp_path / "f.json", text.encode())).records) == rows
    assert len(calls) == parsed


@pytest.mark.parametrize(
    "text", ['[{"q": "Q"}],', '{"q": "Q"},', '[{"q": "Q"}] x', '[{"q": "Q"}] [1]', '\xa0{"q": "Q"}']
)
def test_a_document_with_something_beside_it_is_damaged(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(Source(tmp_path / "f.json", text.encode()))


def test_damage_is_told_with_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, '[{"a": 1},\n {"b": }]')
    assert "line 2, column 8" in str(caught.value.cause)


def test_damaged_line_is_told_with_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:4: not valid JSON") as caught:
        load(tmp_path, '{"a": 1}\n\n{"a": 2}\n{"a" 3}\n', "a.jsonl")
    assert "line 4, column 6" in str(caught.value.cause)


def test_blank_lines_count_as_lines_but_not_as_rows(tmp_path: Path) -> None:
    table = load(tmp_path, '{"a": 1}\r\n\n{"a": 2}\n\n', "a.jsonl")
    assert [record.row for record in table.records] == [1, 3]


def test_the_form_goes_by_content(tmp_path: Path) -> None:
    assert load(tmp_path, '{"a": 1}\n{"a": 2}\n', "a.json").format == "jsonl"
    assert load(tmp_path, json.dumps(ROWS, indent=1), "a.jsonl").format == "json"
    assert load(tmp_path, '{"question": "only?",\n"answer": "one"}', "b.json").format == "json"


@settings(max_examples=100)
@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), min_size=1), min_size=1, max_size=6))
def test_json_lines_are_read_back(rows: list[dict[str, str]]) -> None:
    for ascii_only in (True, False):
        text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
        table = read_jsonl(Source(Path("a.jsonl"), text.encode("utf-8")))
        assert cells(table) == rows
