"""Layers that read the same input are computed at once, to the results of computing each on its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.parity.test_packing import ARCHITECTURES, losses_and_gradients, make, one_batch
from tunesmith.config import MethodConfig
from tunesmith.kernels import LoraLayer, lora_linear
from tunesmith.model import apply_method, fusion, seeded_dropout
from tunesmith.model.fusion import fused_adapters
from tunesmith.types import Encoded

# How many layers read one input, in the order of a block.
READS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2", "smollm3"), (3, 1, 2, 1)),
    **dict.fromkeys(("phi", "opt", "starcoder2"), (3, 1, 1, 1)),
    **dict.fromkeys(("gpt2", "phi3", "gpt_neox"), (1, 1, 1, 1)),  # one layer makes q, k and v
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each call of the kernel computed."""
    counts: list[int] = []

    def counted(inputs: Tensor, *layers: LoraLayer, dropout: float) -> tuple[Tensor, ...]:
        counts.append(len(layers))
        return lora_linear(inputs, *layers, dropout=dropout)

    monkeypatch.setattr(fusion, "lora_linear", counted)
    return counts


@pytest.fixture
def rows() -> list[Encoded]:
    draw = np.random.default_rng(0)
    return [Encoded(draw.integers(2, 200, n), np.arange(n) >= n // 3, row=n) for n in (9, 40, 17)]


def adapted(arch: str, *, dropout: float = 0.0, targets: list[str] | None = None) -> nn.Module:
    chosen = {} if targets is None else {"target_modules": targets}
    method = MethodConfig(name="lora", dropout=dropout, **chosen)
    config = ARCHITECTURES[arch]()
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    model = apply_method(make(config), method, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_each_read_is_one_call(
    arch: str, dropout: float, rows: list[Encoded], calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = adapted(arch, dropout=dropout).train(), one_batch(rows)

    def computed() -> tuple[Tensor, dict[str, Tensor]]:
        calls.clear()
        with fused_adapters(model), seeded_dropout(1):
            return losses_and_gradients(model, batch)

    nll, gradients = computed()
    assert tuple(calls) == 2 * READS[arch]
    monkeypatch.setattr(fusion, "_SIBLINGS", ())
    alone, wanted = computed()
    assert set(calls) == {1}
    # to rounding, the same numbers dropped: each layer draws for itself, in the order of the calls
    torch.testing.assert_close(nll, alone)
    assert gradients.keys() == wanted.keys()
    assert max(gradient.abs().max() for gradient in wanted.values()) > 1e-2
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_every_packed_architecture_is_listed() -> None:
    assert READS.keys() == ARCHITECTURES.keys()


def test_adapters_on_some_of_the_siblings(rows: list[Encoded], calls: list[int]) -> None:
    model = adapted("llama", targets=["q_proj", "v_proj", "up_proj"])
    with fused_adapters(model):
        losses_and_gradients(model, one_batch(rows))
    assert calls == 2 * [2, 1]


def test_a_layer_whose_bias_is_trained_computes_as_before(rows: list[Encoded], calls: list[int]) -> None:
    model = adapted("opt", targets=["q_proj"])
    biases = [p for name, p in model.named_parameters() if name.endswith("q_proj.base_layer.bias")]
    biases[0].requires_grad_()
    with fused_adapters(model):
        losses_and_gradients(model, one_batch(rows))
    assert len(calls) == len(biases) - 1
    assert biases[0].grad is not None


@pytest.fixture
def attention() -> Iterator[nn.Module]:
    model = adapted("llama")
    with fused_adapters(model):
        yield model.get_base_model().model.layers[0].self_attn  # type: ignore[operator]


def test_another_input_is_not_answered_with_what_was_computed_ahead(attention: nn.Module) -> None:
    first, second = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    q_proj, k_proj = attention.get_submodule("q_proj"), attention.get_submodule("k_proj")
    wanted = k_proj(second)
    q_proj(first)
    assert torch.equal(k_proj(second), wanted)
    assert not torch.equal(q_proj(first), q_proj(second))


def test_a_sibling_that_is_not_called_gets_no_gradient(attention: nn.Module) -> None:
    inputs = torch.randn(2, 5, 32)
    (attention.get_submodule("q_proj")(inputs).sum() + attention.get_submodule("v_proj")(inputs).sum()).backward()
    with_gradient = {name for name, parameter in attention.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in with_gradient} == {"q_proj", "v_proj"}


def test_threads_do_not_see_each_other(attention: nn.Module) -> None:
    inputs, results = torch.randn(2, 5, 32), []

    def call(name: str) -> None:
        results.append(attention.get_submodule(name)(inputs))

    call("q_proj")
    other = threading.Thread(target=call, args=("k_proj",))
    other.start()
    other.join()
    call("k_proj")
    # each a view of what one operation gave
    first, elsewhere, second = (out.grad_fn.next_functions[0][0] for out in results)
    assert first is second
    assert first is not elsewhere
    assert torch.equal(results[1], results[2])


def test_nothing_is_kept_afterwards(rows: list[Encoded]) -> None:
    model = adapted("llama")
    with fused_adapters(model):
        losses_and_gradients(model, one_batch(rows))
        assert fusion._AHEAD.inputs is None
        model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")(torch.randn(1, 32))
        assert fusion._AHEAD.inputs is not None
    assert fusion._AHEAD.inputs is None
    assert not fusion._AHEAD.results
    assert not any("siblings" in vars(module) for module in model.modules())
