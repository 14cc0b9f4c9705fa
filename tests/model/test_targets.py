"""Where an adapter goes: roles, regular expressions, ranges of layers, whole modules, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tunesmith.config import MethodConfig, load_config, parse_layers
from tunesmith.errors import SettingsError
from tunesmith.model import (
    apply_method,
    check_method,
    load_adapter,
    load_base,
    load_skeleton,
    merge,
    save_adapter,
    token_nll,
)
from tunesmith.model.targets import chosen_layers
from tunesmith.types import Batch

PEFT_WARNING = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def adapted(model: Any) -> set[str]:
    return {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") or hasattr(module, "ia3_l")
    }


@pytest.mark.parametrize(
    ("arch", "wanted", "layers", "expected"),
    [
        ("llama", r".*\.(q|v)_proj", None, ["0.self_attn.q_proj", "0.self_attn.v_proj"] * 2),
        ("llama", [r".*1\.mlp\.up_proj", "k_proj"], "1", ["1.self_attn.k_proj", "1.mlp.up_proj"]),
        ("llama", "query, down", "1", ["1.self_attn.q_proj", "1.mlp.down_proj"]),
        ("gpt2", "value", "0", ["0.attn.c_attn"]),
        ("gpt2", "output", "0-1", ["0.attn.c_proj", "1.attn.c_proj"]),
        ("phi", "down", None, ["0.mlp.fc2", "1.mlp.fc2"]),
        ("phi3", "up", "1", ["1.mlp.gate_up_proj"]),
    ],
)
def test_what_is_selected(
    tiny_model_dir: Callable[[str], Path], arch: str, wanted: Any, layers: str | None, expected: list[str]
) -> None:
    if len(expected) == 4:
        expected[2:] = [name.replace("0.", "1.", 1) for name in expected[2:]]
    skeleton = load_skeleton(str(tiny_model_dir(arch)))
    prefix = "transformer.h." if arch == "gpt2" else "model.layers."
    assert chosen_layers(skeleton, wanted, layers) == [prefix + name for name in expected]


@pytest.mark.parametrize("name", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_an_adapter_in_some_layers_only(tiny_model_dir: Callable[[str], Path], arch: str, name: str) -> None:
    method = MethodConfig(name=name, layers="1", target_modules="all")  # type: ignore[arg-type]
    skeleton = load_skeleton(str(tiny_model_dir(arch)))
    everything = chosen_layers(skeleton, "all")
    model = apply_method(load_base(str(tiny_model_dir(arch))).model, method, dtype=torch.float32)
    assert adapted(model) == {path for path in everything if ".1." in path}
    assert len(everything) == 2 * len(adapted(model))


@pytest.mark.parametrize(
    ("settings", "words", "fix"),
    [
        ({"layers": "1-2"}, "this model has no layer 2; it has 2, from 0 to 1", "choose layers from 0-1"),
        ({"target_modules": r".*\.q_prj"}, "matches no linear layer", "begin it with .*"),
        ({"target_modules": "q_prj"}, "matches no linear layer", "did you mean q_proj?"),
        ({"target_modules": "layers.0.mlp.up_proj", "layers": "1"}, "has none of the layers", "choose other layers"),
        ({"name": "pissa", "r": 33}, "more than model.layers.0.self_attn.q_proj has directions", "set method.r to 32"),
    ],
)
def test_what_the_model_does_not_have_is_refused_before_it_is_loaded(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path, settings: dict[str, Any], words: str, fix: str
) -> None:
    folder = tmp_path / "without-weights"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((tiny_model_dir("llama") / name).read_bytes())
    (folder / "model.safetensors").write_bytes(b"nothing that could be loaded")
    with pytest.raises(SettingsError, match=words) as caught:
        check_method(MethodConfig(**settings), str(folder))
    assert fix in str(caught.value.fix)
    check_method(MethodConfig(name="lora", layers="0-1", target_modules="attention"), str(folder))


def test_all_of_it_is_told_together(tiny_model_dir: Callable[[str], Path]) -> None:
    """The head of this model is its embeddings; two names and a layer are not there either."""
    wanted = {"layers": "0-40", "target_modules": ["q_prj", "mlp", ".*nothing"], "modules_to_save": "head"}
    with pytest.raises(SettingsError, match="4 settings do not fit this model") as refused:
        check_method(MethodConfig(name="lora", **wanted), str(tiny_model_dir("gpt2")))
    told = ["'q_prj' matches no", "'.*nothing' matches no", "no layer 2; it has 2, from 0 to 1", "are one matrix"]
    assert [part in problem for part, problem in zip(told, refused.value.problems, strict=True)] == [True] * 4
    assert "choose layers from 0-1" in refused.value.problems[2]


def test_methods_without_places_ask_for_no_model() -> None:
    check_method(MethodConfig(), "there/is/none")
    check_method(MethodConfig(name="full"), "there/is/none")
    check_method(MethodConfig(name="ia3"), "there/is/none")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"method.layers": "3-1"}, "the range 3-1 goes backwards; write 1-3"),
        ({"method.layers": "first"}, "'first' is no layer and no range"),
        ({"method.layers": "-1"}, "'-1' is no layer and no range"),
        ({"method.target_modules": "*.q_proj"}, "'\\*.q_proj' is no regular expression"),
        ({"method": "full", "method.layers": "0"}, "full has no method.layers: leave it out"),
        (
            {"method": "full", "lora_target": "mlp", "modules_to_save": "head"},
            "target_modules and no method.modules_to_save: leave",
        ),
        ({"method.modules_to_save": "lm_head"}, "none | embeddings | head | both"),
    ],
)
def test_settings_that_no_model_can_have(overrides: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_config(overrides=overrides)
    assert words.replace("\\", "") in str(caught.value)


def test_layers_are_read_as_ranges() -> None:
    assert parse_layers(" 24-26, 0,2 ,1-2") == (0, 1, 2, 24, 25, 26)
    assert load_config(overrides={"method.layers": "3"}).method.layers == "3"


@PEFT_WARNING
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["lora", "ia3"])
@pytest.mark.parametrize("saved", ["embeddings", "head", "both"])
def test_whole_modules_train_beside_an_adapter_and_come_back(
    tiny_model_dir: Callable[[str], Path],
    tmp_path: Path,
    batch: Batch,
    logits_of: Any,
    saved: str,
    name: str,
    dtype: str,
) -> None:
    folder = tiny_model_dir("qwen2")
    base = load_base(str(folder), dtype=dtype, device="cpu")
    method = MethodConfig(name=name, modules_to_save=saved)  # type: ignore[arg-type]
    model = apply_method(base.model, method, dtype=base.dtype)
    wanted = {"embeddings": ("embed_tokens",), "head": ("lm_head",), "both": ("embed_tokens", "lm_head")}[saved]
    whole = {path: p for path, p in model.named_parameters() if p.requires_grad and "modules_to_save" in path}
    assert sorted(path.split(".modules_to_save")[0].rpartition(".")[2] for path in whole) == sorted(wanted)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {path: parameter.detach().clone() for path, parameter in whole.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        token_nll(model.train(), batch).sum().backward()
    optimizer.step()
    for path, parameter in whole.items():
        assert parameter.dtype == torch.float32
        assert (parameter - before[path]).abs().max() > 1e-3
    if dtype == "bfloat16":
        return  # what follows is compared exactly
    tuned = logits_of(model.eval(), batch)
    save_adapter(model, tmp_path, tokenizer=base.tokenizer, base_path=str(folder), base_revision=base.revision)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(plain, str(tmp_path)), batch), tuned)
    loaded = load_adapter(tmp_path, dtype="float32", device="cpu")
    torch.testing.assert_close(logits_of(loaded.model, batch), tuned)
    torch.testing.assert_close(logits_of(merge(loaded.model), batch), tuned, atol=1e-4, rtol=1e-4)


def test_tied_embeddings_are_not_trained_in_one_place(tiny_model_dir: Callable[[str], Path]) -> None:
    with pytest.raises(SettingsError, match="are one matrix") as caught:
        check_method(MethodConfig(name="lora", modules_to_save="head"), str(tiny_model_dir("gpt2")))
    assert "method.name full" in str(caught.value.fix)
