"""Task files and what is measured with them."""

from __future__ import annotations

import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import RunConfig
from tunesmith.data import encode
from tunesmith.errors import DataError
from tunesmith.evaluate import SuiteAnswers, SuiteComparison, ask_suite, read_cases, read_suite, score_suite
from tunesmith.evaluate.checks import CHECKS
from tunesmith.evaluate.likelihood import row_nll
from tunesmith.generate import Engine
from tunesmith.prompts import check_template
from tunesmith.types import Example, Message


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_dir("llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Engine(AutoModelForCausalLM.from_pretrained(folder), tokenizer, check_template("chat", tokenizer))


@pytest.fixture
def write(tmp_path):
    def to_file(items, name="mine.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, items)) if name.endswith("jsonl") else items, encoding="utf-8")
        return str(path)

    return to_file


# --- the suite that ships


def test_the_suite_is_unambiguous():
    items = read_suite("general")
    assert 60 <= len(items) <= 100
    assert min(Counter(item.kind for item in items).values()) >= 20
    assert len({item.question for item in items}) == len(items)
    for item in items:
        assert len(item.wrong) >= 2
        assert item.is_right(item.answer)
        assert not any(item.is_right(wrong) for wrong in item.wrong), item.question
        assert not item.is_right("")


# --- checks


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"contains": "Paris"}, ["paris", "It is Paris, I think."], ["Parisian", "", "Par is"]),
        ({"contains": ["ice", "frozen water"]}, ["Ice!", "It is frozen water"], ["rice", "water"]),
        ({"equals": "The kettle"}, ["kettle", "the KETTLE."], ["the kettle is on", ""]),
        ({"regex": r"^\d{4}$"}, ["1999"], ["19999", "in 1999"]),
        ({"number": 1200}, ["1,200", "600 + 600 = 1200.0", "it is 1200."], ["1200 or 1300", "none", "120"]),
        ({"number": -2.5}, ["-2.5", "so it is -2.5"], ["2.5", "1-2.5"]),
        ({"number": 5}, ["3-5", "10-5=5", "+5"], ["-5", "5-3"]),
    ],
)
def test_checks(check, right, wrong):
    ((name, wanted),) = check.items()
    judge = CHECKS[name](wanted)
    assert all(map(judge, right))
    assert not any(map(judge, wrong))


@given(st.integers(-(10**6), 10**6), st.text("abc .,?!", max_size=20))
def test_a_number_is_found_at_the_end_of_any_text(number, before):
    assert CHECKS["number"](number)(f"{before} 7 so {number}.")


# --- files


def test_yaml_json_and_jsonl_are_read_alike(write):
    yaml = "- question: How many?\n  answer: 12\n  wrong: [1, 2]\n  check: {number: 12}\n"
    item = {"question": "How many?", "answer": 12, "wrong": [1, 2], "check": {"number": 12}}
    for path in (write(yaml, "a.yaml"), write(json.dumps([item]), "a.json"), write([item])):
        (found,) = read_suite(path)
        assert (found.question, found.answer, found.wrong, found.kind) == ("How many?", "12", ("1", "2"), "")
        assert found.is_right("6 + 6 = 12")


@pytest.mark.parametrize(
    "answer", ["007", "12:30", "1.10", "1_000", "0x1F", "2026-01-31", "+49", "1e5", ".50", "-2", "0"]
)
def test_a_number_in_an_answer_stays_as_it_was_written(write, answer):
    check = f"check: {{equals: {answer}}}"
    for read in (read_suite, read_cases):
        (found,) = read(write(f"- {{question: a, answer: {answer}, {check}}}", "a.yaml"))
        assert found.answer == answer


@pytest.mark.parametrize("answer", ["no", "Yes", "on", "off"])
def test_yes_and_no_are_answers(write, answer):
    for read in (read_suite, read_cases):
        (found,) = read(write(f"- {{question: Is it, answer: {answer}, check: {{contains: {answer}}}}}", "a.yaml"))
        assert found.answer == answer


def test_a_key_that_is_there_twice_is_refused(write, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b", "answer": "c"}\n')
    (tmp_path / "a.json").write_text('[{"question": "a", "answer": "b", "answer": "c"}]')
    write("- question: a\n  answer: b\n  answer: c\n", "a.yaml")
    for read in (read_suite, read_cases):
        for name in ("a.yaml", "a.json", "a.jsonl"):
            with pytest.raises(DataError) as caught:
                read(str(tmp_path / name))
            assert "'answer' is there twice" in str(caught.value.cause)


def test_a_decimal_number_is_text_and_number(write, tmp_path):
    yaml = "- {question: a, answer: 1.10, wrong: [1.1], check: {number: 1.10}}"
    json_line = '{"question": "?", "answer": 1.10, "wrong": [1.1]}'
    (tmp_path / "b.jsonl").write_text(json_line)
    for path in (write(yaml, "a.yaml"), write(f"[{json_line}]", "a.json"), str(tmp_path / "b.jsonl")):
        (found,) = read_suite(path)
        assert (found.answer, found.wrong) == ("1.10", ("1.1",))
    for least in ("0.5", ".5", "5e-1"):
        (case,) = read_cases(write(f"- {{question: a, answer: b c, check: {{f1>=: {least}}}}}", "a.yaml"))
        assert case.checks[0].failure("b") is None
        assert case.checks[0].failure("d") == f"f1>= {least}, found 0.000"


def test_questions_that_are_lines_or_a_table_are_told_what_to_do(write, tmp_path):
    for read in (read_suite, read_cases):
        with pytest.raises(DataError, match="holds no list of items") as caught:
            read(write("What is a press?\nWhere is it?\n", "a.txt"))
        assert caught.value.fix.startswith('begin each question with "- "')
        (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04\xc7\xff")
        with pytest.raises(DataError, match="cannot read") as caught:
            read(str(tmp_path / "a.xlsx"))
        assert "or the rows of a table with --data" in caught.value.fix


def test_null_is_as_left_out(write):
    """As data frames write empty cells. A group called None would stand in the report."""
    (found,) = read_suite(write([{"question": "Q?", "answer": "A", "wrong": None, "check": None, "kind": None}]))
    assert (found.wrong, found.kind) == ((), "")
    assert found.is_right("it is a")
    with pytest.raises(DataError, match="it has no answer"):
        read_suite(write([{"question": "Q?", "answer": None}]))
    with pytest.raises(DataError, match="unknown knd, did you mean 'kind'"):
        read_suite(write([{"question": "Q?", "answer": "A", "knd": None}]))


def test_half_a_surrogate_pair_is_scored(write):
    """A file that a program cut in the middle of an emoji. JSON can say it, UTF-8 cannot."""
    items = read_suite(write([{"question": "Q?", "answer": "fine \ud83d", "wrong": ["bad"]}]))
    found = score_suite(items, SuiteAnswers([[1.0, 9.0]], ["fine"]))
    assert found.scores["choices"].value == 1


def test_without_a_check_an_answer_must_contain_the_right_one(write):
    (item,) = read_suite(write([{"question": "Where?", "answer": "In the drawer"}]))
    assert item.is_right("It is in the drawer!")
    assert not item.is_right("In the door")


def test_all_wrong_items_are_told_together(write):
    items = [
        {"question": "Q?", "answer": "A", "reference": "x"},
        {"question": "Q?", "answer": "A"},
        {"question": "", "answer": "A"},
        {"question": "Q?", "answer": True},
        {"question": "Q?", "answer": "A", "wrong": ["A"]},
        {"question": "Q?", "answer": "A", "check": {"similar": 1}},
        {"question": "Q?", "answer": "A", "wrong": ["B", " "]},
        {"question": "Q?", "answer": "A", "check": {"regex": "("}},
        {"question": "Q?", "answer": "A", "check": {"equals": "B"}},
        "text",
    ]
    with pytest.raises(DataError, match="9 wrong items") as caught:
        read_suite(write(items))
    for number in (1, 3, 4, 5, 6, 7, 8, 9, 10):
        assert f"item {number}, line {number}: " in caught.value.cause
    assert "item 2" not in caught.value.cause
    assert "unknown reference" in caught.value.cause


@pytest.mark.parametrize(("text", "name"), [("{", "a.json"), ("a: [", "a.yaml"), ("", "a.yaml"), ("{}", "a.json")])
def test_what_is_no_task_file_is_a_data_error(write, text, name):
    with pytest.raises(DataError, match="file of questions"):
        read_suite(write(text, name))
    with pytest.raises(DataError, match="cannot read"):
        read_suite("nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "name", "key"),
    [
        ("version: 1\ncases:\n- question: a\n  answer: b\n", "a.yaml", "cases"),
        ('{"items": [{"question": "a", "answer": "b"}]}', "a.json", "items"),
        ("question: a\nanswer: b\n", "a.yaml", "question"),
    ],
)
def test_a_list_under_a_key_is_told_with_the_key(write, text, name, key):
    for read in (read_suite, read_cases):
        with pytest.raises(DataError, match=f"no list of items at its top, where the key '{key}' was found") as caught:
            read(write(text, name))
        assert caught.value.fix.startswith("let the list stand at the top of the file, not under a key; a")


# --- measuring


def _items(write, **extra):
    return read_suite(
        write(
            [
                {"kind": "a", "question": "What is a press?", "answer": "A machine", "wrong": ["A tea", "Hello"]},
                {"kind": "b", "question": "Where?", "answer": "Paris", "wrong": ["New line here", "it"]},
                {"kind": "b", "question": "Who?", "answer": "We"},
            ]
        )
    )


class Scripted:
    """An engine that writes what it is told; model, tokenizer and template are real."""

    def __init__(self, engine, answers):
        self.model, self.tokenizer, self.template = engine.model, engine.tokenizer, engine.template
        self.context_tokens, self.answers = engine.context_tokens, answers

    def generate(self, conversations, settings, *, seed, batch_size, on_progress):
        assert [messages[-1].content for messages in conversations] == ["What is a press?", "Where?", "Who?"]
        return [SimpleNamespace(text=text) for text in self.answers]


def measure_suite(engine, items, **settings):
    return score_suite(items, ask_suite(engine, items, **settings))


def test_scores_are_those_of_each_answer_alone(engine, write):
    items = _items(write)
    found = measure_suite(Scripted(engine, ["a machine", "Rome", "we do"]), items, settings=RunConfig().generate,
                          batch_size=2)  # fmt: skip
    per_byte = {}
    for item in items:
        for text in (item.answer, *item.wrong):
            example = Example((Message("user", item.question), Message("assistant", text)))
            rows, _ = encode([example], engine.template, engine.tokenizer, max_length=256)
            per_byte[item.question, text] = row_nll(engine.model, rows)[0, 0] / len(text.encode())
    for row, item in zip(found.rows[:2], items[:2], strict=True):
        best = min((item.answer, *item.wrong), key=lambda text: per_byte[item.question, text])
        assert row["chosen"] == best
    assert found.rows[2]["chosen"] is None
    assert [row["is_right"] for row in found.rows] == [True, False, True]
    assert found.scores["written"].value == pytest.approx(2 / 3)
    assert len(found.scores["choices"].rows) == 2
    right = sum(per_byte[item.question, item.answer] * len(item.answer.encode()) for item in items)
    total = sum(len(item.answer.encode()) for item in items)
    assert found.scores["bits_per_byte"].value == pytest.approx(right / total / np.log(2))


def test_base_and_tuned_side_by_side(engine, write):
    items = _items(write)
    settings = RunConfig().generate
    base = measure_suite(Scripted(engine, ["a machine", "Paris", "we"]), items, settings=settings, batch_size=2)
    tuned = measure_suite(Scripted(engine, ["x", "Paris", "x"]), items, settings=settings, batch_size=2)
    found = SuiteComparison("mine", base, tuned)
    assert found.kinds["a"]["written"] == (1, 0)
    assert found.kinds["b"]["written"] == (1, 0.5)
    document = found.to_json()
    assert document["items"] == 3
    assert document["change"]["written"]["verdict"] == "too few rows"
    assert document["base"]["choices"] == document["tuned"]["choices"]
    assert json.loads(json.dumps(document)) == document


def test_an_item_that_does_not_fit_is_told(engine, write):
    items = read_suite(write([{"question": "long " * 400, "answer": "A"}]))
    with pytest.raises(DataError, match="do not fit the model's context of 256"):
        measure_suite(engine, items, settings=RunConfig().generate, batch_size=1)


def test_what_was_answered_is_scored_again_without_a_model(engine, write, tmp_path):
    items = _items(write)
    found = ask_suite(Scripted(engine, ["a machine", "Rome", "we"]), items, settings=RunConfig().generate, batch_size=2)
    found.keep(tmp_path / "suite.json")
    assert SuiteAnswers.kept(tmp_path / "suite.json") == found
    assert [len(choices) for choices in found.nll] == [1 + len(item.wrong) for item in items]
    for content in ("{", "[]", "{}", '{"schema_version": 0, "nll": [], "written": []}'):
        (tmp_path / "suite.json").write_text(content)
        assert SuiteAnswers.kept(tmp_path / "suite.json") is None


def test_a_probability_of_nothing_is_null_in_json():
    items = read_suite("general")[:12]
    endless = SuiteAnswers([[math.inf] * (1 + len(item.wrong)) for item in items], [item.answer for item in items])
    scores = score_suite(items, endless)
    document = SuiteComparison("general", scores, scores).to_json()
    assert document["base"]["bits_per_byte"] is None
    assert json.loads(json.dumps(document, allow_nan=False)) == document
