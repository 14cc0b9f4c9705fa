"""Norms and gated layers by our kernels and by Liger's: when they are chosen, and that models give the same."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as tf

from tunesmith.config import MethodConfig
from tunesmith.data import collate
from tunesmith.kernels import native_kernels, why_not_native
from tunesmith.model import apply_method, joined, load_base, token_nll
from tunesmith.model.joined import joined_layers, layers_for_liger
from tunesmith.model.packing import packing
from tunesmith.types import Encoded

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
GPT2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1}
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": tf.LlamaConfig,
    "mistral": tf.MistralConfig,
    "qwen2": tf.Qwen2Config,
    "qwen3": tf.Qwen3Config,
    "smollm3": tf.SmolLM3Config,
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The package, with its formulas in plain PyTorch; returns what was called."""
    called: list[str] = []

    def norm(x: Any, weight: Any, eps: float, offset: float, casting: str, in_place: bool) -> torch.Tensor:
        assert (offset, casting, in_place) == (0.0, "llama", False)
        called.append("norm")
        return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype) * weight

    def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        called.append("gated")
        return F.silu(gate) * up

    ops: Any = ModuleType("liger_kernel.ops")
    ops.LigerRMSNormFunction, ops.LigerSiLUMulFunction = SimpleNamespace(apply=norm), SimpleNamespace(apply=gated)
    package = ModuleType("liger_kernel")
    package.ops = ops  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", ops)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "liger_kernel" else real(name))
    return called


def test_they_are_chosen_on_cuda_where_nothing_else_joins_the_operations(
    tiny_model_dir: Callable[[str], Path], installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama, gpt2 = (load_base(str(tiny_model_dir(arch)), dtype="float32").model for arch in ("llama", "gpt2"))
    assert (
        len(layers_for_liger(llama, CUDA, compiled=False)) == 2 * 3 + 1
    )  # two norms and a gated layer in each, one norm
    assert layers_for_liger(llama, CPU, compiled=False) == []
    assert layers_for_liger(llama, CUDA, compiled=True) == []
    assert layers_for_liger(gpt2, CUDA, compiled=False) == []
    llama.model.layers[0].mlp.act_fn = torch.nn.GELU()
    assert len(layers_for_liger(llama, CUDA, compiled=False)) == 2 * 3
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert layers_for_liger(llama, CUDA, compiled=False) == []


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", [*CONFIGS, "gpt2", "phi"])
def test_ours_give_the_same_and_keep_less(arch: str, dtype: torch.dtype, method: str) -> None:
    torch.manual_seed(0)
    shaped = {name: partial(config, **SHAPE, **HEADS) for name, config in {**CONFIGS, "phi": tf.PhiConfig}.items()}
    config = shaped[arch]() if arch in shaped else tf.GPT2Config(**GPT2)
    for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
        setattr(config, name, 0.0)
    model = tf.AutoModelForCausalLM.from_config(config).float()
    model = apply_method(model, MethodConfig(name=method, dropout=0), dtype=dtype).train()
    batch = collate([Encoded(np.arange(4, 204), np.arange(200) > 5, row=1)])

    def gradients() -> tuple[int, float, dict[str, torch.Tensor]]:
        model.zero_grad()
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        context = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with context, torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False):
            loss = token_nll(model, batch).mean()
        loss.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return sum(kept.values()), loss.item(), found

    most, plain, wanted = gradients()
    with joined_layers(model, compiled=False):
        kept, loss, found = gradients()
    assert kept < most
    assert loss == pytest.approx(plain, rel=1e-6 if dtype == torch.float32 else 1e-3)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-12, name
    assert gradients()[:2] == (most, plain)


@pytest.mark.parametrize("arch", joined._ROTARY)
def test_rotary_positions_in_cpp_give_the_same(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if problem := why_not_native():
        pytest.skip(problem)
    torch.manual_seed(0)
    config = tf.AutoConfig.for_model(arch, **SHAPE, **HEADS)
    model = tf.AutoModelForCausalLM.from_config(config).bfloat16().eval()
    module: Any = sys.modules[type(model).__module__]
    plain, real, calls = module.apply_rotary_pos_emb, joined.rotate, list[int]()

    def counted(*tensors: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(*tensors)

    monkeypatch.setattr(joined, "rotate", counted)
    rows = [Encoded(np.arange(4, 4 + n), np.ones(n, bool), row=n) for n in (9, 30)]
    found = []
    for native in (False, True):
        with native_kernels(wanted=native), packing(model), joined_layers(model, compiled=False), torch.no_grad():
            found.append(token_nll(model, collate(rows)))
    assert calls
    assert module.apply_rotary_pos_emb is plain
    assert (found[0] - found[1]).norm() < 0.01 * found[0].norm()


@pytest.mark.parametrize("arch", ["gemma", "starcoder2"])
def test_gelu_in_cpp_gives_the_same(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if problem := why_not_native():
        pytest.skip(problem)
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(tf.AutoConfig.for_model(arch, **SHAPE, **HEADS)).bfloat16().eval()
    real, calls = joined.gelu, list[int]()

    def counted(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(inputs)

    monkeypatch.setattr(joined, "gelu", counted)
    rows = [Encoded(np.arange(4, 34), np.ones(30, bool), row=1)]
    found = []
    for native in (False, True):
        with native_kernels(wanted=native), joined_layers(model, compiled=False), torch.no_grad():
            found.append(token_nll(model, collate(rows)))
    assert len(calls) == 2 * 2  # two layers, twice
    assert (found[0] - found[1]).norm() < 0.01 * found[0].norm()


def test_ours_leave_what_a_compiler_joins(tiny_model_dir: Callable[[str], Path]) -> None:
    model = load_base(str(tiny_model_dir("llama")), dtype="float32").model
    with joined_layers(model, compiled=True):
        assert not [module for module in model.modules() if "forward" in vars(module)]
    with joined_layers(model, compiled=False):
        assert len([module for module in model.modules() if "forward" in vars(module)]) == 2 * 3 + 1
    assert not [module for module in model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("arch", CONFIGS)
def test_by_liger_the_model_gives_the_same_and_is_as_before(
    arch: str, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(CONFIGS[arch](**SHAPE, **HEADS)).float()
    model = apply_method(model, MethodConfig(name="lora", dropout=0), dtype=torch.float32).train()
    batch = collate([Encoded(np.arange(4, 24), np.arange(20) > 5, row=1)])
    monkeypatch.setattr(
        joined, "layers_for_liger", lambda model, device, compiled: layers_for_liger(model, CUDA, compiled=compiled)
    )

    def gradients() -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = token_nll(model, batch).sum()
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain, wanted = gradients()
    with joined_layers(model, compiled=False):
        loss, found = gradients()
    norms = 2 * (4 if arch == "qwen3" else 2) + 1  # Qwen3 has norms of queries and keys
    assert (installed.count("norm"), installed.count("gated")) == (norms, 2)
    assert loss == pytest.approx(plain, rel=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    installed.clear()
    assert gradients()[0] == plain
    assert installed == []
