"""The faster way of computing: same numbers, nothing left behind, and when compiling is worth it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from tunesmith.config import MethodConfig
from tunesmith.data import batches
from tunesmith.errors import ResourceError
from tunesmith.kernels import why_not_native
from tunesmith.model import (
    Lanes,
    accelerated,
    apply_method,
    choose_compile,
    choose_native,
    load_base,
    seeded_dropout,
    speed,
    token_nll,
)
from tunesmith.model.fusion import fused_adapters
from tunesmith.types import Batch, Encoded

CPU = torch.device("cpu")


def adapted(folder: Path, *, dropout: float = 0.0, dtype: str = "float32") -> nn.Module:
    base = load_base(str(folder), dtype=dtype)
    model = apply_method(base.model, MethodConfig(name="lora", dropout=dropout), dtype=base.dtype)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def three_batches() -> list[Batch]:
    draw = np.random.default_rng(0)
    rows = [Encoded(draw.integers(4, 300, n), np.arange(n) >= n // 3, row=n) for n in (40, 31, 9, 22, 5)]
    return list(batches(rows, tokens=50))


def gradients(model: nn.Module, chosen: list[Batch]) -> dict[str, Tensor]:
    model.zero_grad()
    for batch in chosen:
        token_nll(model, batch).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def expect_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert any(gradient.abs().max() > 1e-2 for gradient in wanted.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "phi", "gemma"])
def test_same_gradients_and_the_model_is_as_before(
    tiny_model_dir: Callable[[str], Path], arch: str, three_batches: list[Batch]
) -> None:
    model = adapted(tiny_model_dir(arch))
    names = list(model.state_dict())
    wanted = gradients(model, three_batches)
    with accelerated(model, compiled=False, native=False, lanes=Lanes()):
        assert list(model.state_dict()) == names
        expect_close(gradients(model, three_batches), wanted)
    again = gradients(model, three_batches)
    assert all(torch.equal(again[name], gradient) for name, gradient in wanted.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler does is not ours to mend
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_compiled_layers_give_the_same_gradients(
    tiny_model_dir: Callable[[str], Path],
    arch: str,
    three_batches: list[Batch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = adapted(tiny_model_dir(arch))
    wanted = gradients(model, three_batches)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with accelerated(model, compiled=True, native=False, lanes=Lanes()):
        expect_close(gradients(model, three_batches), wanted)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2  # one code for all layers and lengths
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with accelerated(model, compiled=True, native=False, lanes=Lanes()):  # as the next run does
        expect_close(gradients(model, three_batches), wanted)
    assert torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"] > 0
    assert torch._dynamo.utils.counters["inductor"]["fxgraph_cache_miss"] == 0


def test_what_is_computed_again_drops_the_same_in_cpp(
    tiny_model_dir: Callable[[str], Path], three_batches: list[Batch]
) -> None:
    if problem := why_not_native():
        pytest.skip(problem)
    plain = adapted(tiny_model_dir("llama"), dropout=0.3, dtype="bfloat16")
    base = load_base(str(tiny_model_dir("llama")), dtype="bfloat16")
    method = MethodConfig(name="lora", dropout=0.3)
    again = apply_method(base.model, method, dtype=base.dtype, gradient_checkpointing=True)
    again.load_state_dict(plain.state_dict())
    found = []
    for model in (plain, again):
        with accelerated(model, compiled=False, native=True, lanes=Lanes()), seeded_dropout(3):
            found.append(gradients(model.train(), three_batches))
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler does is not ours to mend
def test_compiled_layers_around_kernels_in_cpp_are_one_code_for_all_lengths(
    tiny_model_dir: Callable[[str], Path], three_batches: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if problem := why_not_native():
        pytest.skip(problem)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = adapted(tiny_model_dir("llama"), dtype="bfloat16")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with accelerated(model, compiled=True, native=True, lanes=Lanes()):
        compiled = gradients(model, three_batches)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    with accelerated(model, compiled=False, native=True, lanes=Lanes()):
        plain = gradients(model, three_batches)
    for name, gradient in plain.items():
        assert (compiled[name] - gradient).norm() < 0.1 * gradient.norm()  # rounded at other places


@pytest.mark.filterwarnings("ignore")  # what the compiler does is not ours to mend
@pytest.mark.parametrize("is_named", [False, True])
def test_the_folder_of_compiled_code_is_named_only_inside(
    tiny_model_dir: Callable[[str], Path], is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, own = "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine") if is_named else None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(name, own)
    with accelerated(adapted(tiny_model_dir("llama")), compiled=True, native=False, lanes=Lanes()):
        assert os.environ[name] == (own or str(tmp_path / "tunesmith" / "compiled"))
    assert os.environ.get(name) == own


def test_every_linear_layer_of_an_adapter_is_fused(tiny_model_dir: Callable[[str], Path]) -> None:
    model = adapted(tiny_model_dir("llama"))
    with fused_adapters(model) as count:
        assert count == 14
        assert not any(type(module) is Linear for module in model.modules())
    assert sum(type(module) is Linear for module in model.modules()) == 14


def test_a_disabled_or_merged_adapter_is_left_to_peft(
    tiny_model_dir: Callable[[str], Path], three_batches: list[Batch]
) -> None:
    model = adapted(tiny_model_dir("llama"))
    assert isinstance(model, PeftModel)
    with model.disable_adapter():
        base = token_nll(model, three_batches[0])
        with fused_adapters(model):
            assert torch.equal(token_nll(model, three_batches[0]), base)
    model.merge_adapter()
    with fused_adapters(model) as count:
        assert count == 0


def test_dropout_acts_in_training_only(tiny_model_dir: Callable[[str], Path], three_batches: list[Batch]) -> None:
    model = adapted(tiny_model_dir("llama"), dropout=0.5)
    with fused_adapters(model):
        first, second = (token_nll(model, three_batches[0]) for _ in range(2))
        assert torch.equal(first, second)
        model.train()
        first, second = (token_nll(model, three_batches[0]) for _ in range(2))
        assert not torch.equal(first, second)


@pytest.mark.parametrize(("arch", "method"), [("llama", "lora"), ("gpt2", "full"), ("llama", "dora")])
def test_what_is_computed_again_drops_the_same(
    tiny_model_dir: Callable[[str], Path], arch: str, method: str, three_batches: list[Batch]
) -> None:
    """Recomputing activations is exact with dropout, also where the backward pass runs outside of the seed."""
    found = []
    for recomputed in (False, True):
        base = load_base(str(tiny_model_dir(arch)), dtype="float32")
        chosen = MethodConfig(name=method, **({} if method == "full" else {"dropout": 0.4}))
        torch.manual_seed(0)
        model = apply_method(base.model, chosen, dtype=base.dtype, gradient_checkpointing=recomputed).train()
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        with accelerated(model, compiled=False, native=False, lanes=Lanes()):
            for number, batch in enumerate(three_batches):
                with seeded_dropout(number):
                    loss = token_nll(model, batch).sum()
                loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.parametrize(("tokens", "expected"), [(10**6, False), (10**9, True)])
def test_compiling_is_chosen_by_the_length_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tokens: int, expected: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    compiled, reason = choose_compile(CPU, parameters=10**6, tokens=tokens)
    assert compiled is expected
    assert "repay" in reason


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    compiled, reason = choose_compile(CPU, parameters=10**9, tokens=10**9)
    assert not compiled
    assert "compiler" in reason


BF16, NO_COMPILER = torch.bfloat16, "there is no C++ compiler on this machine"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """made(why): a CPU with bfloat16 and a compiler, where kernels in C++ can be made, or cannot for that reason."""

    def be(why: str | None = None, *, computes_bfloat16: bool = True, compiler: bool = True) -> None:
        monkeypatch.setattr(speed, "why_not_native", lambda: why)
        monkeypatch.setattr(speed, "computes_bfloat16", lambda device: computes_bfloat16)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)

    return be


def test_kernels_in_cpp_are_chosen_where_they_can_be_had(made: Callable[..., None]) -> None:
    made()
    assert choose_native("auto", CPU, BF16) == (True, "this CPU has avx512_bf16, and there is a C++ compiler")
    assert choose_native("on", CPU, BF16) == (True, "as set")


@pytest.mark.parametrize(
    ("device", "dtype", "machine", "why", "fix"),
    [
        ("cuda", BF16, {}, "they are for CPUs, and the model is on cuda", "set train.native to auto"),
        ("mps", torch.float32, {}, "they are for CPUs, and the model is on mps", "set train.native to auto"),
        ("cpu", torch.float32, {}, "the model computes in float32", "set train.native to auto"),
        ("cpu", BF16, {"compiler": False}, NO_COMPILER, "install g++, or set train.native to auto"),
        (
            *("cpu", BF16, {"why": "this CPU has no avx512_bf16", "computes_bfloat16": False, "compiler": False}),
            *("this CPU has no avx512_bf16", "set train.native to auto"),
        ),
        (
            "cpu",
            BF16,
            {"why": "they do not compile: x.h: error"},
            "they do not compile: x.h: error",
            "set train.native",
        ),
    ],
)
def test_why_there_are_no_kernels_in_cpp(
    made: Callable[..., None], device: str, dtype: torch.dtype, machine: dict[str, Any], why: str, fix: str
) -> None:
    made(**machine)
    native, reason = choose_native("auto", torch.device(device), dtype)
    assert not native
    assert reason.removesuffix("; with g++ this CPU would train faster") == why
    assert reason.endswith("faster") is (why == NO_COMPILER)
    with pytest.raises(ResourceError, match="and there are no kernels in") as refused:
        choose_native("on", torch.device(device), dtype)
    assert refused.value.message.endswith(f"here: {why}")
    assert str(refused.value.fix).startswith(fix)
    assert str(refused.value.fix).endswith("to resume a run that has them: --train.native off --allow-drift")


def test_nothing_is_compiled_where_kernels_in_cpp_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "why_not_native", lambda: pytest.fail("it compiles"))
    assert choose_native("off", CPU, BF16) == (False, "as set")
    assert not choose_native("auto", CPU, torch.float32)[0]
    assert not choose_native("auto", torch.device("cuda"), BF16)[0]
