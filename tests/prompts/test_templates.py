"""The text that each template writes, custom texts, and what is chosen when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import SettingsError
from tunesmith.prompts import TEMPLATES, check_template, render, render_prompt
from tunesmith.types import Example, Message

Tokenizers = Callable[[str], Any]
EOS = "<|endoftext|>"
ALPACA = "Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request.\n\n"


def text_of(name: str, tokenizer: Any, *messages: Message) -> str:
    template = check_template(name, tokenizer)
    return str(tokenizer.decode(render(Example(messages), template, tokenizer).input_ids))


def prompt_of(name: str, tokenizer: Any, *messages: Message) -> str:
    return str(tokenizer.decode(render_prompt(messages, check_template(name, tokenizer), tokenizer)))


ASK, ANSWER = Message("user", "What is a press?"), Message("assistant", "A machine that prints.")
MORE, REPLY = Message("user", "Which one?"), Message("assistant", "Any.")
SYSTEM = Message("system", "Be brief.")


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("qa", "### Question: What is a press?\n\n### Answer:", " A machine that prints."),
        ("plain", "What is a press?", "A machine that prints."),
        (
            "alpaca",
            f"{ALPACA}. {WRITE}### Instruction:\nWhat is a press?\n\n### Response:\n",
            "A machine that prints.",
        ),
        (
            "Instruction: {question}\n\nResponse: {answer}",
            "Instruction: What is a press?\n\nResponse:",
            " A machine that prints.",
        ),
        ("User: {prompt}\nAssistant: {output}", "User: What is a press?\nAssistant:", " A machine that prints."),
        ("{question}\n\n{answer}", "What is a press?\n\n", "A machine that prints."),
        (r"{question}\n\t\\n{answer}", "What is a press?\n\t\\n", "A machine that prints."),
        ("Q: {user}\nA:", "Q: What is a press?\nA:", " A machine that prints."),
        ("Q: {user}\nA:\n", "Q: What is a press?\nA:\n", "A machine that prints."),
        ("Q {{x}} {question} A {answer} END", "Q {x} What is a press? A", " A machine that prints. END"),
    ],
)
def test_text_templates_write_exactly_this(family_tokenizer: Tokenizers, name: str, prompt: str, answer: str) -> None:
    tokenizer = family_tokenizer("base")
    assert text_of(name, tokenizer, ASK, ANSWER) == f"{prompt}{answer}{EOS}"
    assert prompt_of(name, tokenizer, ASK) == prompt


def test_conversations_systems_and_tools_in_text_templates(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("base")
    tool = Message("tool", "42")
    assert text_of("qa", tokenizer, SYSTEM, ASK, ANSWER, tool, MORE, REPLY) == (
        f"Be brief.\n\n### Question: What is a press?\n\n### Answer: A machine that prints.{EOS}\n\n"
        f"### Tool: 42\n\n### Question: Which one?\n\n### Answer: Any.{EOS}"
    )
    assert text_of("alpaca", tokenizer, SYSTEM, ASK, ANSWER, MORE, REPLY) == (
        f"Be brief.\n\n{ALPACA}. {WRITE}### Instruction:\nWhat is a press?\n\n"
        f"### Response:\nA machine that prints.{EOS}\n\n### Instruction:\nWhich one?\n\n### Response:\nAny.{EOS}"
    )
    assert text_of("plain", tokenizer, SYSTEM, ASK, ANSWER, MORE, REPLY) == (
        f"Be brief.\n\nWhat is a press?A machine that prints.{EOS}Which one?Any.{EOS}"
    )
    assert text_of("Q: {question}\nA: {answer}", tokenizer, SYSTEM, ASK, ANSWER, tool, MORE, REPLY) == (
        f"Be brief.\n\nQ: What is a press?\nA: A machine that prints.{EOS}\n\n"
        f"### Tool: 42\n\nQ: Which one?\nA: Any.{EOS}"
    )
    assert text_of("S: {system}\n\nQ: {question}\nA: {answer}", tokenizer, SYSTEM, ASK, ANSWER, MORE, REPLY) == (
        f"S: Be brief.\n\nQ: What is a press?\nA: A machine that prints.{EOS}\n\nQ: Which one?\nA: Any.{EOS}"
    )
    assert text_of("S: {system}\n\nQ: {question}\nA: {answer}", tokenizer, ASK, ANSWER) == (
        f"S: \n\nQ: What is a press?\nA: A machine that prints.{EOS}"
    )
    assert text_of("qa", tokenizer, REPLY, MORE, ANSWER) == (
        f"### Answer: Any.{EOS}\n\n### Question: Which one?\n\n### Answer: A machine that prints.{EOS}"
    )


def test_context_goes_where_the_template_has_a_place_for_it_and_is_appended_elsewhere(
    family_tokenizer: Tokenizers,
) -> None:
    tokenizer = family_tokenizer("base")
    ask = Message("user", "Sum up.", context="A long text.")
    assert prompt_of("alpaca", tokenizer, ask) == (
        f"{ALPACA}, paired with an input that provides further context. {WRITE}"
        "### Instruction:\nSum up.\n\n### Input:\nA long text.\n\n### Response:\n"
    )
    assert prompt_of("{question} [{input}]\nA:", tokenizer, ask) == "Sum up. [A long text.]\nA:"
    assert prompt_of("{question} [{input}]\nA:", tokenizer, MORE) == "Which one? []\nA:"
    for name in ("qa", "plain", "Q: {question} A:", "chat"):
        model = family_tokenizer("chatml")
        assert "Sum up.\n\nA long text." in prompt_of(name, model, ask)
    blank = Message("user", "Sum up.", context="  \n")
    assert "### Input" not in prompt_of("alpaca", tokenizer, blank)


def test_auto_takes_the_chat_template_then_the_shape_of_the_data(family_tokenizer: Tokenizers) -> None:
    assert check_template("auto", family_tokenizer("chatml"), shape="instruction").name == "chat"
    base = family_tokenizer("base")
    chosen = {shape: check_template("auto", base, shape=shape).name for shape in (None, "qa", "instruction", "text")}
    assert chosen == {None: "qa", "qa": "qa", "instruction": "alpaca", "text": "plain"}


def test_every_source_tells_what_it_is_and_where_it_comes_from() -> None:
    assert set(TEMPLATES) == {"qa", "alpaca", "plain"}
    for source in TEMPLATES.values():
        assert source.startswith("{#-")
        assert "Source: " in source[: source.index("-#}")]


@pytest.mark.parametrize(
    ("name", "found", "hint"),
    [
        ("aplaca", "no template 'aplaca', did you mean 'alpaca'?", "auto, chat, qa, alpaca, plain"),
        ("vicuna", "no template 'vicuna'", "auto, chat, qa, alpaca, plain"),
        ("A: {answer}", "no {question} in it", "{question}, {prompt}"),
        ("{question} {quetsion}", "unknown placeholder {quetsion}; did you mean {question}?", "{question}, {prompt}"),
        ("{question} {}", "unknown placeholder {}", "{question}, {prompt}"),
        ("{question!r} {answer}", "unknown placeholder {question}", "{question}, {prompt}"),
        ("{question.__class__}", "unknown placeholder {question.__class__}", "{question}, {prompt}"),
        ("{question} {", "braces that are meant as text are doubled", "{question}, {prompt}"),
        ("{answer} {question}", "{answer} must be the last placeholder", "{question}, {prompt}"),
        ("{question} {answer} {answer}", "{answer} must be the last placeholder", "{question}, {prompt}"),
        ("{question} {system} {answer}", "{system} must stand once, before {question}", "{question}, {prompt}"),
    ],
)
def test_wrong_templates_are_refused_with_what_is_allowed(
    family_tokenizer: Tokenizers, name: str, found: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        check_template(name, family_tokenizer("base"))
    assert found in caught.value.message
    assert hint in str(caught.value)


def test_chat_without_a_chat_template_is_refused(family_tokenizer: Tokenizers, make_family: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match="has no chat template"):
        check_template("chat", family_tokenizer("base"))
    several = make_family("chatml")
    several.chat_template = {"rag": "{{ messages }}", "tool_use": "{{ messages }}"}
    with pytest.raises(SettingsError, match="none is the default"):
        check_template("auto", several)
    several.chat_template = {"default": family_tokenizer("chatml").chat_template, "rag": "{{ messages }}"}
    assert check_template("auto", several) == check_template("auto", family_tokenizer("chatml"))


@given(
    st.lists(
        st.sampled_from(["{{", "}}", "{%", "%}", "{#", "#}", "-", "'", '"', "\\\\", "a", " 7*7 ", "é", "🙂", "\n"])
    )
)
def test_text_around_the_placeholders_never_becomes_jinja(family_tokenizer: Tokenizers, parts: list[str]) -> None:
    literal = "".join(parts)
    doubled = literal.replace("{", "{{").replace("}", "}}")
    tokenizer = family_tokenizer("base")
    shown = literal.replace("\\\\", "\\")
    prompt = prompt_of(f"{doubled}|{{question}}|{doubled}|{{answer}}", tokenizer, Message("user", "Q"))
    assert prompt == f"{shown}|Q|{shown}|"
