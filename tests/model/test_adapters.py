"""Apply, train two steps, save, load, merge: for every architecture and method, against plain PEFT and transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tunesmith.config import MethodConfig
from tunesmith.errors import ResourceError, TrainingError
from tunesmith.model import (
    LoadedModel,
    apply_method,
    load_adapter,
    load_base,
    load_trained,
    merge,
    save_adapter,
    token_nll,
)
from tunesmith.types import Batch

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"]
PEFT_WARNING = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def snapshot(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def train_two_steps(model: Any, batch: Batch) -> None:
    """Two, because a LoRA A matrix has no gradient while B is still zero."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        token_nll(model, batch).sum().backward()
        optimizer.step()
    model.eval()


def tune(base: LoadedModel, batch: Batch, method: MethodConfig | None = None) -> Any:
    model = apply_method(base.model, method or MethodConfig(name="lora", r=4), dtype=base.dtype)
    train_two_steps(model, batch)
    return model


@pytest.fixture
def adapter(tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch) -> Path:
    """A trained adapter in tmp_path/run/model, its base beside it in tmp_path/base."""
    base_folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "base")
    base = load_base(str(base_folder), dtype="float32")
    model = tune(base, batch)
    folder = tmp_path / "run" / "model"
    save_adapter(model, folder, tokenizer=base.tokenizer, base_path=str(base_folder), base_revision=base.revision)
    return folder


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@PEFT_WARNING
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_lora_moves_the_adapter_only_and_comes_back_whole(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch, logits_of: Any, arch: str
) -> None:
    path = str(tiny_model_dir(arch))
    base = load_base(path, dtype="float32")
    base_logits = logits_of(base.model, batch)
    model = apply_method(base.model, MethodConfig(name="lora", r=4), dtype=base.dtype)
    before = snapshot(model)
    train_two_steps(model, batch)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("lora_" in name), name
    tuned_logits = logits_of(model, batch)
    assert (tuned_logits - base_logits).abs().max() > 1e-2

    save_adapter(model, tmp_path / "model", tokenizer=base.tokenizer, base_path=path, base_revision=base.revision)
    kept = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert not {"is_local", "local_files_only"} & kept.keys()  # how it was loaded is no property of it
    with safe_open(tmp_path / "model" / "adapter_model.safetensors", framework="pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118  # not a dict

    loaded = load_adapter(tmp_path / "model", dtype="float32")
    assert isinstance(loaded.model, PeftModel)
    assert not loaded.model.training
    assert (loaded.path, loaded.revision) == (str(tmp_path / "model"), base.revision)
    assert torch.equal(logits_of(loaded.model, batch), tuned_logits)
    with loaded.model.disable_adapter():
        assert torch.equal(logits_of(loaded.model, batch), base_logits)

    plain_base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain_base, str(tmp_path / "model"))
    torch.testing.assert_close(logits_of(plain, batch), tuned_logits, atol=1e-5, rtol=1e-5)

    merged = merge(loaded.model)
    assert not isinstance(merged, PeftModel)
    assert not any("lora" in name for name, _ in merged.named_modules())
    merged_logits = logits_of(merged, batch)
    torch.testing.assert_close(merged_logits, tuned_logits, atol=1e-5, rtol=1e-5)
    assert (merged_logits - base_logits).abs().max() > 1e-2
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.equal(logits_of(again, batch), merged_logits)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_full_moves_everything_and_comes_back_whole(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch, logits_of: Any, arch: str
) -> None:
    base = load_base(str(tiny_model_dir(arch)), dtype="float32")
    model = apply_method(base.model, MethodConfig(name="full"), dtype=base.dtype)
    before = snapshot(model)
    train_two_steps(model, batch)
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []
    tuned_logits = logits_of(model, batch)

    save_adapter(model, tmp_path / "model", tokenizer=base.tokenizer, base_path="unused")
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(before)  # tied weights once, nothing left out
    loaded = load_adapter(tmp_path / "model", dtype="float32")
    assert not isinstance(loaded.model, PeftModel)
    assert torch.equal(logits_of(loaded.model, batch), tuned_logits)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert torch.equal(logits_of(plain, batch), tuned_logits)
    assert merge(loaded.model) is loaded.model


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "gpt_neox"])
def test_whole_weights_of_an_earlier_run_come_back_unrounded(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch, arch: str
) -> None:
    """In GPT-NeoX the head has another name in the file than in the model."""
    base = load_base(str(tiny_model_dir(arch)), dtype="float32")
    model = apply_method(base.model, MethodConfig(name="full"), dtype=base.dtype)
    train_two_steps(model, batch)
    save_adapter(model, tmp_path / "model", tokenizer=base.tokenizer, base_path="unused")
    again = load_base(str(tmp_path / "model"), dtype="bfloat16").model
    again = apply_method(again, MethodConfig(name="full"), dtype=torch.bfloat16)
    wanted, rounded = snapshot(model), snapshot(again)
    load_trained(again, tmp_path / "model")
    assert all(torch.equal(weight, wanted[name]) for name, weight in again.named_parameters())
    assert not all(torch.equal(weight, wanted[name]) for name, weight in rounded.items())


def test_a_bfloat16_base_keeps_its_adapter_in_float32(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch, logits_of: Any
) -> None:
    path = str(tiny_model_dir("llama"))
    base = load_base(path, dtype="bfloat16")
    model = tune(base, batch)
    save_adapter(model, tmp_path, tokenizer=base.tokenizer, base_path=path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    loaded = load_adapter(tmp_path, dtype="bfloat16")
    assert torch.equal(logits_of(loaded.model, batch), logits_of(model, batch))


def test_the_folder_holds_what_a_reader_of_peft_folders_expects(adapter: Path, tmp_path: Path) -> None:
    names = {entry.name for entry in adapter.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert "README.md" not in names
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["revision"].startswith("sha256:")
    assert config["target_modules"] == sorted(config["target_modules"])
    assert (config["peft_type"], config["task_type"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 32)


def test_a_model_card_that_is_there_stays(tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch) -> None:
    base = load_base(str(tiny_model_dir("llama")), dtype="float32")
    (tmp_path / "README.md").write_text("mine")
    save_adapter(tune(base, batch), tmp_path, tokenizer=base.tokenizer, base_path="x")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_tokenizer_of_the_adapter_goes_first(adapter: Path) -> None:
    path = adapter / "chat_template.jinja"
    path.write_text("{{ 'tuned' }}")
    assert load_adapter(adapter).tokenizer.chat_template == "{{ 'tuned' }}"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (adapter / name).unlink()
    assert "im_start" in str(load_adapter(adapter).tokenizer.chat_template)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_never_written(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, method: str, value: float
) -> None:
    base = load_base(str(tiny_model_dir("llama")), dtype="float32")
    model = apply_method(base.model, MethodConfig(name=method), dtype=base.dtype)
    name, parameter = [item for item in model.named_parameters() if item[1].requires_grad][-1]
    with torch.no_grad():
        parameter.view(-1)[-1] = value
    with pytest.raises(TrainingError, match="1 of") as caught:
        save_adapter(model, tmp_path / "model", tokenizer=base.tokenizer, base_path="x")
    assert name.replace(".default", "") in str(caught.value.cause)
    assert not (tmp_path / "model").exists()


def test_an_adapter_with_nan_is_neither_loaded_nor_merged(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    whole = load_adapter(adapter)
    with torch.no_grad():
        next(p for key, p in whole.model.named_parameters() if "lora_B" in key).fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        merge(whole.model)
    weights[name][0, 0] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="NaN or infinite"):
        load_adapter(adapter)


def test_the_base_is_found_beside_the_adapter(adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    change_config(adapter, base_model_name_or_path="../../base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_adapter(adapter).path == str(adapter)
    change_config(adapter, base_model_name_or_path="base")
    monkeypatch.chdir(tmp_path)
    assert load_adapter(Path("run/model")).path == "run/model"


def test_a_changed_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ResourceError, match="is not the one the adapter") as caught:
        load_adapter(adapter)
    assert "trained on sha256:" in str(caught.value.cause)
    change_config(adapter, revision=None)  # an adapter that records no base is taken at its word
    load_adapter(adapter)


def test_a_missing_folder_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(ResourceError, match=r"there is no folder 'some-run/model'"):
        load_adapter("some-run/model")


def test_a_missing_base_is_one_clear_error(adapter: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ResourceError, match="there is no folder"):
        load_adapter(adapter)


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[next(iter(weights))]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def rename_to_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_tensor, "1 tensors missing"),
        (rename_to_pickle, "has no adapter_model.safetensors"),
        (cut_short, "cannot be loaded"),
        (lambda folder: change_config(folder, r=8), "cannot be loaded"),
        (lambda folder: change_config(folder, peft_type=None, fine_tune_type="lora"), "an adapter of mlx-lm"),
        (lambda folder: change_config(folder, peft_type="XLORA"), "of the kind 'XLORA'; supported: LORA"),
        (lambda folder: change_config(folder, megatron_config={"a": 1}, megatron_core="this"), "supported: LORA"),
        (lambda folder: change_config(folder, base_model_name_or_path=None), "does not say which base model"),
        (lambda folder: change_config(folder, auto_map={"AutoModel": "evil.Model"}), "asks for code"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "has no config.json"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_a_damaged_adapter_is_refused(adapter: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(adapter)
    with pytest.raises(ResourceError) as caught:
        load_adapter(adapter)
    assert words in str(caught.value)
    assert caught.value.fix
    assert "Traceback" not in str(caught.value)


def test_saving_and_loading_say_nothing(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny_model_dir("gpt2"))
    base = load_base(path)
    model = tune(base, batch)
    capfd.readouterr()
    save_adapter(model, tmp_path / "adapter", tokenizer=base.tokenizer, base_path=path)
    loaded = load_adapter(tmp_path / "adapter")
    save_adapter(merge(loaded.model), tmp_path / "full", tokenizer=base.tokenizer, base_path=path)
    load_adapter(tmp_path / "full")
    assert capfd.readouterr() == ("", "")
