"""When Liger's kernels are chosen, and that the wiring around them gives what the model gives. No GPU needed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
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
from tunesmith.model import apply_method, liger, load_base, token_nll
from tunesmith.model.liger import layers_for_liger, liger_layers
from tunesmith.types import Encoded

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
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


@pytest.mark.parametrize("arch", CONFIGS)
def test_the_model_gives_the_same_and_is_as_before(
    arch: str, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(CONFIGS[arch](**SHAPE, **HEADS)).float()
    model = apply_method(model, MethodConfig(name="lora", dropout=0), dtype=torch.float32).train()
    batch = collate([Encoded(np.arange(4, 24), np.arange(20) > 5, row=1)])
    monkeypatch.setattr(
        liger, "layers_for_liger", lambda model, device, compiled: layers_for_liger(model, CUDA, compiled=compiled)
    )

    def gradients() -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = token_nll(model, batch).sum()
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain, wanted = gradients()
    with liger_layers(model, compiled=False):
        loss, found = gradients()
    norms = 2 * (4 if arch == "qwen3" else 2) + 1  # Qwen3 has norms of queries and keys
    assert (installed.count("norm"), installed.count("gated")) == (norms, 2)
    assert loss == pytest.approx(plain, rel=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    installed.clear()
    assert gradients()[0] == plain
    assert installed == []
