"""Which parameters each optimizer moves, and Muon's step against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.train.optimizer import build_optimizer


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(shape)


def _step(model: LlamaForCausalLM, name: str, *, weight_decay: float = 0.0, rate: float = 0.01) -> Any:
    optimizer = build_optimizer(model, name, weight_decay=weight_decay, betas=(0.9, 0.99))
    for group in optimizer.param_groups:
        group["lr"] = rate
    ids = torch.arange(60).view(2, 30)
    model(ids, labels=ids).loss.backward()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    return optimizer, before


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_one_owner_and_moves(model: LlamaForCausalLM, name: str) -> None:
    optimizer, before = _step(model, name)
    owned = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    assert all(not torch.equal(before[key], parameter) for key, parameter in model.named_parameters())
    assert set(optimizer.state) == set(model.parameters())


def test_muon_leaves_embeddings_head_and_norms_to_adamw(model: LlamaForCausalLM) -> None:
    optimizer, _ = _step(model, "muon")
    by_muon = {name for name, parameter in model.named_parameters() if "momentum_buffer" in optimizer.state[parameter]}
    assert by_muon == {name for name, _ in model.named_parameters() if name.endswith("_proj.weight")}


def test_a_muon_step_is_orthogonal_and_as_large_as_adamws(model: LlamaForCausalLM) -> None:
    _, before = _step(model, "muon", rate=0.01)
    name = "model.layers.0.mlp.up_proj.weight"  # (48, 32)
    change = (before[name] - dict(model.named_parameters())[name]).detach()
    singular = torch.linalg.svdvals(change) / (0.01 * 0.2 * 48**0.5)
    assert ((singular > 0.5) & (singular < 1.3)).all()  # Newton-Schulz in five steps brings them near 1
    # 0.2 is the size of AdamW's update in the mean square (arXiv:2502.16982, section 2.2)
    assert change.square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.25)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_matrices_decay_and_vectors_do_not(model: LlamaForCausalLM, name: str) -> None:
    optimizer = build_optimizer(model, name, weight_decay=0.1, betas=(0.9, 0.99))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decay[id(parameter)] == (0.1 if parameter.ndim >= 2 else 0.0) for parameter in model.parameters())
