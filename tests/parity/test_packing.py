"""Rows end to end give what padded rows give: losses and gradients, in every architecture that is listed for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from tunesmith.config import MethodConfig
from tunesmith.data import batches
from tunesmith.model import Lanes, accelerated, apply_method, load_base, packing, seeded_dropout, token_nll
from tunesmith.model.dropout import draws_itself
from tunesmith.model.fusion import fused_adapters
from tunesmith.model.packing import PACKABLE
from tunesmith.types import Batch, Encoded

SHAPE = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
WIDE = {**SHAPE, "intermediate_size": 64, "max_position_embeddings": 256, **IDS}
GROUPED = {**WIDE, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaConfig(**GROUPED),
    "mistral": lambda: tf.MistralConfig(**GROUPED),
    "qwen2": lambda: tf.Qwen2Config(**GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**GROUPED, head_dim=8),
    "gpt2": lambda: tf.GPT2Config(vocab_size=200, n_embd=32, n_layer=2, n_head=4, n_positions=256, **IDS),
    "phi": lambda: tf.PhiConfig(**WIDE),
    "phi3": lambda: tf.Phi3Config(**GROUPED),
    "gemma": lambda: tf.GemmaConfig(**GROUPED, head_dim=8),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**WIDE),
    "opt": lambda: tf.OPTConfig(**SHAPE, ffn_dim=64, max_position_embeddings=256, word_embed_proj_dim=16, **IDS),
    "olmo2": lambda: tf.Olmo2Config(**GROUPED),
    "smollm3": lambda: tf.SmolLM3Config(**GROUPED),
    "starcoder2": lambda: tf.Starcoder2Config(**GROUPED),
}


def make(config: Any) -> Any:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def rows() -> list[Encoded]:
    """Six rows, one longer than a block of attention, one with a single token. 185 in all is no recurring size."""
    draw = np.random.default_rng(0)
    return [Encoded(draw.integers(2, 200, n), np.arange(n) >= n // 3, row=n) for n in (9, 150, 5, 17, 1, 3)]


def one_batch(rows: list[Encoded]) -> Batch:
    (batch,) = batches(rows, tokens=10_000)
    return batch


def losses_and_gradients(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    nll = token_nll(model, batch)
    (nll * torch.arange(1.0, len(nll) + 1)).sum().div(len(nll)).backward()
    return nll.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def expect_packed_equals_padded(model: nn.Module, batch: Batch) -> None:
    padded, wanted = losses_and_gradients(model, batch)
    with packing(model) as problem:
        packed, found = losses_and_gradients(model, batch)
    assert problem is None
    assert not torch.equal(packed, padded)  # it was another computation
    torch.testing.assert_close(packed, padded, atol=2e-5, rtol=2e-5)
    assert found.keys() == wanted.keys()
    assert max(gradient.abs().max() for gradient in wanted.values()) > 1e-2
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_packed_equals_padded(arch: str, rows: list[Encoded]) -> None:
    expect_packed_equals_padded(make(ARCHITECTURES[arch]()), one_batch(rows))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_dropout_follows_the_seed_or_lanes_are_told(arch: str, rows: list[Encoded]) -> None:
    """What the model drops itself, in its layers and in attention."""
    config = ARCHITECTURES[arch]()
    config.sliding_window = None
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.3)
    model, batch = make(config).train(), one_batch(rows)
    losses = {}
    with accelerated(model, compiled=False, native=False, lanes=Lanes()), torch.no_grad():
        for seed in (1, 2):
            for others in (1, 2):  # what other lanes leave of the generator of the process
                torch.manual_seed(others)
                with seeded_dropout(seed):
                    losses[seed, others] = token_nll(model, batch)
    assert torch.equal(losses[1, 1], losses[1, 2]) == (not draws_itself(model))
    assert not torch.equal(losses[1, 1], losses[2, 2])  # it does drop
    assert draws_itself(model) == (arch in ("opt", "starcoder2"))


@pytest.mark.parametrize("arch", ["llama", "gpt2", "phi3"])
def test_with_a_fused_adapter_too(tiny_model_dir: Callable[[str], Path], arch: str, rows: list[Encoded]) -> None:
    base = load_base(str(tiny_model_dir(arch)), dtype="float32")
    model = apply_method(base.model, MethodConfig(name="lora", dropout=0), dtype=base.dtype).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    short = [row for row in rows if len(row) < 100]
    with fused_adapters(model) as count:
        assert count > 0
        expect_packed_equals_padded(model, one_batch(short))


@pytest.mark.parametrize("prompted", [False, True], ids=["ids", "embeddings"])
def test_passes_have_recurring_sizes(
    prompted: bool, tiny_model_dir: Callable[[str], Path], rows: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny_model_dir("llama")), dtype="float32")
    method = MethodConfig(name="prompt", num_virtual_tokens=2)
    model = apply_method(base.model, method, dtype=base.dtype) if prompted else base.model
    rows, seen = [row for row in rows if len(row) < 100], []
    first_norm = base.model.model.layers[0].input_layernorm
    first_norm.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    with packing(model):
        assert token_nll(model, one_batch(rows)).shape == (35,)
    assert seen == [46 if prompted else 36]  # 35 tokens, and two before each of five rows


def test_every_listed_architecture_is_proven() -> None:
    assert set(PACKABLE) == set(ARCHITECTURES)


def test_what_is_not_listed_is_padded_and_says_so(rows: list[Encoded]) -> None:
    model = make(tf.BloomConfig(vocab_size=200, hidden_size=32, n_layer=2, n_head=4, **IDS))
    batch = one_batch(rows)
    outside = token_nll(model, batch)
    with packing(model) as problem:
        inside = token_nll(model, batch)
    assert problem is not None
    assert "bloom" in problem
    assert torch.equal(inside, outside)


def test_rows_longer_than_the_sliding_window_are_padded(rows: list[Encoded]) -> None:
    model = make(tf.MistralConfig(**GROUPED, sliding_window=16))
    for chosen, packed in ((rows, False), ([row for row in rows if len(row) <= 16], True)):
        outside = token_nll(model, one_batch(chosen))
        with packing(model):
            inside = token_nll(model, one_batch(chosen))
        torch.testing.assert_close(inside, outside, atol=2e-5, rtol=2e-5)
        assert torch.equal(inside, outside) != packed


def test_gradient_checkpointing_recomputes_the_packed_rows(rows: list[Encoded]) -> None:
    model = make(tf.LlamaConfig(**GROUPED)).train()
    batch = one_batch(rows)
    with packing(model):
        _, plain = losses_and_gradients(model, batch)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # renamed in transformers 5.23
            model.gradient_checkpointing_enable({"use_reentrant": False})
        _, recomputed = losses_and_gradients(model, batch)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-5)


def test_a_model_generates_as_before_inside_and_afterwards(rows: list[Encoded]) -> None:
    model = make(tf.LlamaConfig(**GROUPED))
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = (ids > 0).long()
    arguments = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
    before = model.generate(ids, **arguments)
    with packing(model):
        assert torch.equal(model.generate(ids, **arguments), before)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(ids, **arguments), before)
