"""Streamed weights are those of PEFT's merge, for every method, tied or not, and differ from the base."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch

from tunesmith.config import METHODS, MethodConfig
from tunesmith.errors import ResourceError, TrainingError
from tunesmith.model import apply_method, load_adapter, load_base, merge, open_trained, save_adapter


@pytest.fixture
def trained(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """trained("llama", name="lora", ...) -> model folder of a model whose trained parameters were moved."""

    def make(arch: str, **method: object) -> Path:
        loaded = load_base(str(tiny_model_dir(arch)), dtype="float32", device="cpu")
        rank = {"r": 4} if METHODS[str(method["name"])].has_rank else {}
        model = apply_method(loaded.model, MethodConfig.model_validate(rank | method), dtype=torch.float32)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        save_adapter(
            model, tmp_path / "model", tokenizer=loaded.tokenizer, base_path=loaded.path, base_revision=loaded.revision
        )
        return tmp_path / "model"

    return make


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        *product([name for name, method in METHODS.items() if method.mergeable], ["llama", "gpt2", "qwen3"]),
        *product(["lora", "full"], ["gpt_neox"]),  # stored under other names than the model's
    ],
)
def test_equal_to_the_merge_of_peft(
    name: str, arch: str, trained: Callable[..., Path], tiny_model_dir: Callable[[str], Path]
) -> None:
    folder = trained(arch, name=name)
    streamed = open_trained(folder)
    merged = dict(merge(load_adapter(folder, dtype="float32", device="cpu").model).named_parameters())
    base = dict(load_base(str(tiny_model_dir(arch)), dtype="float32", device="cpu").model.named_parameters())
    assert list(streamed.shapes) == list(merged)
    changed = 0
    for key, expected in merged.items():
        assert streamed.shapes[key] == tuple(expected.shape)
        torch.testing.assert_close(streamed[key], expected.data, atol=0, rtol=0)
        changed += not torch.equal(expected, base[key])
    assert changed >= 4


def test_a_module_trained_whole_is_the_trained_one(trained: Callable[..., Path]) -> None:
    folder = trained("llama", name="lora", modules_to_save="both")
    streamed = open_trained(folder)
    merged = dict(merge(load_adapter(folder, dtype="float32", device="cpu").model).named_parameters())
    for key in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"):
        assert torch.equal(streamed[key], merged[key])


def test_the_low_rank_matrices_are_the_change(trained: Callable[..., Path]) -> None:
    folder = trained("llama", name="rslora", alpha=3)
    streamed = open_trained(folder)
    path = "model.layers.1.mlp.up_proj"
    parts = streamed.low_rank(path)
    assert parts is not None
    a, b, scale = parts
    assert scale == pytest.approx(3 / 4**0.5)
    base = load_base(str(streamed.adapter.base_model_name_or_path), dtype="float32", device="cpu").model
    torch.testing.assert_close(base.get_submodule(path).weight + scale * b @ a, streamed[f"{path}.weight"])
    assert streamed.low_rank("model.embed_tokens") is None


def test_a_base_that_changed_is_refused(trained: Callable[..., Path], tiny_model_dir: Callable[[str], Path]) -> None:
    folder = trained("llama", name="lora")
    config = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(config.replace(str(tiny_model_dir("llama")), "builtin:nano"))
    with pytest.raises(ResourceError, match="is not the one the adapter"):
        open_trained(folder)


def test_a_sum_that_is_not_finite_is_refused(trained: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = trained("llama", name="lora")
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in tensors if key.endswith("q_proj.lora_B.weight"))
    tensors[key][0, 0] = torch.inf
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="not finite"):
        open_trained(folder)["model.layers.0.self_attn.q_proj.weight"]
