"""Tidy text, rows that cannot be trained on, oddities that are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.clean import normalise_question, question_key, tidy
from tunesmith.data.examples import MALFORMED, Unusable, build_example
from tunesmith.data.notices import notices
from tunesmith.types import Example, Message, Record


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("  What  is\tit? ", "What is\tit?"),
        ("a \t b", "a b"),
        ("line\r\nline\rline", "line\nline\nline"),
        ("one\n\n\n\ntwo", "one\n\ntwo"),
        ("one  \ntwo \n", "one\ntwo"),
        ("Steps:\n  - first\n    - deeper  thing", "Steps:\n  - first\n    - deeper thing"),
        ("    def f():\n        return  1", "def f():\n    return 1"),
        ("\u00a0Whiteboard\u00a0app\u00a0 now", "Whiteboard app now"),
        ("\ufefftext", "text"),
        ("Run:\n```\na  =  1\n\n\n\nb\n```\nthen  stop", "Run:\n```\na  =  1\n\n\n\nb\n```\nthen stop"),
        ("~~~\na  b\n```\nc  d\n~~~\ne  f", "~~~\na  b\n```\nc  d\n~~~\ne f"),
        (" \n\t ", ""),
        ("\u200b", ""),
        ("\u200e a\u200bb \u200b\n", "a\u200bb"),
        ("Lo\u0308sung \u30cf\u3099 \u1112\u1161\u11ab \ufa19", "Lösung \u30d0 \ud55c \ufa19"),
    ],
)
def test_tidy(text: str, tidied: str) -> None:
    assert tidy(text) == tidied


SPACED = st.text(alphabet="ab \t\n\r\u00a0`~", max_size=40)


@given(SPACED | st.text(max_size=40))
def test_tidy_text_is_left_as_it_is(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once
    assert once == once.strip()


@given(SPACED)
def test_tidying_loses_no_word(text: str) -> None:
    assert tidy(text).split() == text.replace("\ufeff", "").split()


def test_questions_are_the_same_but_for_case_punctuation_and_space() -> None:
    assert normalise_question("  What's a PRESS?! ") == normalise_question("what s a press")
    assert normalise_question("Straße") == normalise_question("STRASSE")
    assert normalise_question("C++") != normalise_question("C")
    assert normalise_question("???") == "???"


def test_key_of_a_conversation_is_all_that_is_asked() -> None:
    first = Example(messages=(Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Thanks!")))
    other = Example(messages=(Message("user", "Bye"), Message("assistant", "Yes?"), Message("user", "Thanks!")))
    assert question_key(first) != question_key(other)
    assert question_key(Example(messages=(Message("user", "Sum up", "a text"),))) == "sum up a text"
    assert question_key(Example(messages=(Message("system", "Cheer!"), Message("assistant", "Go")))) == "cheer go"
    assert question_key(Example(text="Some Text.")) == "some text"


QA = {"question": "Q", "answer": "A"}


def build(cells: dict[str, Any], shape: str = "qa", columns: dict[str, str] = QA) -> Example | Unusable:
    return build_example(Record(7, cells, "S"), shape, columns)


def messages(cells: dict[str, Any], shape: str, columns: dict[str, str]) -> list[tuple[str, str]]:
    example = build(cells, shape, columns)
    assert isinstance(example, Example)
    return [(message.role, message.content) for message in example.messages]


def test_question_and_answer_become_two_turns_with_their_place() -> None:
    assert build({"Q": " What  is it? ", "A": "A press.\n"}) == Example(
        messages=(Message("user", "What is it?"), Message("assistant", "A press.")), row=7, sheet="S"
    )


def test_context_input_and_system_have_their_places() -> None:
    columns = {"instruction": "I", "output": "O", "input": "C", "system": "S"}
    example = build({"I": "Sum up", "O": "Short.", "C": "Long text", "S": "Be brief"}, "instruction", columns)
    assert example == Example(
        messages=(
            Message("system", "Be brief"),
            Message("user", "Sum up", "Long text"),
            Message("assistant", "Short."),
        ),
        row=7,
        sheet="S",
    )
    assert messages({"I": "Sum up", "O": "x", "C": " ", "S": ""}, "instruction", columns)[0] == ("user", "Sum up")


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"Q": "", "A": " ", "note": "\n"}, "blank row"),
        ({"Q": None, "A": None}, "blank row"),
        ({"Q": "", "A": "", "note": "x"}, "empty question"),
        ({"Q": " \t", "A": "x"}, "empty question"),
        ({"Q": "x", "A": "\u00a0"}, "empty answer"),
        ({"Q": "x"}, "empty answer"),
    ],
)
def test_rows_that_cannot_be_trained_on(cells: dict[str, Any], reason: str) -> None:
    assert build(cells) == Unusable(reason)


@pytest.mark.parametrize(
    ("shape", "parts", "reasons"),
    [
        ("instruction", ("instruction", "output"), ("empty instruction", "empty output")),
        ("prompt", ("prompt", "completion"), ("empty prompt", "empty completion")),
        ("label", ("text", "label"), ("empty text", "empty label")),
    ],
)
def test_reasons_are_told_in_the_words_of_the_shape(
    shape: str, parts: tuple[str, str], reasons: tuple[str, str]
) -> None:
    columns = {part: part for part in parts}
    for empty, reason in zip(parts, reasons, strict=True):
        cells = {part: "" if part == empty else "x" for part in parts}
        assert build(cells, shape, columns) == Unusable(reason)


def test_plain_text_keeps_everything_but_line_ends() -> None:
    example = build({"text": "  a  b\r\n\r\n\r\nc "}, "text", {"text": "text"})
    assert example == Example(text="  a  b\n\n\nc ", row=7, sheet="S")
    assert build({"text": " \n", "id": "1"}, "text", {"text": "text"}) == Unusable("empty text")


def test_label_is_the_answer() -> None:
    assert messages({"t": "Where is it?", "l": "late"}, "label", {"text": "t", "label": "l"}) == [
        ("user", "Where is it?"),
        ("assistant", "late"),
    ]


MESSAGES = {"messages": "m"}
SHAREGPT = {"conversations": "c"}


def turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def test_openai_messages() -> None:
    turns = [turn("developer", "Be kind."), turn("user", [{"type": "text", "text": "Hi"}]), turn("assistant", "Hello")]
    expected = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")]
    assert messages({"m": turns}, "messages", MESSAGES) == expected


def test_messages_written_as_text() -> None:
    text = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'
    assert messages({"m": text}, "messages", MESSAGES) == [("user", "Hi"), ("assistant", "Hello")]


def test_sharegpt_roles() -> None:
    names = ["system", "human", "function_call", "observation", "gpt"]
    turns = [{"from": name, "value": name} for name in names]
    roles = ["system", "user", "assistant", "tool", "assistant"]
    assert [role for role, _ in messages({"c": turns}, "sharegpt", SHAREGPT)] == roles


def test_gemini_parts() -> None:
    cell = [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}, {"role": "model", "parts": [{"text": "c"}]}]
    built = build({"m": cell}, "messages", MESSAGES)
    assert isinstance(built, Example)
    assert [(message.role, message.content) for message in built.messages] == [("user", "a\nb"), ("assistant", "c")]


def test_tool_calls_are_what_the_assistant_says() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": 5}'}}
    turns = [turn("user", "Find"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert messages({"m": turns}, "messages", MESSAGES)[1] == (
        "assistant",
        '[{"name": "search", "arguments": "{\\"q\\": 5}"}]',
    )


@pytest.mark.parametrize(
    ("calls", "said"), [("f(5)", "f(5)"), (["f"], '["f"]'), ({"function": {"name": "f"}}, '{"name": "f"}'), (5, "5")]
)
def test_tool_calls_of_another_form_are_said_as_they_are(calls: object, said: str) -> None:
    turns = [turn("user", "Find"), {"role": "assistant", "content": None, "tool_calls": calls}]
    assert messages({"m": turns}, "messages", MESSAGES)[1] == ("assistant", said)


@pytest.mark.parametrize("write", [lambda turn: turn, lambda turn: [turn], lambda turn: json.dumps([turn])])
def test_chosen_answer_ends_the_conversation(write: Callable[[object], object]) -> None:
    columns = {"conversations": "c", "chosen": "ok"}
    cells = {"c": [{"from": "human", "value": "Hi"}], "ok": write({"from": "gpt", "value": "Hello"})}
    assert messages(cells, "sharegpt", columns) == [("user", "Hi"), ("assistant", "Hello")]


def test_a_chosen_answer_that_repeats_the_question_does_not_ask_twice() -> None:
    asked = [turn("user", "Hi")]
    cells = {"prompt": asked, "chosen": [*asked, turn("assistant", "Hello")]}
    columns = {"messages": "prompt", "chosen": "chosen"}
    assert messages(cells, "messages", columns) == [("user", "Hi"), ("assistant", "Hello")]


def test_answers_to_nothing_are_told() -> None:
    alone = Example((Message("assistant", "Hello"),), row=2)
    cheered = Example((Message("system", "Cheer."), Message("assistant", "You are great!")), row=3)
    found = {finding.code: finding for finding in notices([alone, cheered])}
    assert (found["nobody_asks"].level, found["nobody_asks"].rows) == ("warning", (2,))
    assert "nobody_asks" not in {finding.code for finding in notices([cheered])}


def test_what_follows_the_last_answer_is_left_out() -> None:
    turns = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("tool", "d")]
    assert messages({"m": turns}, "messages", MESSAGES) == [("user", "a"), ("assistant", "b")]


def test_a_conversation_without_a_question_is_kept() -> None:
    turns = [turn("system", "Cheer."), turn("assistant", "You are great!")]
    assert messages({"m": turns}, "messages", MESSAGES) == [("system", "Cheer."), ("assistant", "You are great!")]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ([turn("user", "a")], "no answer turn"),
        ([turn("user", "a"), turn("assistant", "  ")], "no answer turn"),
        ([turn("user", "a"), turn("robot", "b")], f"{MALFORMED}: a role other than system, user, assistant and tool"),
        ([turn("user", "a"), "b"], f"{MALFORMED}: a turn is no object"),
        ([turn("user", {"x": 1}), turn("assistant", "b")], f"{MALFORMED}: a turn without text"),
        ([turn("user", [{"type": "image_url"}]), turn("assistant", "b")], f"{MALFORMED}: a turn without text"),
        ([{"role": "user", "text": "a"}, turn("assistant", "b")], f"{MALFORMED}: a turn without text"),
        ("Hi there", MALFORMED),
        ("", "empty conversation"),
    ],
)
def test_conversations_that_cannot_be_trained_on(cell: Any, reason: str) -> None:
    assert build({"m": cell, "id": "1"}, "messages", MESSAGES) == Unusable(reason)


def qa(question: str, answer: str, row: int = 1, sheet: str | None = None) -> Example:
    return Example(messages=(Message("user", question), Message("assistant", answer)), row=row, sheet=sheet)


@pytest.mark.parametrize(
    ("code", "question", "answer"),
    [
        ("mojibake", "x", "a person\u00e2\u20ac\u2122s thoughts"),
        ("mojibake", "x", "caf\u00c3\u00a9"),
        ("mojibake", "x\ufffd", "y"),
        ("control_characters", "x", "ca\0ll"),
        ("control_characters", "x\x07", "y"),
        ("placeholders", "x", "I am {{name}}."),
        ("end_marker", "x", "Yes.###eos_token###"),
        ("end_marker", "x", "Yes.<|endoftext|>"),
        ("end_marker", "x", "Yes.</s>"),
        ("template_inside", "Below is ..\n\n### Instruction:\nSay hi", "y"),
        ("escaped_newlines", "x", "One.\\nTwo."),
        ("no_answer", "x", "TBD"),
        ("no_answer", "x", "n/a."),
        ("no_answer", "x", "(see above)"),
        ("no_answer", "x", "???"),
        ("totals", "Total:", "40"),
        ("totals", "Gesamtsumme", "12,50"),
        ("html", "x", "<p class='a'>Yes</p>"),
        ("html", "x&nbsp;y", "Yes"),
    ],
)
def test_oddities_are_told_with_rows(code: str, question: str, answer: str) -> None:
    examples = [qa("a", "b", 2), qa(question, answer, 3)]
    found = list(notices(examples))
    assert [(finding.code, finding.rows) for finding in found] == [(code, (3,))]
    assert "1 row has" in found[0].message


@pytest.mark.parametrize(
    "text",
    [
        "Où est le café naïf, s’il vous plaît ?",
        "Ärger über Öl — „gut“",
        "<<3*4=12>>",
        "C:\\new\\nice",
        "{name}",
        "## Title",
    ],
)
def test_ordinary_text_is_not_odd(text: str) -> None:
    assert list(notices([qa(text, text)])) == []


def test_what_was_found_is_shown_in_a_line() -> None:
    (finding,) = notices([qa("a", "b", 2), qa("c", "x" * 32_767, 3)])
    assert finding.code == "no_answer"
    assert len(finding.message) < 150


def test_one_answer_to_everything_is_told() -> None:
    (finding,) = notices([qa("a", "Call us.", 2), qa("b", "Call us.", 3)])
    assert (finding.code, finding.level) == ("same_answer", "warning")
    assert 'all 2 rows have the same answer, "Call us."' in finding.message
    assert list(notices([qa("a", "Call us.", 2)])) == []


@pytest.mark.parametrize(
    "text", ["<|im_start|>user\nHi<|im_end|>", "<s>[INST] Hi [/INST] Hello</s>", "### Human: Hi### Assistant: Hello"]
)
def test_chats_written_out_as_texts_are_told(text: str) -> None:
    (finding,) = notices([Example(text=text, row=2), Example(text="## Human rights", row=3)])
    assert (finding.code, finding.level, finding.rows) == ("rendered_chat", "warning", (2,))


@pytest.mark.parametrize(
    "text",
    ["::T1:: What is 1 plus 1? {=2 ~3 ~8}", "What is 1 plus 1?\nA. 1\nB. 2\nANSWER: B", "It is {\n ~red\n =blue\n}."],
)
def test_quizzes_as_texts_are_told(text: str) -> None:
    code = "if (a) { b = c; } {{name}} ANSWER: By hand ```{=html}"
    (finding,) = notices([Example(text=text, row=2), Example(text=code, row=3)])
    assert (finding.code, finding.level, finding.rows) == ("quiz", "warning", (2,))


def test_conversations_that_end_alike_are_not_answered_alike() -> None:
    chats = [
        Example(messages=(*qa(text, text.upper()).messages, *qa("Thanks", "Welcome").messages), row=row)
        for row, text in enumerate(["a", "b"])
    ]
    assert list(notices(chats)) == []


def test_oddities_are_told_with_their_sheet_where_there_are_several() -> None:
    examples = [qa("a", "{{x}}", 2, "One"), qa("b", "{{y}}", 2, "Two"), qa("A?", "other", 7, "Two")]
    found = {finding.code: finding.rows for finding in notices(examples, several_sheets=True)}
    assert found == {"placeholders": ("One!2", "Two!2"), "several_answers": ("One!2", "Two!7")}


@pytest.mark.parametrize(
    ("systems", "told"),
    [
        (["Be brief.", "Be kind.", "Be kind."], "2 system prompts:"),
        (["Be brief.", None, None], "1 system prompt, and 2 of 3 have none:"),
        (["Be brief."] * 3, None),
        ([None] * 3, None),
    ],
)
def test_system_prompts_that_not_all_rows_share_are_told(systems: list[str | None], told: str | None) -> None:
    rows = [
        Example(messages=(*([Message("system", text)] if text else []), *qa(f"{row}?", f"{row}.").messages), row=row)
        for row, text in enumerate(systems)
    ]
    found = list(notices([*rows, Example(text="plain", row=9)]))
    assert [finding.code for finding in found] == (["system_prompts"] if told else [])
    assert not told or f"the rows have {told}" in found[0].message


def test_different_answers_to_one_question_are_told() -> None:
    examples = [qa("Who?", "Me", 2), qa("who", "You", 3), qa("When?", "Now", 4)]
    assert [(finding.code, finding.rows) for finding in notices(examples)] == [("several_answers", (2, 3))]
