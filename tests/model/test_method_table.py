"""What the table of methods promises of each method, tried out on tiny models: the table cannot lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tunesmith.config import METHODS, MethodConfig, quantize_of
from tunesmith.errors import SettingsError
from tunesmith.model import apply_method, load_adapter, load_base, merge, packing, save_adapter, token_nll
from tunesmith.types import Batch

SHAPES = ["gpt2", "llama", "qwen2"]
PEFT_WARNING = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def configured(name: str) -> MethodConfig:
    own = {"r": 4, "alpha": 6, "dropout": 0, "num_virtual_tokens": 5}
    return MethodConfig(name=name, **{setting: own[setting] for setting in own.keys() & {*METHODS[name].reads}})


def quantize_for(name: str) -> str:
    """The base that a method has by itself; a method on 4 bits is left out where bitsandbytes is not installed."""
    if METHODS[name].is_quantized:
        pytest.importorskip("bitsandbytes")
    return quantize_of(name, "auto")


def prepared(folder: Path, name: str, *, checkpointing: bool = False) -> Any:
    torch.manual_seed(7)
    base = load_base(str(folder), dtype="float32", device="cpu", quantize=quantize_for(name))
    method = configured(name)
    model = apply_method(base.model, method, dtype=torch.float32, gradient_checkpointing=checkpointing)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return base, model.train()


def moved(model: Any) -> Any:
    """As training leaves it: no matrix zero, no factor one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_schema_offers_exactly_the_methods_of_the_table() -> None:
    assert get_args(MethodConfig.model_fields["name"].annotation) == ("auto", *METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_the_settings_of_the_table_and_no_other(
    tiny_model_dir: Callable[[str], Path], name: str
) -> None:
    asked = {
        **{"r": 3, "alpha": 5, "dropout": 0.25, "target_modules": "key,down", "layers": "1", "modules_to_save": "both"},
        **{"num_virtual_tokens": 7, "init_text": "Answer.", "encoder_hidden_size": 8},
    }
    assert asked.keys() == MethodConfig.model_fields.keys() - {"name"}
    given = configured(name).model_copy(update={"init_text": "Text."})

    def made(method: MethodConfig) -> tuple[str, list[tuple[str, float]]]:
        """PEFT's settings, and what trains, as it begins."""
        torch.manual_seed(7)
        base = load_base(str(tiny_model_dir("llama")), dtype="float32", device="cpu", quantize=quantize_for(name))
        ids = base.tokenizer(method.init_text)["input_ids"]
        model = apply_method(base.model, method, dtype=torch.float32, prompt_ids=ids)
        trained = [(path, p.abs().sum().item()) for path, p in model.named_parameters() if p.requires_grad]
        return str(model.peft_config["default"].to_dict()) if isinstance(model, PeftModel) else "", trained

    before = made(given)
    for setting, value in asked.items():
        reads = made(given.model_copy(update={setting: value})) != before  # past the check that refuses it
        assert reads == (setting in METHODS[name].reads), setting


@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_begins_at_the_base_and_trains_only_its_own(
    tiny_model_dir: Callable[[str], Path], batch: Batch, logits_of: Any, name: str, arch: str
) -> None:
    _, model = prepared(tiny_model_dir(arch), name)
    plain = load_base(str(tiny_model_dir(arch)), dtype="float32", device="cpu", quantize=quantize_for(name)).model
    begun, before = logits_of(model.eval(), batch), logits_of(plain, batch)
    if METHODS[name].is_soft_prompt:  # more is read from the start
        assert (begun - before).abs().max() > 1e-2
    else:
        torch.testing.assert_close(begun, before, atol=2e-4, rtol=1e-4)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert isinstance(model, PeftModel) == METHODS[name].is_adapter
    assert METHODS[name].is_adapter == all(
        any(own in name for own in ("lora_", "ia3_", "prompt_encoder")) for name in trainable
    )
    has_rank = any(4 in parameter.shape for parameter in model.parameters() if parameter.requires_grad)
    assert has_rank == METHODS[name].has_rank
    token_nll(model.train(), batch).sum().backward()
    for path, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in path:  # A has none while B is zero
            assert parameter.grad is not None, path
            assert parameter.grad.abs().max() > 0, path


@PEFT_WARNING
@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_saved_loaded_in_plain_peft_and_merged_it_is_the_same_model(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, batch: Batch, logits_of: Any, name: str, arch: str
) -> None:
    folder = tiny_model_dir(arch)
    base, model = prepared(folder, name)
    started = logits_of(model.eval(), batch)
    tuned = logits_of(moved(model), batch)
    assert (tuned - started).abs().max() > 1e-2
    save_adapter(model, tmp_path / "m", tokenizer=base.tokenizer, base_path=str(folder), base_revision=base.revision)

    loaded = load_adapter(tmp_path / "m", dtype="float32", device="cpu", quantize=quantize_for(name))
    torch.testing.assert_close(logits_of(loaded.model, batch), tuned, atol=2e-4, rtol=1e-4)
    if METHODS[name].is_quantized:
        with pytest.raises(SettingsError, match="quantised base"):
            merge(loaded.model)
        loaded = load_adapter(tmp_path / "m", dtype="float32", device="cpu")
        assert (logits_of(loaded.model, batch) - tuned).abs().max() > 1e-2  # 4 bits are not the whole
        tuned = logits_of(loaded.model, batch)

    plain = AutoModelForCausalLM.from_pretrained(
        folder if METHODS[name].is_adapter else tmp_path / "m", dtype=torch.float32
    )
    names = dict(plain.named_parameters())
    shapes = {path: parameter.shape for path, parameter in names.items()}
    if METHODS[name].is_adapter:
        plain = PeftModel.from_pretrained(plain, str(tmp_path / "m")).eval()
    torch.testing.assert_close(logits_of(plain, batch), tuned, atol=2e-4, rtol=1e-4)

    if not METHODS[name].mergeable:
        assert METHODS[name].gguf == "none"
        with pytest.raises(SettingsError, match="cannot be merged"):
            merge(loaded.model)
    else:
        merged = merge(loaded.model)
        torch.testing.assert_close(logits_of(merged, batch), tuned, atol=2e-4, rtol=1e-4)
        # a GGUF writer knows the names and shapes of the architecture, and no others
        assert {path: parameter.shape for path, parameter in merged.named_parameters()} == shapes
    if METHODS[name].is_adapter:
        with safe_open(tmp_path / "m" / "adapter_model.safetensors", framework="pt") as file:
            only_pairs = all(key.endswith(("lora_A.weight", "lora_B.weight")) for key in file.keys())  # noqa: SIM118
        # a GGUF adapter holds pairs of matrices and nothing else
        assert only_pairs == (METHODS[name].gguf == "adapter")


@pytest.mark.parametrize("name", METHODS)
def test_gradient_checkpointing(tiny_model_dir: Callable[[str], Path], batch: Batch, name: str) -> None:
    if not METHODS[name].gradient_checkpointing:
        with pytest.raises(SettingsError, match="cannot recompute"):
            prepared(tiny_model_dir("llama"), name, checkpointing=True)
        return
    found = []
    for checkpointing in (False, True):
        _, model = prepared(tiny_model_dir("llama"), name, checkpointing=checkpointing)
        passes: list[int] = []
        first = next(module for path, module in model.named_modules() if path.endswith("layers.0.self_attn"))
        first.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        token_nll(moved(model), batch).sum().backward()
        found.append((len(passes), {path: p.grad for path, p in model.named_parameters() if p.grad is not None}))
    assert [count for count, _ in found] == [1, 2]
    for path, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][path], gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_packing(tiny_model_dir: Callable[[str], Path], batch: Batch, name: str, arch: str) -> None:
    _, model = prepared(tiny_model_dir(arch), name)
    padded = token_nll(moved(model), batch)
    with packing(model) as problem:
        packed = token_nll(model, batch)
    assert METHODS[name].packable == (problem is None)
    torch.testing.assert_close(packed, padded, atol=2e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_a_base_in_four_bits(tiny_model_dir: Callable[[str], Path], batch: Batch, name: str) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_base(str(tiny_model_dir("llama")), dtype="float32", device="cpu", quantize="nf4").model
    method = configured(name)
    if not METHODS[name].quantisable:
        with pytest.raises(SettingsError, match="quantised"):
            apply_method(base, method, dtype=torch.float32)
        return
    model = moved(apply_method(base, method, dtype=torch.float32)).train()
    token_nll(model, batch).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert gradients
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(("name", "quantize"), [("qlora", "nf4"), ("lora", "int8")])
def test_a_validation_changes_nothing_of_a_quantised_base(
    tiny_model_dir: Callable[[str], Path], batch: Batch, name: str, quantize: str
) -> None:
    """bitsandbytes would lay its 4-bit weights out anew for products without a gradient (CPUs with avx512_bf16)."""
    pytest.importorskip("bitsandbytes")
    base = load_base(str(tiny_model_dir("llama")), dtype="float32", device="cpu", quantize=quantize)
    model = moved(apply_method(base.model, configured(name), dtype=torch.float32))

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        token_nll(model, batch).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    before = gradients()
    with torch.no_grad():
        token_nll(model.eval(), batch)
    after = gradients()
    assert len(before) == len(after) > 0
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_rates_that_do_not_rise_with_size(name: str) -> None:
    sizes, rates = zip(*METHODS[name].rates, strict=True)
    assert list(sizes) == sorted(sizes)
    assert list(rates) == sorted(rates, reverse=True)
    assert all(1e-6 < rate < 1e-1 for rate in rates)


def test_the_page_says_what_the_table_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    found = [row for row in rows if len(row) == 7 and row[0] in METHODS]
    assert found == [
        [
            name,
            *(
                "yes" if can else "no"
                for can in (
                    method.mergeable,
                    method.quantisable,
                    method.gradient_checkpointing,
                    method.packable,
                )
            ),
            method.gguf,
            method.source,
        ]
        for name, method in METHODS.items()
    ]
