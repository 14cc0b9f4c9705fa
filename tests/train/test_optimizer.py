"""Which parameters each optimizer moves, and Muon's step against its definition."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.train import muon
from tunesmith.train.checkpoint import Checkpoints, TrainingState
from tunesmith.train.optimizer import build_optimizer

without_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra qlora"
)
NAMES = ["adamw", "muon", pytest.param("adamw_8bit", marks=without_bitsandbytes)]


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


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize(("fast", "tolerance"), [(True, 0.0), (False, 5e-2)])
def test_muon_steps_as_torch_does(monkeypatch: pytest.MonkeyPatch, fast: bool, tolerance: float) -> None:
    """Digit by digit where bfloat16 is computed; torch rounds to it, so that float32 differs by what it rounds."""
    monkeypatch.setattr(muon, "computes_bfloat16", lambda device: fast)
    torch.manual_seed(0)
    shapes = [(48, 32), (32, 48), (32, 32)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    optimizers = [
        muon.Muon([{"params": ours, "weight_decay": 0.1}]),
        torch.optim.Muon(theirs, lr=0.0, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for rate in (0.01, 0.02, 0.03):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        for mine, other in zip(ours, theirs, strict=True):
            change = (other - 1).abs().max()
            assert (mine - other).abs().max() <= tolerance * change


@pytest.mark.parametrize("name", NAMES)
def test_matrices_decay_and_vectors_do_not(model: LlamaForCausalLM, name: str) -> None:
    optimizer = build_optimizer(model, name, weight_decay=0.1, betas=(0.9, 0.99))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decay[id(parameter)] == (0.1 if parameter.ndim >= 2 else 0.0) for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_state_survives_a_checkpoint(model: LlamaForCausalLM, name: str, tmp_path: Path) -> None:
    optimizer, _ = _step(model, name)
    checkpoints = Checkpoints(tmp_path, identity={}, keep=1)
    checkpoints.save(model, optimizer, TrainingState(step=1))
    again = build_optimizer(model, name, weight_decay=0.0, betas=(0.9, 0.99))
    assert checkpoints.restore(model, again) is not None
    for parameter in model.parameters():
        old, new = optimizer.state[parameter], again.state[parameter]
        assert old.keys() == new.keys()
        assert all(type(old[key]) is type(new[key]) for key in old)
        assert all(torch.equal(torch.as_tensor(old[key]), torch.as_tensor(new[key])) for key in old)
    again.step()


def test_a_missing_package_is_named_with_its_extra(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ResourceError, match="bitsandbytes") as caught:
        build_optimizer(model, "adamw_8bit", weight_decay=0.0, betas=(0.9, 0.99))
    assert "qlora" in (caught.value.fix or "")


@pytest.mark.parametrize("name", NAMES)
def test_groups_move_at_their_own_rates_and_the_rest_as_before(model: LlamaForCausalLM, name: str) -> None:
    factors = {"embeddings": 0.0, "head": 4.0, "layers.0": 2.0, r".*layers\.1.*norm\.weight": 0.5}
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    moved = {}
    for rate_factors in ({}, factors):
        model.load_state_dict(before)
        model.zero_grad()
        optimizer = build_optimizer(model, name, weight_decay=0.0, betas=(0.9, 0.99), rate_factors=rate_factors)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["rate_factor"]
        ids = torch.arange(60).view(2, 30)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        moved[bool(rate_factors)] = {path: (p - before[path]).detach() for path, p in model.named_parameters()}
    for path, plain in moved[False].items():
        factor = 1.0
        if "embed_tokens" in path:
            factor = 0.0
        elif "lm_head" in path:
            factor = 4.0
        elif "layers.0." in path:
            factor = 2.0
        elif "layers.1" in path and "norm" in path:
            factor = 0.5
        assert plain.abs().max() > 0
        torch.testing.assert_close(moved[True][path], factor * plain, atol=1e-6, rtol=1e-3)


def test_a_group_that_is_not_there_or_there_twice_is_refused(model: LlamaForCausalLM) -> None:
    model.model.embed_tokens.requires_grad_(False)
    with pytest.raises(SettingsError) as refused:
        build_optimizer(
            model,
            "adamw",
            weight_decay=0.0,
            betas=(0.9, 0.99),
            rate_factors={"embeddings": 2.0, "lora_B": 2.0, "q_proj": 2.0, "layers.1": 2.0, "layer": 2.0},
        )
    assert list(refused.value.problems) == [
        "'embeddings' matches nothing that trains",
        "'lora_B' matches nothing that trains",
        "'q_proj' and 'layers.1' both match model.layers.1.self_attn.q_proj.weight",
        "'layer' matches nothing that trains",
    ]
