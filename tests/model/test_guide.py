"""The layer guide: complete, right about roles, and its costs are those of the adapter that is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tunesmith.config import METHODS, MethodConfig
from tunesmith.model import apply_method, count_parameters, layer_guide, load_base, load_skeleton

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_parameter_is_in_it_once_and_every_layer_has_a_role(
    tiny_model_dir: Callable[[str], Path], arch: str
) -> None:
    skeleton = load_skeleton(str(tiny_model_dir(arch)))
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    guide = layer_guide(skeleton, MethodConfig())
    assert guide.parameters == count_parameters(load_base(str(tiny_model_dir(arch))).model)[1]
    assert (guide.architecture, guide.method, guide.r) == (arch, "lora", 16)
    assert {layer.block for layer in guide.layers} == {None, 0, 1}
    assert all(layer.role for layer in guide.layers if layer.part != "norm")
    parts = {layer.part for layer in guide.layers}
    assert parts == {"embeddings", "attention", "mlp", "norm", "head"}
    roles = {role for layer in guide.layers if layer.block == 0 for role in (layer.role or "").split(", ")} - {""}
    assert roles - {"gate"} == {"query", "key", "value", "output", "up", "down"}


@pytest.mark.parametrize("arch", ["gpt2", "llama", "phi3"])
@pytest.mark.parametrize("layers", [None, "1"])
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.is_adapter and not m.is_soft_prompt])
def test_the_cost_is_that_of_the_adapter(
    tiny_model_dir: Callable[[str], Path], name: str, layers: str | None, arch: str
) -> None:
    saved = "both" if arch == "llama" else "none"
    rank = {"r": 3} if METHODS[name].has_rank else {}
    method = MethodConfig(name=name, **rank, layers=layers, modules_to_save=saved)  # type: ignore[arg-type]
    guide = layer_guide(load_skeleton(str(tiny_model_dir(arch))), method)
    model = apply_method(load_base(str(tiny_model_dir(arch))).model, method, dtype=torch.float32)
    assert guide.chosen_parameters == count_parameters(model)[0]


@pytest.mark.parametrize("name", ["full", *(n for n, m in METHODS.items() if m.is_soft_prompt)])
def test_a_method_that_puts_nothing_beside_layers_gets_the_cost_of_lora(
    tiny_model_dir: Callable[[str], Path], name: str
) -> None:
    skeleton = load_skeleton(str(tiny_model_dir("llama")))
    guide = layer_guide(skeleton, MethodConfig(name=name))  # type: ignore[arg-type]
    assert guide == layer_guide(skeleton, MethodConfig(name="lora"))
    assert guide.chosen_parameters > 0


def test_tied_weights_are_said_to_be_one(tiny_model_dir: Callable[[str], Path]) -> None:
    guide = layer_guide(load_skeleton(str(tiny_model_dir("gpt2"))), MethodConfig())
    (head,) = (layer for layer in guide.layers if layer.part == "head")
    assert (head.parameters, head.role) == (0, "the same matrix as the embeddings")
    shapes = {layer.path: layer.shape for layer in guide.layers}
    assert shapes["transformer.h.0.attn.c_attn"] == (96, 32)  # (outputs, inputs), although Conv1D keeps it transposed
