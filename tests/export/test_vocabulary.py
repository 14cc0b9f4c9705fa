"""Vocabularies: recognised exactly or refused, and tokenising in llama.cpp as they do in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHATML, SENTENCES, make_model, make_tokenizer
from tests.export.pieces import STYLES, piece_tokenizer
from tunesmith.api import export
from tunesmith.errors import SettingsError
from tunesmith.export.evidence import STANDING
from tunesmith.export.vocabulary import PRE_TOKENIZERS, read_vocabulary
from tunesmith.prompts import check_template
from tunesmith.runs import Run

HARD = [
    "Hello  world!\n\n\n  1234567 it's we'LL I'VE DON'T \t x_y-z (a+b)*c/d :-) ... \r\n end   ",
    "Où ça? ÉTÉ naïve ﬁn Straße ½ ² 日本語 42年 Привет мир नमस्ते مرحبا 한국어 🙂👩\u200d👧",
    *(message.content for messages in STANDING.values() for message in messages),
]


def byte_tokenizer(parts: tuple[str, ...], ignore_merges: bool) -> Any:
    """A byte-level tokenizer trained with one of the pre-tokenizers of the table."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made = {
        "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
        "digits": lambda: pre_tokenizers.Digits(individual_digits=True),
    }
    steps = [made[part]() if part in made else pre_tokenizers.Split(Regex(part), "isolated") for part in parts]
    if "gpt-2" not in parts:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*SENTENCES, *HARD] * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize(("known", "name"), PRE_TOKENIZERS.items(), ids=list(PRE_TOKENIZERS.values()))
def test_llama_cpp_splits_as_the_pre_tokenizer_of_that_name(
    known: tuple[tuple[str, ...], bool], name: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    from tunesmith.export.gguf import write_model
    from tunesmith.export.llamacpp import LlamaCpp
    from tunesmith.model import open_trained

    tokenizer = byte_tokenizer(*known)
    vocabulary = read_vocabulary(tokenizer, check_template("chat", tokenizer), size=len(tokenizer))
    assert vocabulary.pre == name
    make_model("llama", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_model(tmp_path / "x.gguf", open_trained(tmp_path), vocabulary, some_facts(), file_type="f16")
    file = LlamaCpp(tmp_path / "x.gguf", context=64)
    try:
        for text in HARD:
            assert file.tokenize(text) == tokenizer.encode(text, add_special_tokens=False), text
    finally:
        file.close()


def some_facts() -> Any:
    from tunesmith.export import CardFacts

    return CardFacts(
        name="tiny",
        base="org/tiny",
        base_kind="hub",
        method="full",
        steps=1,
        epochs=1,
        seed=1,
        data_files=(("a.csv", "00"),),
        rows={},
        template="chat",
        stop_ids=(1,),
        version="0",
    )


@pytest.mark.parametrize("style", STYLES)
def test_pieces_are_verified(style: str, tuned: Callable[..., Run], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    tokenizer = piece_tokenizer(style)
    assert tokenizer.decode(tokenizer.encode(HARD[1], add_special_tokens=False)).strip() == HARD[1]
    base = tmp_path / style
    make_model(style, len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    run = tuned(str(base), **{"method.name": "full"})
    result = export(str(run.path), out=tmp_path / "out", to=["gguf"], quantize=["f32"], prompts=6)
    (product,) = result.products
    assert product.verdict.status == "verified", product.verdict.faults


def changed(change: Callable[[dict[str, Any]], None]) -> Any:
    from tokenizers import Tokenizer

    tokenizer = make_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    change(content)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "its pre-tokenizer is none"),
        (lambda c: c["model"].update(ignore_merges=True), "words that are tokens taken whole"),
        (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "its pre-tokenizer is none"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "it normalises texts"),
        (lambda c: c["added_tokens"][2].update(lstrip=True), "the white space before them"),
        (lambda c: c["added_tokens"][2].update(rstrip=True), "swallow the white space after them"),
    ],
)
def test_what_llama_cpp_would_do_otherwise_is_refused(change: Callable[[dict[str, Any]], None], problem: str) -> None:
    template = check_template("chat", make_tokenizer())
    tokenizer = changed(change)
    with pytest.raises(SettingsError) as caught:
        read_vocabulary(tokenizer, template, size=len(tokenizer))
    assert any(problem in one for one in caught.value.problems), caught.value.problems


def test_pieces_that_sentencepiece_would_join_otherwise_are_refused() -> None:
    tokenizer = piece_tokenizer("llama")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    lost = content["model"]["merges"].pop(5)
    from tokenizers import Tokenizer

    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    template = check_template("chat", tokenizer)
    with pytest.raises(SettingsError) as caught:
        read_vocabulary(tokenizer, template, size=len(tokenizer))
    assert repr("".join(lost)) in caught.value.problems[0]


def test_the_built_in_model_is_recognised() -> None:
    from tunesmith.model import load_base

    tokenizer = load_base("builtin:nano").tokenizer
    found = read_vocabulary(tokenizer, check_template("chat", tokenizer), size=8192)
    assert (found.model, found.pre, found.add_bos, len(found.tokens)) == ("gpt2", "gpt-2", False, 8192)
    assert found.ids["eos"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
