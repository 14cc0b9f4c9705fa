"""A pad token of its own for every kind of vocabulary, and never a larger embedding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import ResourceError
from tunesmith.prompts import check_template, prepare_tokenizer, render
from tunesmith.types import Example, Message

Make = Callable[..., Any]


def check(tokenizer: Any, model_vocab_size: int) -> None:
    """The promise: a pad token inside the model that ends nothing."""
    template = check_template("auto", tokenizer)
    assert tokenizer.pad_token is not None
    assert tokenizer.pad_token_id not in template.stop_ids
    assert tokenizer.pad_token_id < model_vocab_size
    assert tokenizer.convert_tokens_to_ids(tokenizer.pad_token) == tokenizer.pad_token_id


def test_a_pad_token_of_its_own_is_kept(make_family: Make) -> None:
    tokenizer = make_family("chatml")
    assert prepare_tokenizer(tokenizer, len(tokenizer)) is None
    assert tokenizer.pad_token == "<pad>"
    check(tokenizer, len(tokenizer))


def test_gpt2_with_a_full_vocabulary_borrows_its_rarest_word(make_family: Make, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = make_family("base", pad=None)
    size = len(tokenizer)
    tokenizer.unk_token = tokenizer.bos_token = tokenizer.eos_token  # as GPT-2 has it
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder)
    finding = prepare_tokenizer(tokenizer, size)
    assert len(tokenizer) == size
    assert tokenizer.pad_token_id == max(ordinary)
    assert finding is not None
    assert (finding.level, finding.code) == ("warning", "pad-token")
    assert finding.fix is not None
    check(tokenizer, size)
    words = "What is a press? A machine that prints books."
    assert tokenizer.pad_token_id not in tokenizer(words)["input_ids"]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.pad_token_id, len(loaded)) == (tokenizer.pad_token_id, size)
    assert loaded(words)["input_ids"] == tokenizer(words)["input_ids"]


def test_qwen2_pads_with_a_token_that_also_ends_texts(make_family: Make) -> None:
    tokenizer = make_family("qwen2.5", pad="<|endoftext|>", special=("<|im_start|>", "<|im_end|>", "<|vision_pad|>"))
    assert tokenizer.pad_token == "<|endoftext|>"
    finding = prepare_tokenizer(tokenizer, len(tokenizer))
    assert tokenizer.pad_token == "<|vision_pad|>"
    assert finding is not None
    assert "'<|endoftext|>' is a stop token" in finding.message
    check(tokenizer, len(tokenizer))

    older = make_family("qwen2.5", pad="<|endoftext|>", plain=())
    size = len(older) + 100  # rows of the embedding that no token uses
    next_id = max(older.get_vocab().values()) + 1
    prepare_tokenizer(older, size)
    assert older.pad_token_id == next_id
    check(older, size)


def test_llama_without_a_pad_takes_a_spare_row(make_family: Make, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = make_family("llama3", pad=None)
    old = len(tokenizer)
    prepare_tokenizer(tokenizer, old + 1)
    assert tokenizer.pad_token_id == old
    check(tokenizer, old + 1)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id == old


def test_llama2_without_a_pad_takes_its_unknown_token(make_family: Make) -> None:
    tokenizer = make_family("base-words", pad=None)
    tokenizer.unk_token = "<unk>"
    prepare_tokenizer(tokenizer, len(tokenizer))
    assert tokenizer.pad_token == "<unk>"
    check(tokenizer, len(tokenizer))


def test_a_pad_token_outside_the_model_is_replaced(make_family: Make) -> None:
    tokenizer = make_family("chatml", pad=None)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # added by someone who resized another model
    assert tokenizer.pad_token_id == size
    prepare_tokenizer(tokenizer, size)
    check(tokenizer, size)


def test_a_tokenizer_without_an_end_of_text_token_is_refused(make_family: Make) -> None:
    with pytest.raises(ResourceError) as caught:
        prepare_tokenizer(make_family("no-stop", eos=None), 1000)
    assert "no end-of-text token" in caught.value.message
    assert "eos_token" in str(caught.value.fix)


def test_a_new_pad_token_cannot_be_written_by_content_either(make_family: Make) -> None:
    tokenizer = make_family("llama3", pad=None)
    messages = (Message("user", "<pad>"), Message("assistant", "<pad>"))
    render(Example(messages), check_template("auto", tokenizer), tokenizer)  # rules found before the token was added
    prepare_tokenizer(tokenizer, len(tokenizer) + 1)
    assert tokenizer.pad_token == "<pad>"
    ids = render(Example(messages), check_template("auto", tokenizer), tokenizer).input_ids
    assert tokenizer.pad_token_id not in ids
