"""load_base: what comes back, what is told when it cannot, and that it is quiet and offline."""

from __future__ import annotations

import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tunesmith.config.builtin import BUILTIN_FOLDER
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.model import count_parameters, load_base, precision
from tunesmith.model.load import quiet
from tunesmith.model.source import compute_fingerprint
from tunesmith.types import Batch

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"]


@pytest.fixture
def folder(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model_dir("qwen2"), tmp_path / "base")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_local_model_is_the_one_transformers_loads(
    tiny_model_dir: Callable[[str], Path], batch: Batch, logits_of: Any, arch: str
) -> None:
    path = tiny_model_dir(arch)
    loaded = load_base(str(path), dtype="float32")
    plain = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert torch.equal(logits_of(loaded.model, batch), logits_of(plain, batch))
    assert not loaded.model.training
    assert count_parameters(loaded.model)[0] == 0
    assert loaded.tokenizer("Hello world")["input_ids"]
    assert (loaded.path, loaded.revision) == (str(path), compute_fingerprint(path))
    assert (loaded.dtype, loaded.device) == (torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_in_the_format_that_is_told(folder: Path, dtype: torch.dtype) -> None:
    loaded = load_base(str(folder), dtype=str(dtype).removeprefix("torch."))
    assert loaded.dtype == dtype
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}


def test_auto_weighs_the_size_of_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    small = load_base(str(folder))
    assert (small.dtype, small.model.dtype) == (torch.float32, torch.float32)
    assert "44.3K parameters" in small.dtype_reason
    monkeypatch.setattr(precision, "SMALLEST_BFLOAT16_MODEL", 1000)
    large = load_base(str(folder))
    assert (large.dtype, large.model.dtype) == (torch.bfloat16, torch.bfloat16)
    assert large.dtype_reason == "bfloat16: this CPU has amx_bf16"


def test_a_wrong_setting_is_told_before_the_model_is_looked_for() -> None:
    with pytest.raises(SettingsError, match="float16"):
        load_base("org/does-not-exist", dtype="float16", device="cpu")
    with pytest.raises(SettingsError, match="unknown device"):
        load_base("org/does-not-exist", device="tpu")


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reshape_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def drop_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


def rename_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_short, "cannot be loaded"),
        (drop_tensor, "lack 1 tensors its config.json calls for"),
        (reshape_tensor, "cannot be loaded"),
        (drop_tokenizer, "has no tokenizer; looked for: tokenizer.json"),
        (rename_weights, "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the tokenizer of"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "qwen2", "hidden_size": "x"}'),
            "cannot be loaded",
        ),
    ],
)
def test_damaged_models_are_one_error(folder: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(folder)
    with pytest.raises(ResourceError) as caught:
        load_base(str(folder), dtype="float32")
    assert words in caught.value.message
    assert caught.value.cause
    assert caught.value.fix
    assert "\n" not in caught.value.cause


def test_a_random_fill_of_missing_weights_is_never_used(folder: Path) -> None:
    drop_tensor(folder)
    with pytest.raises(ResourceError, match="lack 1 tensors") as caught:
        load_base(str(folder))
    assert "model.layers.1.self_attn.q_proj.weight" in str(caught.value.cause)


def test_local_models_open_no_socket(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    opened: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        opened.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_base(str(folder))
    assert opened == []
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ResourceError, match="the hub cannot be reached"):
        load_base("some-org/some-model")
    assert opened  # the trap does catch what goes out


def test_what_is_held_back_comes_back() -> None:
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        warnings.warn("held back", stacklevel=1)
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    with pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)


def test_the_packaged_model_loads(batch: Batch, logits_of: Any) -> None:
    if not (BUILTIN_FOLDER / "nano" / "config.json").is_file():
        pytest.skip("builtin:nano is not in this checkout")
    loaded = load_base("builtin:nano", dtype="float32")
    assert loaded.path == "builtin:nano"
    assert loaded.revision.startswith("sha256:")
    assert logits_of(loaded.model, batch).isfinite().all()
