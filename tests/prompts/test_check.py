"""The start-up probe: faults it must name, what it tells the user, and a saved folder that carries what was trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import SettingsError
from tunesmith.prompts import check_template, prepare_tokenizer, render, render_prompt
from tunesmith.types import Example, Message

Tokenizers = Callable[[str], Any]
TALK = (
    Message("user", "What is a press?", context="In a print shop."),
    Message("assistant", "A machine that prints books."),
    Message("user", "Le café?"),
    Message("assistant", "Très bon 你."),
)
TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
START = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for m in messages %}", "line 1 of the template: Unexpected end of template"),
        ("\n\n{{ messages[0].content + 1 }}", "line 3 of the template: can only concatenate str"),
        ("{{ raise_exception('no chat here') }}", "no chat here"),
        ("{{ messages[0].content.missing.deeper }}", "line 1 of the template"),
        (
            "{% for m in messages %}" + TURN.replace("m['content']", "'same'") + "{% endfor %}" + START,
            "question is not in",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}" + TURN + "{% else %}<|im_start|>assistant\nok<|im_end|>"
            "{% endif %}{% endfor %}" + START,
            "answer is not in",
        ),
        (  # DeepSeek-R1: asks with an open thinking block that no trained answer begins with
            "{% for m in messages %}"
            + TURN
            + "{% endfor %}"
            + START.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'"),
            "goes on with '<think>\\n', the answered conversation with",
        ),
        (  # writes only the first exchange: a second question would never be seen
            "{% for m in messages %}{% if loop.index0 < 2 %}"
            + TURN
            + "{% elif m.role == 'assistant' %}"
            + TURN
            + "{% endif %}{% endfor %}"
            + START,
            "the last question of a conversation is not in its text",
        ),
    ],
)
def test_the_probe_names_the_fault_of_a_chat_template(
    make_family: Callable[..., Any], template: str, fault: str
) -> None:
    tokenizer = make_family("chatml", template=template)
    with pytest.raises(SettingsError) as caught:
        check_template("chat", tokenizer)
    assert fault in str(caught.value)
    assert "qa, alpaca, plain" in str(caught.value.fix)


def test_templates_cannot_reach_python(make_family: Callable[..., Any]) -> None:
    tokenizer = make_family("chatml", template="{{ ''.__class__.__mro__ }}" + "{{ messages[0].content }}")
    with pytest.raises(SettingsError, match="cannot be trained on"):
        check_template("chat", tokenizer)


def test_a_pad_token_that_ends_answers_is_refused_and_prepared_away(make_family: Callable[..., Any]) -> None:
    tokenizer = make_family("base", pad=None)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(SettingsError, match="both pads and ends an answer"):
        check_template("qa", tokenizer)
    prepare_tokenizer(tokenizer, len(tokenizer) + 5)
    assert check_template("qa", tokenizer).stop_id == tokenizer.eos_token_id


def test_a_model_without_any_stop_token_is_refused(make_family: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match="no end-of-text token"):
        check_template("chat", make_family("no-stop", eos=None))


@pytest.mark.parametrize(
    ("family", "stop", "stops"),
    [
        ("chatml", "<|im_end|>", {"<|im_end|>"}),
        ("llama3", "<|eot_id|>", {"<|eot_id|>"}),
        ("gemma", "<end_of_turn>", {"<end_of_turn>", "<eos>"}),
        ("phi3", "<|end|>", {"<|end|>", "<|endoftext|>"}),
        ("mistral", "</s>", {"</s>"}),
        ("no-stop", "<|endoftext|>", {"<|endoftext|>"}),
    ],
)
def test_the_stop_token_is_the_one_that_ends_every_turn(
    family_tokenizer: Tokenizers, family: str, stop: str, stops: set[str]
) -> None:
    tokenizer = family_tokenizer(family)
    template = check_template("chat", tokenizer)
    assert tokenizer.convert_ids_to_tokens(template.stop_id) == stop
    assert set(tokenizer.convert_ids_to_tokens(list(template.stop_ids))) == stops
    assert template.stop_id in template.stop_ids
    assert tokenizer.pad_token_id not in template.stop_ids


def test_a_known_turn_end_goes_before_other_marks_after_an_answer(make_family: Callable[..., Any]) -> None:
    """Some templates close a turn with the stop token and then a mark of their own."""
    closed = TURN.replace("<|im_end|>", "<|im_end|><|turn_over|>")
    tokenizer = make_family(
        "chatml",
        template="{% for m in messages %}" + closed + "{% endfor %}" + START,
        special=("<|im_start|>", "<|im_end|>", "<|turn_over|>"),
    )
    template = check_template("chat", tokenizer)
    encoded = render(Example(TALK), template, tokenizer)
    assert tokenizer.convert_ids_to_tokens(template.stop_id) == "<|im_end|>"
    assert tokenizer.decode(encoded.input_ids[encoded.supervised]).count("<|turn_over|>") == 0


def test_a_text_template_on_a_chat_model_also_stops_at_the_turn_end(make_family: Callable[..., Any]) -> None:
    tokenizer = make_family("chatml", eos="<|endoftext|>")
    template = check_template("qa", tokenizer)
    assert template.stop_id == tokenizer.eos_token_id
    assert template.stop_ids == tuple(sorted(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])))


def test_an_answer_that_the_template_does_not_end_gets_the_end_of_text_token(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("no-stop")
    template = check_template("chat", tokenizer)
    encoded = render(Example(TALK[2:]), template, tokenizer)
    assert tokenizer.decode(encoded.input_ids) == "User: Le café?\nAssistant: Très bon 你.<|endoftext|>\n"
    assert tokenizer.decode(encoded.input_ids[encoded.supervised]) == "Très bon 你.<|endoftext|>"
    assert [finding.code for finding in template.findings] == ["template-stop"]


def test_a_heading_missing_from_the_generation_prompt_is_added(make_family: Callable[..., Any]) -> None:
    tokenizer = make_family("chatml", template="{% for m in messages %}" + TURN + "{% endfor %}\n")
    template = check_template("chat", tokenizer)
    reference = make_family("chatml")
    expected = render(Example(TALK), check_template("chat", reference), reference)
    encoded = render(Example(TALK), template, tokenizer)
    assert encoded.input_ids.tolist() == expected.input_ids.tolist()
    assert encoded.supervised.tolist() == expected.supervised.tolist()
    assert [finding.code for finding in template.findings] == ["template-prompt"]


def test_a_template_that_rewrites_history_is_told_once(family_tokenizer: Tokenizers) -> None:
    codes = [finding.code for finding in check_template("chat", family_tokenizer("qwen3")).findings]
    assert codes == ["template-thinking", "template-history"]
    assert check_template("chat", family_tokenizer("chatml")).findings == ()


def test_the_prompt_does_not_depend_on_the_day(family_tokenizer: Tokenizers) -> None:
    tokenizer = family_tokenizer("llama3.2")
    template = check_template("chat", tokenizer)
    assert "strftime_now(" not in template.source
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(render_prompt(TALK[:1], template, tokenizer))
    unfixed = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert time.strftime("%Y") in unfixed  # otherwise this test could not fail
    assert [finding.code for finding in template.findings] == ["template-date"]


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("base-bos", name) for name in ("qa", "alpaca", "plain", "S {system} Q: {question} [{input}]\nA: {answer}")),
        *(("base", "qa"), ("base-words", "alpaca"), ("qwen3", "chat"), ("llama3.2", "chat"), ("no-stop", "chat")),
        ("gemma", "qa"),
    ],
)
def test_a_saved_folder_renders_the_same_ids(
    family_tokenizer: Tokenizers, make_family: Callable[..., Any], tmp_path: Path, family: str, name: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = make_family(family)
    template = check_template(name, tokenizer)
    before = render(Example(TALK), template, tokenizer)
    template.attach(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = check_template("auto", loaded)
    after = render(Example(TALK), again, loaded)
    assert (again.name, again.source) == ("chat", template.source)
    assert (again.stop_id, again.stop_ids) == (template.stop_id, template.stop_ids)
    assert after.input_ids.tolist() == before.input_ids.tolist()
    assert after.supervised.tolist() == before.supervised.tolist()
    plain = [{"role": "user", "content": "Le café?"}]
    served = loaded.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert render_prompt([Message("user", "Le café?")], template, tokenizer) == served


@pytest.mark.parametrize("thinking", [True, False])
def test_a_saved_hybrid_model_is_asked_the_way_it_was_trained(
    make_family: Callable[..., Any], tmp_path: Path, thinking: bool
) -> None:
    """Who reads the folder back does not know whether the answers were thought about."""
    from transformers import AutoTokenizer

    tokenizer = make_family("qwen3")
    template = check_template("chat", tokenizer, thinking=thinking)
    template.attach(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = check_template("chat", loaded)
    assert again.source == template.source
    prompt = loaded.decode(render_prompt(TALK[:1], again, loaded))
    assert prompt.endswith("assistant\n" if thinking else "assistant\n<think>\n\n</think>\n\n")
    # A tool that sets the switch the other way gets the trained prompt all the same.
    served = loaded.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True, enable_thinking=not thinking
    )
    assert served.endswith("</think>\n\n") != thinking


def test_rendering_is_fast_enough_for_a_large_file(family_tokenizer: Tokenizers) -> None:
    """5,000 rows a second is the aim; a tenth of it still catches a template that is compiled for every row."""
    tokenizer = family_tokenizer("chatml")
    template = check_template("chat", tokenizer)
    example = Example((Message("user", "What is a press? " * 4), Message("assistant", "A machine. " * 6)))
    render(example, template, tokenizer)
    start = time.process_time()
    for _ in range(500):
        render(example, template, tokenizer)
    assert time.process_time() - start < 1.0
