"""Sessions on runs and on bases; adapters exchanged on a base that stays loaded."""

from __future__ import annotations

import shutil
from itertools import zip_longest

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from tunesmith.api import is_base, open_session, train
from tunesmith.config import load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.model import apply_method, load_base, save_adapter

QUESTION = "What is a press?"


@pytest.fixture
def adapter(tiny_model_dir, tmp_path):
    """adapter("name", seed, arch) -> folder of an adapter with random weights."""

    def make(name, seed, arch="llama", method="lora"):
        base_path = str(tiny_model_dir(arch))
        loaded = load_base(base_path)
        config = load_config(overrides={"method.name": method}).method
        model = apply_method(loaded.model, config, dtype=loaded.dtype)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.5 * torch.randn_like(parameter))
        save_adapter(model, tmp_path / name, tokenizer=loaded.tokenizer, base_path=base_path,
                     base_revision=loaded.revision)  # fmt: skip
        return str(tmp_path / name)

    return make


def answer(session, *, base=False):
    session.set_generation("max_new_tokens", 12)
    return session.answer(session.conversation(QUESTION), base=base)


def test_a_model_without_a_limit_is_trained_and_asked(tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bloom = BloomConfig(vocab_size=400, hidden_size=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    BloomForCausalLM(bloom).save_pretrained("bloom")
    tiny_tokenizer.save_pretrained("bloom")
    rows = [f"What is {number}?,It is {number} sheets" for number in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["question,answer", *rows]))
    settings = {"data.path": "rows.csv", "model.path": "bloom", "train.max_steps": 1, "name": "alibi"}
    train(load_config(overrides=settings))
    session = open_session("alibi")
    assert session.context > 10**9
    assert isinstance(answer(session), str)


def test_a_base_is_asked_as_it_is(tiny_model_dir):
    session = open_session(str(tiny_model_dir("llama")), {"max_new_tokens": 12})
    assert not session.is_tuned
    assert answer(session) == answer(session, base=True) != ""
    ends = []
    text = "".join(session.stream(session.conversation(QUESTION), on_end=ends.append))
    assert [end.text for end in ends] == [text]
    assert len(ends[0].token_ids) <= 12


def test_tuned_and_base_write_side_by_side(adapter):
    """Piece by piece in turn, and one that is left in the middle: neither writes with the other's weights."""
    session = open_session(adapter("first", 1))
    tuned, base = answer(session), answer(session, base=True)
    assert tuned != base
    asked = session.conversation(QUESTION)
    streams = {False: session.stream(asked), True: session.stream(asked, base=True)}
    pieces = [("".join(pair)) for pair in zip(*zip_longest(*streams.values(), fillvalue=""), strict=True)]
    assert pieces == [tuned, base]
    left = session.stream(asked, base=True)
    next(left)
    assert answer(session) == tuned


def test_adapters_are_exchanged_on_the_loaded_base(adapter, tiny_model_dir):
    first, second, third = adapter("first", 1), adapter("second", 2), adapter("third", 3, method="ia3")
    alone = {folder: answer(open_session(folder)) for folder in (first, second, third)}
    session = open_session(str(tiny_model_dir("llama")))
    weights = session.loaded.model.get_input_embeddings().weight
    base = answer(session)
    assert len({base, *alone.values()}) == 4
    for folder in (first, second, third, first):
        session.use_adapter(folder)
        assert answer(session) == alone[folder]
        assert answer(session, base=True) == base
    assert session.loaded.model.get_input_embeddings().weight is weights  # not loaded again
    assert session.config.generate.max_new_tokens == 12


def test_a_refused_adapter_leaves_the_session_as_it_was(adapter, tiny_model_dir, tmp_path):
    session = open_session(adapter("first", 1))
    before = answer(session)
    foreign = adapter("foreign", 1, arch="gpt2")
    with pytest.raises(ResourceError, match="belongs to another base"):
        session.use_adapter(foreign)
    with pytest.raises(SettingsError, match="is a model and not a run"):
        session.use_adapter(str(tiny_model_dir("llama")))
    with pytest.raises(SettingsError, match="there is no run 'nowhere'"):
        session.use_adapter("nowhere")
    damaged = shutil.copytree(adapter("second", 2), tmp_path / "damaged")
    file = damaged / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ResourceError):
        session.use_adapter(str(damaged))
    assert answer(session) == before


def test_settings_out_of_range_are_refused(tiny_model_dir):
    session = open_session(str(tiny_model_dir("llama")))
    with pytest.raises(SettingsError, match="temperature"):
        session.set_generation("temperature", "-1")
    assert session.config.generate.temperature == 0


def test_what_a_name_stands_for(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_base("builtin:nano")
    assert is_base(str(tiny_model_dir("llama")))
    for wrong in ("faq", "org/name", "a/b/c", "no such thing"):
        with pytest.raises(SettingsError, match="there is no run"):
            is_base(wrong)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: "/cache/config.json")
    assert is_base("org/name")
