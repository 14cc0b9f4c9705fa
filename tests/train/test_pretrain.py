"""A model from scratch: what it leaves, what it measures, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from tunesmith.api import pretrain
from tunesmith.config import RunConfig, load_config
from tunesmith.data import Corpus
from tunesmith.errors import SettingsError, Stopped
from tunesmith.train import Event
from tunesmith.train.pretrain import _resolve, _rows
from tunesmith.types import Example, Message


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": f"The press number {n} prints {n * 3} sheets. " * 6}) for n in range(150)]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    (tmp_path / "qa.jsonl").write_text('{"question": "What prints?", "answer": "The press prints."}\n' * 5)
    shape = {"vocab_size": 400, "context": 64, "hidden_size": 32, "intermediate_size": 64, "layers": 2}
    return load_config(
        overrides={
            **{f"pretrain.{name}": value for name, value in shape.items()},
            "pretrain.heads": 4,
            "pretrain.documents": ["docs.jsonl"],
            "pretrain.qa": ["qa.jsonl"],
            "pretrain.holdout": 0.1,
            "name": "scratch",
            "train.max_steps": 12,
            "train.batch_size": 4,
            "train.gradient_accumulation_steps": 1,
            "train.learning_rate": 5e-3,
        }
    )


def test_it_learns_and_leaves_a_plain_model(config: RunConfig) -> None:
    losses: list[float] = []
    result = pretrain(config, observers=[lambda event: losses.extend(_loss(event))])
    assert losses[-1] < losses[0] - 0.5
    assert 0 < result.bits_per_byte < 8
    tokenizer = AutoTokenizer.from_pretrained(result.run.model_dir)
    model = AutoModelForCausalLM.from_pretrained(result.run.model_dir)
    assert model.dtype == torch.bfloat16
    assert model.config.model_type == "llama"
    assert len(tokenizer) == model.config.vocab_size == 400
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")}) == 3
    assert tokenizer.decode(tokenizer("Café, naïve!\n\tok").input_ids) == "Café, naïve!\n\tok"
    assert result.run.manifest["status"] == "finished"
    assert math.isclose(result.run.manifest["bits_per_byte"], result.bits_per_byte)


def test_settings_of_an_adapter_are_refused(config: RunConfig) -> None:
    with pytest.raises(SettingsError, match=r"every weight and has no method\.r and no method\.layers") as refused:
        pretrain(config.replaced("method.layers", "0", "flag").replaced("method.r", 4, "flag"))
    assert refused.value.fix == "leave them out"


def test_stopped_and_resumed_equals_uninterrupted(config: RunConfig) -> None:
    whole = pretrain(config)
    parts = config.replaced("name", "parts", "test")

    def stop_at_five(event: Event) -> None:
        if event.kind == "train" and event.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as caught:
        pretrain(parts, observers=[stop_at_five])
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert "tunesmith pretrain --resume" in str(caught.value)
    resumed = pretrain(parts, resume="parts")
    assert resumed.bits_per_byte == whole.bits_per_byte
    assert resumed.steps == whole.steps == 12


def _further(config: RunConfig, base: Path | str, **settings: float | None) -> RunConfig:
    """A run that goes on from `base`, which has the shape of the fixture."""
    own = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "layers", "heads"))
    kept = {name: value for name, value in config.pretrain.model_dump().items() if name not in own}
    wanted = {f"pretrain.{name}": value for name, value in {**kept, "base": str(base), **settings}.items()}
    train = {f"train.{name}": getattr(config.train, name) for name in ("max_steps", "batch_size", "learning_rate")}
    return load_config(overrides={**wanted, **train, "train.gradient_accumulation_steps": 1, "name": "further"})


def test_a_base_is_trained_further_with_its_own_vocabulary(config: RunConfig) -> None:
    seen: list[Event] = []
    first = pretrain(config)
    further = _further(config, first.run.model_dir, epochs_before=0.5)
    second = pretrain(further, observers=[seen.append])
    assert second.bits_per_byte < first.bits_per_byte - 0.1
    assert not (second.run.path / "tokenizer").exists()
    before, after = (AutoTokenizer.from_pretrained(result.run.model_dir) for result in (first, second))
    assert before.get_vocab() == after.get_vocab()
    assert before.chat_template == after.chat_template
    epochs = [float(event.values["epoch"] or 0) for event in seen if event.kind == "train"]
    assert epochs[0] > 0.5
    assert second.run.manifest["base"] == str(first.run.model_dir)


def test_a_run_from_a_base_stopped_and_resumed_equals_uninterrupted(config: RunConfig) -> None:
    further = _further(config, pretrain(config).run.model_dir, epochs_before=1.0)
    whole = pretrain(further)

    def stop_at_five(event: Event) -> None:
        if event.kind == "train" and event.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        pretrain(further.replaced("name", "parts", "test"), observers=[stop_at_five])
    assert pretrain(further, resume="parts").bits_per_byte == whole.bits_per_byte


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"layers": 3, "vocab_size": 500}, r"own vocabulary and shape: pretrain.vocab_size, pretrain.layers"),
        ({"context": 4096}, "pretrain.context is 4096, but .* reads 1024 tokens at most"),
    ],
)
def test_what_a_base_settles_is_refused(config: RunConfig, settings: dict[str, float], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as refused:
        pretrain(_further(config, "builtin:nano", **settings))
    assert refused.value.fix
    assert not Path("runs").exists()


@pytest.mark.parametrize("path", ["org/name", "builtin:nano"])
def test_a_model_that_would_not_be_read_is_refused(config: RunConfig, path: str) -> None:
    with pytest.raises(SettingsError, match=f"does not read model.path .{path}") as refused:
        pretrain(config.replaced("model.path", path, "flag"))
    assert f"pretrain.base to {path}" in (refused.value.fix or "")
    written = config.replaced("model.path", "builtin:nano", "mine.yaml:3")  # as in a file of tunesmith init
    assert _resolve(written).model.path == "builtin:nano"


def test_a_base_without_a_chat_template_writes_pairs_as_train_would(
    config: RunConfig, tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_model_dir("gpt2"), tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    assert pretrain(_further(config, base)).steps == 12
    pair = Example(messages=(Message("user", "Why?"), Message("assistant", "So.")))
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows, _ = _rows(Corpus(["A text."], ["Held out."], [pair], ""), tokenizer, config)
    assert "### Question: Why?\n\n### Answer: So." in tokenizer.decode(rows[0].input_ids)


def test_a_base_has_the_rate_of_its_size(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9).save_pretrained(
        tmp_path
    )
    for name in ("model.safetensors", "tokenizer.json"):  # config.json has the shapes, and no more is read
        (tmp_path / name).touch()
    assert 1e-5 < (_resolve(load_config(overrides={"pretrain.base": str(tmp_path)})).train.learning_rate or 0) < 1e-4
    assert _resolve(load_config()).train.learning_rate == 2e-3


def test_a_new_model_has_no_epochs_before(config: RunConfig) -> None:
    with pytest.raises(SettingsError, match="a new model has no epochs before") as refused:
        pretrain(config.replaced("pretrain.epochs_before", 1.0, "flag"))
    assert refused.value.fix == "leave out pretrain.epochs_before, or set pretrain.base"


def _loss(event: Event) -> list[float]:
    return [float(event.values["loss"] or 0)] if event.kind == "train" else []


def test_phases_bring_their_own_peak() -> None:
    phases = [{"name": "only", "until": 1.0, "from": 3e-3, "to": 1e-3}]
    config = load_config(overrides={"train.schedule": "phases", "train.phases": phases})
    assert _resolve(config).train.learning_rate == 3e-3
    assert _resolve(load_config()).train.learning_rate != 3e-3
