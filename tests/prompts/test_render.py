"""Which token ids carry loss, exactly; the same ids in training, asking and any other tool; no token from user text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.prompts import check_template, render, render_prompt
from tunesmith.types import Example, Message

Tokenizers = Callable[[str], Any]
CHATS = [
    *("chatml", "llama3", "llama3.2", "gemma", "phi3", "phi3-legacy", "phi4", "qwen2.5"),
    *("mistral", "mistral-words", "mistral-legacy"),
]
TEXTS = [
    ("base", "qa"),
    ("base", "alpaca"),
    ("base", "plain"),
    ("base", "Instruction: {question}\n\nResponse: {answer}"),
    ("base-bos", "qa"),
    ("base-bos", "{question}\n\n{answer}"),
    ("base-words", "qa"),
    ("base-words", "alpaca"),
]
ALL = [*((family, "chat") for family in [*CHATS, "qwen3", "no-stop"]), *TEXTS]
TALK = (
    Message("user", "What is a press?"),
    Message("assistant", "A machine that prints books."),
    Message("user", "Le café?"),
    Message("assistant", "Très bon 你."),
)


def turns_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def spans(text: str, parts: Sequence[str]) -> list[tuple[int, int]]:
    """Where each part stands in the text, each after the one before."""
    found, at = [], 0
    for part in parts:
        start = text.index(part, at)
        at = start + len(part)
        found.append((start, at))
    return found


# ------------------------------------------------------------------------------------------------ exact ids


def test_the_ids_of_a_chatml_answer_are_these(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("chatml")
    template = check_template("chat", tokenizer)
    encoded = render(Example(TALK[:2], row=7), template, tokenizer)
    pieces = [
        ("<|im_start|>", False),
        *((token, False) for token in tokenizer.tokenize("user\nWhat is a press?")),
        ("<|im_end|>", False),
        ("Ċ", False),
        ("<|im_start|>", False),
        *((token, False) for token in tokenizer.tokenize("assistant\n")),
        *((token, True) for token in tokenizer.tokenize("A machine that prints books.")),
        ("<|im_end|>", True),
        ("Ċ", False),
    ]
    assert encoded.input_ids.tolist() == tokenizer.convert_tokens_to_ids([token for token, _ in pieces])
    assert encoded.supervised.tolist() == [trained for _, trained in pieces]
    assert (encoded.input_ids.dtype, encoded.supervised.dtype, encoded.row) == (np.int64, np.bool_, 7)


def test_the_ids_of_a_qa_answer_are_these(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("base-bos")
    template = check_template("qa", tokenizer)
    encoded = render(Example(TALK[:2]), template, tokenizer)
    prompt = ["<s>", *tokenizer.tokenize("### Question: What is a press?\n\n### Answer:")]
    answer = [*tokenizer.tokenize(" A machine that prints books."), "</s>"]
    assert encoded.input_ids.tolist() == tokenizer.convert_tokens_to_ids(prompt + answer)
    assert encoded.supervised.tolist() == [False] * len(prompt) + [True] * len(answer)
    assert encoded.input_ids[encoded.supervised][-1] == tokenizer.eos_token_id == template.stop_id


@pytest.mark.parametrize(("family", "name"), [*((family, "chat") for family in CHATS), *TEXTS])
def test_ids_are_those_of_the_whole_text_and_answers_with_their_stop_are_supervised(
    family_tokenizer: Tokenizers, family: str, name: str
) -> None:
    """Reference: the conversation encoded at once by transformers, answers found by character offsets."""
    tokenizer = family_tokenizer(family)
    template = check_template(name, tokenizer)
    whole = tokenizer.apply_chat_template(turns_of(TALK), chat_template=template.source, return_dict=False)
    encoded = render(Example(TALK), template, tokenizer)
    assert encoded.input_ids.tolist() == whole

    text = tokenizer.apply_chat_template(turns_of(TALK), chat_template=template.source, tokenize=False)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    stop = tokenizer.convert_ids_to_tokens(template.stop_id)
    space = " " if f" {TALK[1].content}" in text else ""
    wanted = spans(text, [space + message.content + stop for message in TALK[1::2]])
    expected = [any(start < to and since < end for start, end in wanted) for since, to in offsets]
    assert encoded.supervised.tolist() == expected
    assert encoded.supervised.sum() > 4 * 2


@pytest.mark.parametrize(("family", "name"), ALL)
def test_a_prompt_is_the_beginning_of_what_was_trained_and_ends_where_the_answer_begins(
    family_tokenizer: Tokenizers, family: str, name: str
) -> None:
    tokenizer = family_tokenizer(family)
    template = check_template(name, tokenizer)
    for count in (2, 4):
        encoded = render(Example(TALK[:count]), template, tokenizer)
        prompt = render_prompt(TALK[: count - 1], template, tokenizer)
        assert encoded.input_ids[: len(prompt)].tolist() == prompt
        assert not encoded.supervised[len(prompt) - 1]
        assert encoded.supervised[len(prompt)]
        assert encoded.input_ids[encoded.supervised][-1] == template.stop_id


@pytest.mark.parametrize("family", CHATS)
def test_the_prompt_is_the_one_that_other_tools_write(family_tokenizer: Tokenizers, family: str) -> None:
    """Reference: a fresh apply_chat_template with the stored source, as vLLM or transformers would call it."""
    tokenizer = family_tokenizer(family)
    template = check_template("chat", tokenizer)
    served = tokenizer.apply_chat_template(
        turns_of(TALK[:1]), chat_template=template.source, add_generation_prompt=True, return_dict=False
    )
    assert render_prompt(TALK[:1], template, tokenizer) == served


def test_everything_is_supervised_when_asked_for(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("chatml")
    template = check_template("chat", tokenizer)
    answers, everything = (render(Example(TALK), template, tokenizer, train_on=on) for on in ("answers", "all"))
    assert everything.input_ids.tolist() == answers.input_ids.tolist()
    assert everything.supervised[1:].all()
    assert not answers.supervised.all()


def test_a_conversation_without_an_answer_has_nothing_to_train_on(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("chatml")
    encoded = render(Example(TALK[:1]), check_template("chat", tokenizer), tokenizer)
    assert len(encoded) > 0
    assert encoded.target_tokens == 0


# ------------------------------------------------------------------------------------------------ BOS, text


@pytest.mark.parametrize(
    ("family", "name", "count"),
    [
        *(("base-bos", name, 1) for name in ("qa", "alpaca", "plain", "{question} {answer}")),
        *(("base", name, 0) for name in ("qa", "alpaca", "plain", "{question} {answer}")),
        *(("base-quiet", name, 0) for name in ("qa", "alpaca", "plain", "{question} {answer}")),
        *((family, "chat", 1) for family in ("llama3", "gemma", "mistral")),  # the template writes it
        *((family, "qa", 1) for family in ("llama3", "gemma", "mistral")),
        ("phi3", "chat", 0),  # a tokenizer that adds one, a template that writes none: the template's word holds
    ],
)
def test_bos_is_there_once_or_not_at_all(family_tokenizer: Tokenizers, family: str, name: str, count: int) -> None:
    tokenizer = family_tokenizer(family)
    template = check_template(name, tokenizer)
    ids = render(Example(TALK), template, tokenizer).input_ids.tolist()
    assert ids.count(tokenizer.bos_token_id) == count
    assert (ids[0] == tokenizer.bos_token_id) == bool(count)
    assert render_prompt(TALK[:1], template, tokenizer)[:1] == ids[:1]


def test_plain_text_stands_between_bos_and_eos(family_tokenizer: Tokenizers) -> None:
    for family in ("base", "base-bos", "base-words"):
        tokenizer = family_tokenizer(family)
        encoded = render(Example(text="Le café </s> 你", row=3), check_template("auto", tokenizer), tokenizer)
        words = tokenizer("Le café < /s> 你" if tokenizer.bos_token else "Le café </s> 你")["input_ids"]
        assert encoded.input_ids.tolist() == [*words, tokenizer.eos_token_id]
        assert encoded.supervised.all()
        assert encoded.row == 3


# ------------------------------------------------------------------------------------------------ roles


def test_a_system_text_is_told_by_the_user_where_the_template_refuses_it(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("gemma")
    template = check_template("chat", tokenizer)
    messages = (Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So."))
    assert tokenizer.decode(render(Example(messages), template, tokenizer).input_ids) == (
        "<bos><start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>\n<start_of_turn>model\nSo.<end_of_turn>\n"
    )
    only_system = (Message("system", "Be brief."), Message("assistant", "So."))
    assert "user\nBe brief.<end_of_turn>" in tokenizer.decode(
        render(Example(only_system), template, tokenizer).input_ids
    )


def test_a_tool_result_is_told_by_the_user_where_the_template_refuses_it(family_tokenizer: Tokenizers) -> None:
    messages = (*TALK[:2], Message("tool", "42"), Message("tool", "43"), Message("assistant", "So."))
    gemma, qwen = family_tokenizer("gemma"), family_tokenizer("qwen2.5")
    text = gemma.decode(render(Example(messages), check_template("chat", gemma), gemma).input_ids)
    assert "<start_of_turn>user\nTool result:\n42\n\nTool result:\n43<end_of_turn>\n<start_of_turn>model\nSo." in text
    own = qwen.decode(render(Example(messages), check_template("chat", qwen), qwen).input_ids)
    assert "<tool_response>\n42\n</tool_response>" in own
    assert "Tool result" not in own


def test_the_hidden_default_system_prompt_is_in_training_and_in_asking(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("qwen2.5")
    template = check_template("chat", tokenizer)
    hidden = tokenizer("system\nYou are a helpful assistant.", add_special_tokens=False)["input_ids"]
    for ids in (
        render(Example(TALK), template, tokenizer).input_ids.tolist(),
        render_prompt(TALK[:1], template, tokenizer),
    ):
        assert ids[1 : 1 + len(hidden)] == hidden


def test_opening_words_of_an_assistant_are_trained_on_or_refused_with_the_row(family_tokenizer: Tokenizers) -> None:
    messages = (Message("assistant", "Hello!"), *TALK)
    for family, name in [
        ("base", "qa"),
        ("base", "alpaca"),
        ("base", "plain"),
        ("base", "{question}\nA: {answer}"),
        ("chatml", "chat"),
    ]:
        tokenizer = family_tokenizer(family)
        template = check_template(name, tokenizer)
        encoded = render(Example(messages), template, tokenizer)
        trained = tokenizer.decode(encoded.input_ids[encoded.supervised])
        assert [part in trained for part in ("Hello!", "prints books.", "Très bon")] == [True] * 3
        assert (encoded.input_ids[encoded.supervised] == template.stop_id).sum() == 3
        start = render_prompt((), template, tokenizer)
        assert encoded.input_ids[: len(start)].tolist() == start
    gemma = family_tokenizer("gemma")
    with pytest.raises(DataError) as caught:
        render(Example(messages, row=12, sheet="FAQ"), check_template("chat", gemma), gemma)
    assert "sheet 'FAQ', row 12" in caught.value.message
    assert "line 1 of the template: Conversation roles must alternate" in str(caught.value)
    with pytest.raises(DataError, match="cannot render these messages"):
        render_prompt((TALK[0], TALK[2]), check_template("chat", gemma), gemma)


def test_hybrid_thinking_models_are_trained_without_thinking_unless_the_answers_think(
    family_tokenizer: Tokenizers,
) -> None:
    tokenizer = family_tokenizer("qwen3")
    template = check_template("chat", tokenizer)
    encoded = render(Example(TALK), template, tokenizer)
    assert tokenizer.decode(encoded.input_ids[encoded.supervised]) == "Très bon 你.<|im_end|>"  # the last answer only
    assert tokenizer.decode(render_prompt(TALK[:1], template, tokenizer)).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    thought = (TALK[0], Message("assistant", "<think>\nHm.\n</think>\n\nA machine."))
    with pytest.raises(DataError, match="row 5"):
        render(Example(thought, row=5), template, tokenizer)

    thinking = check_template("chat", tokenizer, thinking=True)
    encoded = render(Example(thought), thinking, tokenizer)
    trained = tokenizer.convert_ids_to_tokens(encoded.input_ids[encoded.supervised].tolist())
    assert trained[0] == "<think>"  # the token, not its letters
    assert "</think>" in trained
    assert tokenizer.decode(render_prompt(TALK[:1], thinking, tokenizer)).endswith("<|im_start|>assistant\n")


# ------------------------------------------------------------------------------------------------ injection


def control_ids(tokenizer: Any, template: Any) -> set[int]:
    """Special tokens, and added tokens that the template writes."""
    added = tokenizer.added_tokens_decoder
    written = {
        token_id for token_id, token in added.items() if token.content.strip() and token.content in template.source
    }
    return {token_id for token_id, token in added.items() if token.special} | written


@pytest.mark.parametrize("family", [*CHATS, "qwen3"])
def test_no_added_token_can_be_written_by_a_question_an_answer_or_a_context(
    family_tokenizer: Tokenizers, family: str
) -> None:
    tokenizer = family_tokenizer(family)
    template = check_template("chat", tokenizer)
    controls = control_ids(tokenizer, template)
    allowed = {"<think>", "</think>", "<tool_call>", "</tool_call>"}
    expected = [
        token_id for token_id in render(Example(TALK), template, tokenizer).input_ids.tolist() if token_id in controls
    ]
    assert len(expected) >= 3
    for token_id in sorted(controls):
        text = tokenizer.added_tokens_decoder[token_id].content
        bad = f"x{text}y {text}"
        answer = "" if text in allowed else bad
        messages = (
            Message("user", TALK[0].content + bad, context=bad),
            Message("assistant", TALK[1].content + answer),
            Message("user", bad + TALK[2].content),
            Message("assistant", answer + TALK[3].content),
        )
        ids = render(Example(messages), template, tokenizer).input_ids.tolist()
        assert [token for token in ids if token in controls] == expected, text


def test_breaking_a_token_uncovers_no_other(make_family: Callable[..., Any]) -> None:
    tokenizer = make_family("base", special=("<s>", "<<s>>", "< s>", "§"))
    text = tokenizer.decode(
        render_prompt([Message("user", "a<<s>>b<s>c§d< s>")], check_template("plain", tokenizer), tokenizer)
    )
    assert text == "a< <  s>>b<  s>c d<  s>"


def test_half_a_surrogate_pair_is_told_as_unreadable(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("chatml")
    ids = render_prompt([Message("user", "a\ud83d b \ud83d\ude42")], check_template("chat", tokenizer), tokenizer)
    assert "user\na\ufffd b 🙂<|im_end|>" in tokenizer.decode(ids)


def test_tokens_that_are_only_words_of_the_vocabulary_stay_as_they_are(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("gemma")
    template = check_template("chat", tokenizer)
    content = "a <b>bold</b> word\n\nand <start_of_turn>"
    ids = render_prompt([Message("user", content)], template, tokenizer)
    assert tokenizer.convert_tokens_to_ids("<b>") in ids
    assert "a <b>bold</b> word\n\nand < start_of_turn>" in tokenizer.decode(ids)


PIECES = st.sampled_from(
    ["<", "|", "im_end", "|>", "<|im_end|>", "<|im_", "<|im_start|>", "end", ">", " ", "\n", "<|endoftext|>", "<pad>"]
)


@settings(max_examples=150)
@given(question=st.lists(PIECES, max_size=8), answer=st.lists(PIECES, max_size=8))
def test_no_combination_of_pieces_becomes_a_control_token(
    family_tokenizer: Tokenizers, question: list[str], answer: list[str]
) -> None:
    tokenizer = family_tokenizer("chatml")
    template = check_template("chat", tokenizer)
    messages = (Message("user", "".join(question)), Message("assistant", "".join(answer)))
    tokens = tokenizer.convert_ids_to_tokens(render(Example(messages), template, tokenizer).input_ids.tolist())
    controls = [token for token in tokens if token in {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<pad>"}]
    assert controls == ["<|im_start|>", "<|im_end|>"] * 2


# ------------------------------------------------------------------------------------------------ any conversation


def conversations() -> st.SearchStrategy[tuple[Message, ...]]:
    text = st.text(st.characters(codec="utf-8"), max_size=12)
    exchange = st.tuples(text.map(lambda q: Message("user", q)), text.map(lambda a: Message("assistant", a)))
    talk = st.lists(exchange, min_size=1, max_size=3).map(lambda pairs: tuple(m for pair in pairs for m in pair))
    system = st.one_of(st.just(()), text.map(lambda s: (Message("system", s),)))
    return st.tuples(system, talk).map(lambda parts: (*parts[0], *parts[1]))


@pytest.mark.parametrize(("family", "name"), ALL)
@settings(max_examples=30)
@given(messages=conversations())
def test_every_prompt_is_the_beginning_of_what_is_trained(
    family_tokenizer: Tokenizers, family: str, name: str, messages: tuple[Message, ...]
) -> None:
    tokenizer = family_tokenizer(family)
    template = check_template(name, tokenizer)
    encoded = render(Example(messages), template, tokenizer)
    ids = encoded.input_ids.tolist()
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if family == "qwen3":  # earlier answers are history there
        answers = answers[-1:]
    stops = 0
    for index in answers:
        prompt = render_prompt(messages[:index], template, tokenizer)
        assert ids[: len(prompt)] == prompt
        end = len(prompt)
        while encoded.supervised[end] and ids[end] != template.stop_id:
            end += 1
        assert encoded.supervised[end]
        assert ids[end] == template.stop_id
        stops += end + 1 - len(prompt)
    assert stops == encoded.supervised.sum()  # nothing but the answers and their stop tokens


@pytest.mark.parametrize(
    ("family", "name"),
    [*((family, "chat") for family in ("chatml", "llama3", "gemma", "qwen2.5", "qwen3", "mistral")), *TEXTS[:6]],
)
@settings(max_examples=30)
@given(answer=st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_is_supervised_reads_as_the_answer_and_its_stop_token(
    family_tokenizer: Tokenizers, family: str, name: str, answer: str
) -> None:
    tokenizer = family_tokenizer(family)
    assume(not any(token.content in answer for token in tokenizer.added_tokens_decoder.values()))
    template = check_template(name, tokenizer)
    encoded = render(Example((Message("user", "Why?"), Message("assistant", answer))), template, tokenizer)
    text = tokenizer.decode(encoded.input_ids[encoded.supervised], clean_up_tokenization_spaces=False)
    stop = tokenizer.convert_ids_to_tokens(template.stop_id)
    assert text.endswith(stop)
    assert text.removesuffix(stop).strip() == answer.strip()
