"""What apply_method makes trainable, and which layers it finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.config import MethodConfig
from tunesmith.errors import SettingsError
from tunesmith.model import apply_method, count_parameters, load_base, token_nll
from tunesmith.model.targets import chosen_layers, shortest_names
from tunesmith.types import Batch

LLAMA_LIKE = (["k_proj", "o_proj", "q_proj", "v_proj"], ["down_proj", "gate_proj", "up_proj"])
TARGETS = {
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "gemma": LLAMA_LIKE,
    "phi3": (["o_proj", "qkv_proj"], ["down_proj", "gate_up_proj"]),
    "phi": (["dense", "k_proj", "q_proj", "v_proj"], ["fc1", "fc2"]),
    # c_proj is in both parts of gpt2, so the last name alone would select too much
    "gpt2": (["attn.c_attn", "attn.c_proj"], ["mlp.c_fc", "mlp.c_proj"]),
}


def load(tiny_model_dir: Callable[[str], Path], arch: str, dtype: str = "float32") -> Any:
    return load_base(str(tiny_model_dir(arch)), dtype=dtype).model


def find_target_modules(model: Any, wanted: str | list[str], layers: str | None = None) -> list[str]:
    """What goes into adapter_config.json."""
    return shortest_names(chosen_layers(model, wanted, layers), model)


def adapted_paths(model: Any) -> set[str]:
    """Paths, in the base model, of the layers that PEFT gave an adapter."""
    return {
        name.removeprefix("base_model.model.") for name, module in model.named_modules() if hasattr(module, "lora_A")
    }


@pytest.mark.parametrize("arch", TARGETS)
def test_parts_of_a_layer_by_name(tiny_model_dir: Callable[[str], Path], arch: str) -> None:
    model = load(tiny_model_dir, arch)
    attention, mlp = TARGETS[arch]
    assert find_target_modules(model, "attention") == attention
    assert find_target_modules(model, "mlp") == mlp
    everything = {name.rpartition(".")[2] for name in [*attention, *mlp]}
    assert find_target_modules(model, "all") == sorted(everything)


@pytest.mark.parametrize(
    ("arch", "wanted"), [("gpt2", "attention"), ("gpt2", "mlp"), ("phi3", "all"), ("llama", "all")]
)
def test_adapters_sit_where_they_were_asked_for_and_nowhere_else(
    tiny_model_dir: Callable[[str], Path], arch: str, wanted: str
) -> None:
    base = load(tiny_model_dir, arch)
    words = {"attention": ("attn",), "mlp": ("mlp",), "all": ("attn", "mlp")}[wanted]
    head = base.get_output_embeddings()
    expected = {
        path
        for path, module in base.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and any(word in path for word in words)
    }
    model = apply_method(base, MethodConfig(name="lora", target_modules=wanted), dtype=torch.float32)
    assert adapted_paths(model) == expected
    assert len(expected) % 2 == 0  # two layers


def test_names_may_be_a_list_or_a_text_with_commas(tiny_model_dir: Callable[[str], Path]) -> None:
    model = load(tiny_model_dir, "llama")
    assert find_target_modules(model, "v_proj, q_proj") == ["q_proj", "v_proj"]
    assert chosen_layers(model, ["layers.0.self_attn.q_proj"]) == ["model.layers.0.self_attn.q_proj"]
    adapted = apply_method(
        model, MethodConfig(name="lora", target_modules=["layers.0.self_attn.q_proj"]), dtype=torch.float32
    )
    assert adapted_paths(adapted) == {"model.layers.0.self_attn.q_proj"}


@pytest.mark.parametrize(
    ("wanted", "fix"),
    [
        (["q_prj"], "did you mean q_proj?"),
        ("q_proj,nonsense9", "set it to all"),
        ("lm_head", "set it to all"),
        ([""], "set it to all"),
    ],
)
def test_a_name_that_selects_nothing(tiny_model_dir: Callable[[str], Path], wanted: Any, fix: str) -> None:
    with pytest.raises(SettingsError, match=r"matches no linear layer.*down_proj, gate_proj, k_proj") as caught:
        find_target_modules(load(tiny_model_dir, "llama"), wanted)
    assert fix in str(caught.value.fix)


def test_no_names_at_all(tiny_model_dir: Callable[[str], Path]) -> None:
    with pytest.raises(SettingsError, match="empty"):
        find_target_modules(load(tiny_model_dir, "llama"), [])


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_trains_float32_adapters_on_a_frozen_base(
    tiny_model_dir: Callable[[str], Path], arch: str, dtype: str
) -> None:
    base = load(tiny_model_dir, arch, dtype)
    model = apply_method(base, MethodConfig(name="lora", r=4, alpha=6, dropout=0.25), dtype=getattr(torch, dtype))
    assert isinstance(model, PeftModel)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), name
        assert parameter.dtype == (torch.float32 if "lora_" in name else getattr(torch, dtype)), name
    config = model.active_peft_config
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 6, 0.25)
    assert isinstance(config.lora_alpha, int)
    assert config.fan_in_fan_out == (arch == "gpt2")
    trainable, total = count_parameters(model)
    assert 0 < trainable < total


def test_a_fractional_alpha_scales_the_update(tiny_model_dir: Callable[[str], Path]) -> None:
    model = apply_method(load(tiny_model_dir, "llama"), MethodConfig(name="lora", r=4, alpha=6.5), dtype=torch.float32)
    scales = {module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A")}
    assert scales == {6.5 / 4}


def test_full_trains_everything_in_float32(tiny_model_dir: Callable[[str], Path]) -> None:
    model = apply_method(load(tiny_model_dir, "phi", "bfloat16"), MethodConfig(name="full"), dtype=torch.bfloat16)
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())


def test_an_unknown_method_and_a_second_adapter(tiny_model_dir: Callable[[str], Path]) -> None:
    base = load(tiny_model_dir, "llama")
    with pytest.raises(SettingsError, match="allowed: full, lora, qlora, rslora"):
        apply_method(base, MethodConfig.model_construct(name="bitfit"), dtype=torch.float32)
    adapted = apply_method(base, MethodConfig(name="lora"), dtype=torch.float32)
    with pytest.raises(SettingsError, match="has an adapter already"):
        apply_method(adapted, MethodConfig(name="lora"), dtype=torch.float32)


@pytest.mark.parametrize("name", ["lora", "full"])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "phi3"])
def test_gradient_checkpointing_recomputes_and_changes_no_gradient(
    tiny_model_dir: Callable[[str], Path], batch: Batch, arch: str, name: str
) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        base = load(tiny_model_dir, arch)
        method = MethodConfig(name=name, dropout=0)
        model = apply_method(base, method, dtype=torch.float32, gradient_checkpointing=checkpointing).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        passes: list[int] = []
        first = next(module for path, module in base.named_modules() if path.endswith(("0.self_attn", "0.attn")))
        first.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        token_nll(model, batch).sum().backward()
        gradients = {path: p.grad for path, p in model.named_parameters() if p.grad is not None}
        found.append((len(passes), gradients))
    assert [count for count, _ in found] == [1, 2]
    plain, recomputed = found[0][1], found[1][1]
    assert plain.keys() == recomputed.keys()
    assert any(gradient.abs().max() > 0 for gradient in plain.values())
    for path, gradient in plain.items():
        torch.testing.assert_close(recomputed[path], gradient, atol=1e-5, rtol=1e-5)


def test_a_model_that_cannot_recompute(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Callable[[str], Path]) -> None:
    model = load(tiny_model_dir, "llama")
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(SettingsError, match="'llama' cannot recompute"):
        apply_method(model, MethodConfig(name="lora"), dtype=torch.float32, gradient_checkpointing=True)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_rotary_frequencies_stay_float32(tiny_model_dir: Callable[[str], Path], name: str) -> None:
    exact = {path: buffer.clone() for path, buffer in load(tiny_model_dir, "llama", "bfloat16").named_buffers()}
    assert exact
    for loaded_as in ("float32", "bfloat16"):
        model = load(tiny_model_dir, "llama", loaded_as)
        apply_method(model, MethodConfig(name=name), dtype=torch.bfloat16)
        for path, buffer in model.named_buffers():
            assert torch.equal(buffer, exact[path]), path
        expected = torch.bfloat16 if name == "lora" else torch.float32
        assert model.get_input_embeddings().weight.dtype == expected
