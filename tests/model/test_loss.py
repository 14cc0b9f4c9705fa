"""token_nll against the model's own logits: values and gradients, for every architecture that takes the short way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tunesmith.config import MethodConfig
from tunesmith.model import apply_method, context_tokens, load_base, loss, packing, token_nll
from tunesmith.types import Batch

FIXTURE_ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"]
SHAPE = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
WIDE = {**SHAPE, "intermediate_size": 64, "max_position_embeddings": 64, **IDS}
GROUPED = {**WIDE, "num_key_value_heads": 2}
FURTHER: dict[str, Callable[[], Any]] = {
    "gpt_neox": lambda: tf.GPTNeoXConfig(**WIDE),
    "gpt_neo": lambda: tf.GPTNeoConfig(
        vocab_size=200, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], **IDS
    ),
    "opt": lambda: tf.OPTConfig(**SHAPE, ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=16, **IDS),
    "olmo2": lambda: tf.Olmo2Config(**GROUPED),
    "smollm3": lambda: tf.SmolLM3Config(**GROUPED),
    "starcoder2": lambda: tf.Starcoder2Config(**GROUPED),
    "bloom": lambda: tf.BloomConfig(vocab_size=200, hidden_size=32, n_layer=2, n_head=4, **IDS),
}
# These do more after the head than the head does.
CHANGERS: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: tf.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=2.0),
    "cohere": lambda: tf.CohereConfig(**GROUPED, logit_scale=0.25),
    "granite": lambda: tf.GraniteConfig(**GROUPED, logits_scaling=3.0),
}


def make(config: Any) -> Any:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.float().eval()


def reference_nll(model: Any, batch: Batch) -> Tensor:
    """The plain way: every row on its own, all logits, all positions, then zero what is not supervised."""
    parts = []
    for row in batch.input_ids.split(batch.lengths):
        logits = model(input_ids=row[None], use_cache=False).logits[0]
        nll = -logits[:-1].float().log_softmax(-1).gather(1, row[1:, None]).squeeze(1)
        parts += [nll.new_zeros(1), nll]
    return torch.cat(parts) * batch.supervised


def gradients(model: nn.Module, nll: Tensor) -> dict[str, Tensor]:
    """Of a sum with a weight of its own for every position, so that a shifted position shows."""
    model.zero_grad()
    (nll * torch.arange(1.0, len(nll) + 1)).sum().backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: gradient.clone() for name, gradient in trained.items() if gradient is not None}


def expect_equal(model: Any, batch: Batch) -> None:
    ours, theirs = token_nll(model, batch), reference_nll(model, batch)
    assert ours.shape == (19,)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours[~batch.supervised] == 0).all()
    assert (ours[batch.supervised] > 0).all()
    our_gradients, their_gradients = gradients(model, ours), gradients(model, theirs)
    assert our_gradients.keys() == their_gradients.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in our_gradients.values())
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(
            gradient, their_gradients[name], atol=2e-4, rtol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", FIXTURE_ARCHITECTURES)
def test_equals_the_models_own_logits(
    tiny_model_dir: Callable[[str], Path], batch: Batch, arch: str, method: str
) -> None:
    loaded = load_base(str(tiny_model_dir(arch)), dtype="float32")
    model = apply_method(loaded.model, MethodConfig(name=method, dropout=0), dtype=loaded.dtype)
    if method == "lora":  # B starts at zero, and A would have no gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    expect_equal(model.eval(), batch)  # without the dropout of gpt2


@pytest.mark.parametrize("arch", FURTHER)
def test_further_architectures_equal_their_own_logits(batch: Batch, arch: str) -> None:
    model = make(FURTHER[arch]())
    assert model.config.model_type == arch
    expect_equal(model, batch)


def test_every_architecture_of_the_short_way_is_proven() -> None:
    assert set(loss.PLAIN_HEADS) == {*FIXTURE_ARCHITECTURES, *FURTHER}


@pytest.mark.parametrize("arch", CHANGERS)
def test_architectures_that_change_their_logits_compute_them_themselves(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, arch: str
) -> None:
    model = make(CHANGERS[arch]())
    expect_equal(model, batch)
    monkeypatch.setattr(loss, "PLAIN_HEADS", (*loss.PLAIN_HEADS, arch))
    assert not torch.allclose(token_nll(model, batch), reference_nll(model, batch), atol=1e-2)  # why it is not listed


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's
def test_an_adapter_on_the_head_is_not_passed_over(tiny_model_dir: Callable[[str], Path], batch: Batch) -> None:
    base = load_base(str(tiny_model_dir("llama")), dtype="float32").model
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"], init_lora_weights=False))
    expect_equal(model, batch)


def test_the_short_way_never_forms_the_logits_of_the_batch(tiny_model_dir: Callable[[str], Path], batch: Batch) -> None:
    model = load_base(str(tiny_model_dir("llama")), dtype="float32").model
    calls: list[object] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    token_nll(model, batch)
    assert not calls
    reference_nll(model, batch)
    assert calls == [1, 1, 1]  # the hook does see the head at work


def test_padding_changes_nothing(tiny_model_dir: Callable[[str], Path], batch: Batch) -> None:
    model = load_base(str(tiny_model_dir("qwen2")), dtype="float32").model
    together = token_nll(model, batch)
    ids, supervised = (tensor.split(batch.lengths) for tensor in (batch.input_ids, batch.supervised))
    for row, nll in enumerate(together.split(batch.lengths)):
        alone = Batch(ids[row], supervised[row], (len(nll),), rows=(row,))
        torch.testing.assert_close(token_nll(model, alone), nll, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", ["end to end", "padded"])
def test_a_row_has_the_frequencies_of_its_own_length(batch: Batch, rows: str) -> None:
    """Of the three rows the first is longer than the original context, which transformers asks of a whole pass."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    model = make(tf.Phi3Config(**GROUPED, original_max_position_embeddings=6, rope_parameters=rope))
    with packing(model) if rows == "end to end" else nullcontext():
        expect_equal(model, batch)


@pytest.mark.parametrize("beyond", [0, 1])
def test_dynamic_rope_remembers_rows_beyond_the_context_alone(beyond: int) -> None:
    """Training has none: `data.max_length` and `pretrain.context` end at the context."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = make(tf.LlamaConfig(**{**GROUPED, "max_position_embeddings": 12}, rope_parameters=rope))
    context = context_tokens(model)
    assert context == 12

    def nll(length: int) -> Tensor:
        return token_nll(model, Batch(torch.arange(length) + 4, torch.arange(length) > 0, (length,), rows=(2,)))

    before = nll(context)
    nll(context + beyond)
    assert torch.equal(nll(context), before) == (beyond == 0)


def test_a_batch_without_targets_is_zero_and_can_be_trained_on(
    tiny_model_dir: Callable[[str], Path], batch: Batch
) -> None:
    loaded = load_base(str(tiny_model_dir("gpt2")), dtype="float32")
    model = apply_method(loaded.model, MethodConfig(name="full"), dtype=loaded.dtype)
    empty = Batch(batch.input_ids, torch.zeros_like(batch.supervised), batch.lengths, batch.rows)
    nll = token_nll(model, empty)
    nll.sum().backward()
    assert nll.shape == (19,)
    assert (nll == 0).all()


def test_bfloat16_stays_close_to_float32(tiny_model_dir: Callable[[str], Path], batch: Batch) -> None:
    exact = token_nll(load_base(str(tiny_model_dir("llama")), dtype="float32").model, batch)
    rough = token_nll(load_base(str(tiny_model_dir("llama")), dtype="bfloat16").model, batch)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.3, rtol=0.05)
