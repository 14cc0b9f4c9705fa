"""A model from scratch: what it leaves, what it measures, and that it goes on where it was stopped."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    PreTrainedModel,
)

from tests.conftest import stop_at
from tunesmith.api import compare, evaluate, open_session, pretrain, run_config, train, verbs
from tunesmith.config import RunConfig, dump_config, load_config
from tunesmith.errors import ResourceError, SettingsError, Stopped
from tunesmith.evaluate import mean_nll
from tunesmith.model import new_tokenizer
from tunesmith.runs import Run
from tunesmith.train import Event, PretrainPlan
from tunesmith.train.corpus_blocks import document_ids
from tunesmith.train.pretrain import _few_steps, _resolve

ModelDir = Callable[[str], Path]


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


def test_it_learns_and_leaves_a_plain_model(config: RunConfig, capfd: pytest.CaptureFixture[str]) -> None:
    losses: list[float] = []
    plans: list[PretrainPlan] = []
    result = pretrain(config, announce=plans.append, observers=[lambda event: losses.extend(_loss(event))])
    (plan,) = plans
    assert (len(plan.corpus.pairs), plan.steps, plan.measures_base) == (5, result.steps, False)
    assert "padded" not in {finding.code for finding in plan.findings}
    assert plan.tokens == result.run.manifest["train_tokens"]
    assert capfd.readouterr().err == ""  # no progress bar but the program's own
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
    with pytest.raises(SettingsError, match="scratch was pre-trained on texts and has no test rows"):
        evaluate(str(result.run.path))


def test_a_run_is_a_base_for_who_asks_it(config: RunConfig, tmp_path: Path) -> None:
    """It has none beside it: held against itself, it would be no better than its base."""
    run = pretrain(config).run
    session = open_session(str(run.path))
    assert not session.is_tuned
    (tmp_path / "faq.csv").write_text("question,answer\n" + "".join(f"What is {n}?,It is {n}.\n" for n in range(5)))
    with pytest.raises(SettingsError, match="was pre-trained on texts and has no test rows"):
        evaluate(str(run.path), data=str(tmp_path / "faq.csv"))
    with pytest.raises(SettingsError, match="it is a base itself, and has none beside it") as refused:
        compare(["base", str(run.path)], data=str(tmp_path / "faq.csv"))
    assert refused.value.cause == "it began from scratch"
    found = compare(["builtin:nano", str(run.path)], data=str(tmp_path / "faq.csv"), folder=tmp_path / "out")
    assert len(found.contest.rows) == 5
    assert [one.code for one in found.findings] == ["not_checked"]


def test_settings_of_an_adapter_are_refused(config: RunConfig) -> None:
    with pytest.raises(SettingsError, match=r"every weight and has no method\.r and no method\.layers") as refused:
        pretrain(config.replaced("method.layers", "0", "flag").replaced("method.r", 4, "flag"))
    assert refused.value.fix == "leave them out"


def test_settings_that_do_not_go_together_are_refused_however_they_were_made(config: RunConfig) -> None:
    with pytest.raises(SettingsError, match="there are none: list them"):
        pretrain(config.replaced("train.schedule", "phases", "a script"))
    assert not Path("runs").exists()


def test_a_quantised_model_is_refused(config: RunConfig) -> None:
    with pytest.raises(SettingsError, match=r"every weight and has no model\.quantize"):
        pretrain(config.replaced("model.quantize", "nf4", "flag"))


def test_a_model_to_go_on_from_is_not_ignored(config: RunConfig) -> None:
    with pytest.raises(SettingsError, match=r"model\.path is builtin:nano, and pre-training makes") as refused:
        pretrain(config.replaced("model.path", "builtin:nano", "flag"))
    assert refused.value.fix == "leave it out; set pretrain.base to go on from a model"


def test_stopped_and_resumed_equals_uninterrupted(config: RunConfig) -> None:
    whole = pretrain(config)
    parts = config.replaced("name", "parts", "test")

    with pytest.raises(Stopped) as caught:
        pretrain(parts, observers=[stop_at(5)])
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert "tunesmith pretrain --resume" in str(caught.value)
    with pytest.raises(SettingsError, match="cannot be resumed") as refused:
        pretrain(parts.replaced("pretrain.layers", 3, "test"), resume="parts")
    assert refused.value.problems == ("pretrain.layers was 2, is 3",)
    resumed = pretrain(parts, resume="parts")
    assert resumed.bits_per_byte == whole.bits_per_byte
    assert resumed.steps == whole.steps == 12


@pytest.mark.parametrize("has_tokenizer", [False, True])
def test_a_run_that_another_process_trains_is_left_as_it_is(has_tokenizer: bool, config: RunConfig) -> None:
    run = Run.create("runs/scratch", config_text=dump_config(config), manifest={"kind": "pretrain"})
    if has_tokenizer:
        new_tokenizer([Path("docs.jsonl").read_text()], config.pretrain).save_pretrained(run.path / "tokenizer")
    with run.claimed():
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        with pytest.raises(SettingsError, match="being trained by another process"):
            pretrain(config.replaced("train.max_steps", 3, "flag"), resume="scratch")
        assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_signal_during_the_measurement_puts_it_off(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain(config.replaced("train.tokens_per_batch", 64, "test"))
    passes = 0

    def signalled(*arguments: Any, **named: Any) -> Any:
        nonlocal passes
        passes += is_last
        if passes == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return mean_nll(*arguments, **named)

    def watch(event: Event) -> None:
        nonlocal is_last
        is_last = event.kind == "end"

    is_last = False
    parts = config.replaced("name", "parts", "test").replaced("train.tokens_per_batch", 64, "test")
    monkeypatch.setattr(verbs, "mean_nll", signalled)
    with pytest.raises(Stopped, match="before the measurement") as caught:
        pretrain(parts, observers=[watch])
    assert passes == 2
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert caught.value.fix == "resume with: tunesmith pretrain --resume runs/parts"
    assert Run.open("parts").manifest["status"] == "stopped"
    steps: list[Event] = []
    monkeypatch.setattr(verbs, "mean_nll", mean_nll)
    resumed = pretrain(run_config("parts"), resume="parts", observers=[steps.append])
    assert not {event.kind for event in steps} & {"train", "eval", "checkpoint"}
    assert resumed.bits_per_byte == whole.bits_per_byte


def test_the_run_keeps_what_was_resolved(config: RunConfig) -> None:
    run = pretrain(config.replaced("train.max_steps", 2, "test")).run
    kept = load_config(stored=run.config_path)
    assert kept.model.path == str(run.model_dir.absolute())
    assert (kept.train.compile, kept.train.eval_steps, kept.train.save_steps) == ("off", 1, 1)
    assert kept.train.native == "off"  # it computes in float32
    assert kept.train.tokens_per_batch
    assert kept.model.dtype in ("float32", "bfloat16")
    assert kept.origin("model.dtype").startswith(f"detected: {kept.model.dtype}: ")


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
    assert first.base_bits_per_byte is None
    assert second.base_bits_per_byte == pytest.approx(first.bits_per_byte, rel=1e-2)  # its weights are in bfloat16
    assert not (second.run.path / "tokenizer").exists()
    before, after = (AutoTokenizer.from_pretrained(result.run.model_dir) for result in (first, second))
    assert before.get_vocab() == after.get_vocab()
    assert before.chat_template == after.chat_template
    epochs = [float(event.values["epoch"] or 0) for event in seen if event.kind == "train"]
    assert epochs[0] > 0.5
    assert second.run.manifest["base"] == str(first.run.model_dir.absolute())
    for run in (first.run, second.run):  # how a tokenizer was loaded is no property of it
        kept = json.loads((run.model_dir / "tokenizer_config.json").read_text())
        assert not {"is_local", "local_files_only", "name_or_path"} & kept.keys()


def test_a_run_from_a_base_stopped_and_resumed_equals_uninterrupted(config: RunConfig) -> None:
    further = _further(config, pretrain(config).run.model_dir, epochs_before=1.0)
    whole = pretrain(further)

    with pytest.raises(Stopped):
        pretrain(further.replaced("name", "parts", "test"), observers=[stop_at(5)])
    assert pretrain(further, resume="parts").bits_per_byte == whole.bits_per_byte


def test_it_is_resumed_from_another_folder(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    base = pretrain(config).run.model_dir
    assert not base.is_absolute()
    further = _further(config, base).replaced("pretrain.documents", ["doc*.jsonl"], "test")
    whole = pretrain(further)

    def stop_at_five(event: Event) -> None:
        if event.kind == "train" and event.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        pretrain(further.replaced("name", "parts", "test"), observers=[stop_at_five])
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert pretrain(run_config("../runs/parts"), resume="../runs/parts").bits_per_byte == whole.bits_per_byte


@pytest.mark.parametrize("name", ["scratch", "runs/scratch"])
def test_a_run_in_the_place_of_a_base_is_told(config: RunConfig, name: str) -> None:
    pretrain(config.replaced("train.max_steps", 1, "test"))
    with pytest.raises(SettingsError, match=f"pretrain.base is {name}, which is a run and not a model") as refused:
        pretrain(_further(config, name))
    assert refused.value.fix == "name its model: runs/scratch/model"
    with pytest.raises(SettingsError, match=f"model.path is {name}, which is a run and not a model") as refused:
        train(load_config(overrides={"model.path": name, "data.path": "qa.jsonl"}))
    assert refused.value.fix == "name its model: runs/scratch/model"


def test_another_tokenizer_of_the_base_is_noticed_when_it_is_resumed(config: RunConfig, base: Path) -> None:
    further = _further(config, base).replaced("pretrain.qa", [], "test")

    with pytest.raises(Stopped):
        pretrain(further, observers=[stop_at(5)])
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    ids["a"], ids["e"] = ids["e"], ids["a"]
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SettingsError, match="cannot be resumed") as refused:
        pretrain(further, resume="further")
    assert [problem.split(" was ")[0] for problem in refused.value.problems] == ["token ids SHA-256"]


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


@pytest.fixture
def base(tiny_model_dir: ModelDir, tmp_path: Path) -> Path:
    """A base whose tokenizer has no chat template."""
    folder = Path(shutil.copytree(tiny_model_dir("llama"), tmp_path / "base"))
    (folder / "chat_template.jinja").unlink()
    return folder


def test_documents_alone_need_no_chat_template(config: RunConfig, base: Path) -> None:
    further = _further(config, base)
    with pytest.raises(SettingsError, match=r"base has no chat template, which pretrain.qa is rendered with"):
        pretrain(further)
    assert not Path("runs").exists()
    assert pretrain(further.replaced("pretrain.qa", [], "test")).steps == 12


def test_a_base_that_pads_with_its_stop_token_learns_pairs(config: RunConfig, tiny_model_dir: ModelDir) -> None:
    folder = Path(shutil.copytree(tiny_model_dir("llama"), "padded"))
    _change(folder / "tokenizer_config.json", pad_token="<|endoftext|>")
    result = pretrain(_further(config, folder))
    assert AutoTokenizer.from_pretrained(result.run.model_dir).pad_token == "<|pad|>"


def test_a_base_whose_context_has_no_end(config: RunConfig, base: Path) -> None:
    bloom = BloomConfig(vocab_size=400, hidden_size=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    BloomForCausalLM(bloom).save_pretrained(base)
    plans: list[PretrainPlan] = []
    assert pretrain(_further(config, base).replaced("pretrain.qa", [], "test"), announce=plans.append).steps == 12
    (told,) = (finding.message for finding in plans[0].findings if finding.code == "padded")
    assert told.startswith("rows are padded to equal length: packing is not proven for the architecture 'bloom'")


@pytest.mark.parametrize(
    ("file", "changes", "problem"),
    [
        ("tokenizer_config.json", {"eos_token": None, "bos_token": None}, "base has no end-of-text token"),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "base is quantised"),
    ],
)
def test_a_base_that_cannot_be_trained_further_is_refused(
    config: RunConfig, base: Path, file: str, changes: dict[str, object], problem: str
) -> None:
    _change(base / file, **changes)
    tokenizer = base / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|endoftext|>", "<|end of text|>"))
    with pytest.raises((SettingsError, ResourceError), match=problem) as refused:
        pretrain(_further(config, base).replaced("pretrain.qa", [], "test"))
    assert refused.value.fix
    assert not Path("runs").exists()


def test_a_tokenizer_of_another_model_is_refused(config: RunConfig, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(100)
    model.save_pretrained(base)
    with pytest.raises(ResourceError, match=r"base writes token \d+, the model has 100"):
        pretrain(_further(config, base).replaced("pretrain.qa", [], "test"))


def test_documents_begin_as_the_base_knows_them(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    (plain,) = document_ids(["press"], tokenizer)
    tokenizer._tokenizer.post_processor = TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 2)])
    tokenizer.bos_token = "<|im_start|>"
    (begun,) = document_ids(["press"], tokenizer)
    assert plain.tolist() == [*tokenizer.encode("press", add_special_tokens=False), 1]
    assert begun.tolist() == [2, *plain.tolist()]


def _change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_base_has_the_rate_of_its_size_or_that_of_reading_on(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9).save_pretrained(
        tmp_path
    )
    for name in ("model.safetensors", "tokenizer.json"):  # config.json has the shapes, and no more is read
        (tmp_path / name).touch()
    assert 1e-5 < (_resolve(load_config(overrides={"pretrain.base": str(tmp_path)})).train.learning_rate or 0) < 1e-4
    assert _resolve(load_config(overrides={"pretrain.base": "builtin:nano"})).train.learning_rate == 2e-4
    assert _resolve(load_config()).train.learning_rate == 2e-3


@pytest.mark.parametrize(
    ("steps", "changed", "is_told"),
    [(3, {}, True), (20, {}, False), (3, {"max_steps": 3}, False), (3, {"gradient_accumulation_steps": 1}, False)],
)
def test_smaller_steps_are_advised_where_there_are_few(steps: int, changed: dict[str, int], is_told: bool) -> None:
    found = _few_steps(load_config(overrides={f"train.{name}": value for name, value in changed.items()}), steps)
    assert [finding.fix for finding in found] == (["--gradient_accumulation_steps 1"] if is_told else [])


@pytest.mark.parametrize(("verb", "where"), [(pretrain, "to"), (train, "float")], ids=["pretrain", "train"])
def test_weights_that_the_device_cannot_hold_are_told(
    verb: Callable[[RunConfig], Any], where: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    rows = {"data.path": "qa.jsonl", "data.drop_duplicates": False}
    tuned = load_config(overrides={"method.name": "full", **rows})
    monkeypatch.setattr(PreTrainedModel, where, full)
    with pytest.raises(ResourceError, match="not enough memory for all weights in float32") as refused:
        verb(config if verb is pretrain else tuned)
    assert refused.value.fix


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
