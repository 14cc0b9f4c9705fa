"""Folders for mlx-lm: computed by the real mlx-lm as transformers computes the model; and what is planted is caught."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import make_tokenizer, randomised
from tests.export.conftest import faults, statuses
from tunesmith.api import export, open_session
from tunesmith.api.exporter import _trained
from tunesmith.config import load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export import LAYOUTS, MlxModel, find_layout, mlx, mlx_layouts, targets
from tunesmith.export.merged import write_merged
from tunesmith.export.targets import check_wishes, plan
from tunesmith.model import load_adapter, merge, open_trained
from tunesmith.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PROMPTS = 4
IDS = [5, 60, 7, 120, 9, 200, 11, 12, 300, 14, 15, 16]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.fixture
def mlx_lm() -> None:
    pytest.importorskip("mlx.core")
    pytest.importorskip("mlx_lm")


def tiny(arch: str, **settings: Any) -> Any:
    """A random model of two layers whose rotary base is nobody's default."""
    import transformers as tf

    shared = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_theta": 777.0, "rope_type": "default"},
        **{"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0},
    }
    if arch == "phi":
        shared["rope_parameters"] = {**shared["rope_parameters"], "partial_rotary_factor": 0.5}
    elif arch != "gpt2":
        shared["num_key_value_heads"] = 2
    if arch == "gpt2":
        shared = {"vocab_size": shared["vocab_size"], "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    own: dict[str, dict[str, Any]] = {
        "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
        "llama": {"head_dim": 16, "tie_word_embeddings": False},
        "phi3": {"original_max_position_embeddings": 256, "sliding_window": None},
        "gemma": {"head_dim": 16},
        "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
        "granite": {"embedding_multiplier": 2.0, "attention_multiplier": 0.3, "logits_scaling": 1.5},
    }
    config = tf.AutoConfig.for_model(arch, **{**shared, **own.get(arch, {}), **settings})
    torch.manual_seed(0)
    return randomised(tf.AutoModelForCausalLM.from_config(config))


def written(model: Any, folder: Path) -> Path:
    """`model` as Tunesmith writes it for mlx-lm."""
    source, target = folder / "source", folder / "mlx"
    model.save_pretrained(source)
    make_tokenizer().save_pretrained(source)
    target.mkdir()
    layout = find_layout(model.config)
    write_merged(target, open_trained(source), source, dtype=torch.float32, stop_ids=(1, 3), layout=layout)
    return target


def difference(model: Any, found: MlxModel) -> float:
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(expected).max() > 0.5
    return float(np.abs(found.logits(IDS) - expected).max() / max(1.0, np.abs(expected).max()))


@pytest.mark.usefixtures("mlx_lm")
@pytest.mark.parametrize("arch", LAYOUTS)
def test_every_architecture_computes_the_same(arch: str, tmp_path: Path) -> None:
    model = tiny(arch)
    found = MlxModel(written(model, tmp_path))
    # float32 sums in another order; of gemma mlx-lm computes the exact GELU, transformers the approximate one
    assert difference(model, found) < (1e-3 if arch == "gemma" else 1e-5)
    assert found.ends(1)
    assert found.ends(3)
    assert not found.ends(2)


@pytest.mark.usefixtures("mlx_lm")
@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 4.0}, LLAMA3, YARN], ids=lambda r: r["rope_type"])
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_scaled_rotary_embeddings_compute_the_same(arch: str, rope: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(arch, rope_parameters={"rope_theta": 500.0, **rope})
    assert difference(model, MlxModel(written(model, tmp_path))) < 1e-5


@pytest.mark.usefixtures("mlx_lm")
def test_without_the_older_settings_mlx_lm_computes_something_else(tmp_path: Path) -> None:
    """Why mlx_layouts.py is there; when this fails mlx-lm has learned it."""
    model = tiny("llama")
    folder = written(model, tmp_path)
    shutil.copy2(tmp_path / "source" / "config.json", folder / "config.json")
    assert difference(model, MlxModel(folder)) > 0.01


def test_the_folder_of_a_llama_loads_with_transformers_as_well(tmp_path: Path) -> None:
    import transformers as tf

    model = tiny("llama", rope_parameters={"rope_theta": 500.0, **LLAMA3})
    again = tf.AutoModelForCausalLM.from_pretrained(written(model, tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)


def test_an_architecture_that_mlx_lm_computes_otherwise_is_refused() -> None:
    import transformers as tf

    with pytest.raises(SettingsError, match=r"architecture 'opt' .* known: llama, mistral, qwen2"):
        find_layout(tf.OPTConfig())
    for config, words in (
        (tf.GPT2Config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
        (tf.GPT2Config(n_embd=32, n_inner=100), "n_inner is 100, mlx-lm has only 128"),
        (tf.GPT2Config(tie_word_embeddings=False), "tie_word_embeddings is False"),
        (tf.PhiConfig(qk_layernorm=True), "qk_layernorm is True"),
        (tf.LlamaConfig(hidden_act="gelu"), "the activation is gelu, mlx-lm has silu"),
        (tf.PhiConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "by 'linear'"),
    ):
        with pytest.raises(SettingsError) as caught:
            find_layout(config)
        assert words in caught.value.problems[0]
    assert find_layout(tf.GPT2Config(n_embd=32, n_inner=128)) is LAYOUTS["gpt2"]


@pytest.mark.usefixtures("mlx_lm")
def test_mlx_lm_has_a_model_for_every_architecture_of_the_table() -> None:
    from mlx_lm import utils

    for arch in LAYOUTS:
        _, arguments = utils._get_classes({"model_type": arch})
        known = set(arguments.__dataclass_fields__)
        assert set(LAYOUTS[arch].settings) <= known, arch


@pytest.mark.usefixtures("mlx_lm")
@pytest.mark.parametrize("method", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "dora"))])
def test_whole_weights_and_adapter_are_verified(method: str, tuned: Callable[..., Run], base: Path, out: Path) -> None:
    run = tuned(str(base), **{"method.name": method})
    names = ["mlx", *(["mlx-lora"] if method != "full" else [])]
    result = export(str(run.path), out=out, to=names, prompts=PROMPTS)
    assert statuses(result) == dict.fromkeys(names, "verified"), faults(result)
    for one in result.products:
        assert one.verdict.numbers["logits"] < 1e-5
        assert {check.name for check in one.verdict.checks} >= {
            "configuration",
            "prompts",
            "stop tokens",
            "greedy text",
        }
        recorded = json.loads((out / one.product.name / "verification.json").read_text())
        assert recorded["status"] == "verified"


@pytest.mark.slow
@pytest.mark.usefixtures("mlx_lm")
@pytest.mark.parametrize("arch", ["mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"])
def test_every_architecture_is_verified(arch: str, tuned: Callable[..., Run], out: Path) -> None:
    result = export(str(tuned(arch).path), out=out, to=["mlx", "mlx-lora"], prompts=PROMPTS)
    # of these mlx-lm misreads a base that transformers 5 wrote, whose weights or settings it looks for elsewhere
    told = {"gpt2": "loading", "qwen2": "configuration", "phi": "configuration"}.get(arch)
    assert statuses(result) == {"mlx": "verified", "mlx-lora": "failed" if told else "verified"}, faults(result)
    assert set(faults(result)) == ({told} if told else set())
    assert all("--to mlx" in detail for detail in faults(result).values())


@pytest.mark.slow
@pytest.mark.usefixtures("mlx_lm")
@pytest.mark.parametrize("method", ["rslora", "pissa", "ia3"])
def test_every_method_is_verified(method: str, tuned: Callable[..., Run], base: Path, out: Path) -> None:
    run = tuned(
        str(base), **{"method.name": method, "method.layers": "1"} if method == "rslora" else {"method.name": method}
    )
    names = ["mlx", *(["mlx-lora"] if method != "ia3" else [])]
    result = export(str(run.path), out=out, to=names, prompts=PROMPTS)
    assert statuses(result) == dict.fromkeys(names, "verified"), faults(result)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama that ends answers where a chat with it ends, as bases that were tuned for chat do."""
    folder = tmp_path_factory.mktemp("mlx") / "base"
    model = tiny("llama", rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}, head_dim=8)
    model.generation_config.eos_token_id = [1, 3]
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_the_adapter_is_peft_transposed(tuned: Callable[..., Run], base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = tuned(str(base), **{"method.name": "rslora", "method.layers": "1"})
    mlx.write_mlx_adapter(tmp_path, open_trained(run.model_dir))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora"
    assert config["num_layers"] == 1
    keys = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
    assert set(config["lora_parameters"]["keys"]) == keys | {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    alpha = json.loads((run.model_dir / "adapter_config.json").read_text())["lora_alpha"]
    assert config["lora_parameters"]["rank"] == 4
    assert config["lora_parameters"]["scale"] == pytest.approx(alpha / 2)  # rsLoRA: the root of r
    theirs = load_file(tmp_path / "adapters.safetensors")
    ours = load_file(run.model_dir / "adapter_model.safetensors")
    assert len(theirs) == len(ours) == 14
    for name, tensor in theirs.items():
        path, _, letter = name.rpartition(".lora_")
        torch.testing.assert_close(tensor, ours[f"base_model.model.{path}.lora_{letter.upper()}.weight"].T)


@pytest.mark.slow
@pytest.mark.usefixtures("mlx_lm")
def test_fused_by_mlx_lm_it_is_the_merged_model(tuned: Callable[..., Run], base: Path, tmp_path: Path) -> None:
    """mlx-lm's own reading of the adapter against PEFT's own merge."""
    from mlx.utils import tree_unflatten
    from mlx_lm import load

    run = tuned(str(base), **{"method.name": "dora"})
    mlx.write_mlx_adapter(tmp_path, open_trained(run.model_dir))
    model, _ = load(str(base), adapter_path=str(tmp_path))
    model.update_modules(tree_unflatten([(n, m.fuse()) for n, m in model.named_modules() if hasattr(m, "fuse")]))
    expected = merge(load_adapter(run.model_dir, dtype="float32").model)
    for layer in range(2):
        ours = expected.get_submodule(f"model.layers.{layer}.mlp.up_proj").weight.detach().numpy()
        np.testing.assert_allclose(np.array(model.layers[layer].mlp.up_proj.weight), ours, atol=1e-6)


def test_a_base_that_speaks_otherwise_gets_a_tokenizer_beside_the_adapter(
    tuned: Callable[..., Run], out: Path, base: Path
) -> None:
    run = tuned("llama")  # its base ends at <|endoftext|> alone
    result = export(str(run.path), out=out, to=["mlx-lora"], prompts=0)
    names = {file.name for file in (out / "mlx-lora").iterdir()}
    assert {"tokenizer.json", "generation_config.json", "adapters.safetensors", "adapter_config.json"} <= names
    assert "adapter_model.safetensors" not in names
    card = (out / "mlx-lora" / "README.md").read_text()
    assert "are copied over those of the base" in card
    assert statuses(result) == {"mlx-lora": "unverified"}
    export(str(tuned(str(base), **{"method.name": "lora"}).path), out=out, to=["mlx-lora"], prompts=0)
    names = {file.name for file in (out / "mlx-lora").iterdir()}
    assert names == {"adapters.safetensors", "adapter_config.json", "README.md", "verification.json"}
    assert "--adapter-path ." in (out / "mlx-lora" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("mlx_lm")
def test_the_example_of_the_card_answers_as_the_model(tuned: Callable[..., Run], base: Path, out: Path) -> None:
    run = tuned(str(base), **{"method.name": "lora"})
    export(str(run.path), out=out, to=["mlx"], prompts=0)
    source = (out / "mlx" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    source = source.replace("max_tokens=128", "max_tokens=8")
    done = subprocess.run([sys.executable, "-c", source], cwd=out / "mlx", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with open_session(str(run.path), {"model.dtype": "float32"}).engine() as engine:
        expected = greedy(engine.model, engine.tokenizer, "Your question", 8)
    assert done.stdout.strip() == expected


def greedy(model: Any, tokenizer: Any, question: str, limit: int) -> str:
    """Decoding written out: one forward pass over everything for each token."""
    turns = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    start = len(ids)
    with torch.no_grad():
        while len(ids) - start < limit:
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token in (1, 3):
                break
            ids.append(token)
    return str(tokenizer.decode(ids[start:])).strip()


@pytest.fixture
def planted(mlx_lm: None, tuned: Callable[..., Run], base: Path, out: Path) -> Callable[[str], dict[str, str]]:
    """planted("mlx") -> faults that the verification of such an export finds."""
    run = tuned(str(base), **{"method.name": "lora"})

    def find(target: str) -> dict[str, str]:
        result = export(str(run.path), out=out, to=[target], prompts=PROMPTS)
        assert (out / target).is_dir()
        return faults(result)

    return find


@pytest.mark.parametrize("fault", ["untransposed", "unscaled", "swapped"])
def test_a_wrong_adapter_is_caught(
    fault: str, planted: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = mlx.write_mlx_adapter

    def wrong(folder: Path, tensors: Any) -> None:
        from safetensors.torch import load_file, save_file

        write(folder, tensors)
        weights, path = load_file(folder / "adapters.safetensors"), folder / "adapter_config.json"
        if fault == "unscaled":
            config = json.loads(path.read_text())
            config["lora_parameters"]["scale"] = 1.0
            path.write_text(json.dumps(config))
        elif fault == "untransposed":
            weights = {name: tensor.T.contiguous() for name, tensor in weights.items()}
        else:
            first, second = (f"model.layers.{layer}.self_attn.q_proj.lora_b" for layer in (0, 1))
            weights[first], weights[second] = weights[second], weights[first]
        save_file(weights, folder / "adapters.safetensors")

    monkeypatch.setattr(targets, "write_mlx_adapter", wrong)
    expected = {"loading"} if fault == "untransposed" else {"logits", "distribution"}
    assert expected <= set(planted("mlx-lora"))


def test_a_wrong_template_and_a_missing_stop_are_caught(
    planted: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = targets.write_merged

    def wrong(folder: Path, *arguments: Any, **named: Any) -> None:
        write(folder, *arguments, **{**named, "stop_ids": (1,)})
        for file in folder.glob("*.jinja"):
            file.write_text(file.read_text().replace("assistant", "model"))

    monkeypatch.setattr(targets, "write_merged", wrong)
    assert {"prompts", "stop tokens"} <= set(planted("mlx"))


@pytest.mark.slow
def test_an_unturned_matrix_and_a_forgotten_setting_are_caught(
    mlx_lm: None, tuned: Callable[..., Run], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"method.name": "full"}
    monkeypatch.setitem(LAYOUTS, "gpt2", replace(LAYOUTS["gpt2"], transposed=r"c_attn\.weight$"))  # type: ignore[arg-type]
    result = export(str(tuned("gpt2", **whole).path), out=out, to=["mlx"], prompts=PROMPTS)
    assert "loading" in faults(result)
    monkeypatch.setattr(mlx_layouts.Layout, "config", lambda self, config: {})
    run = tuned("qwen2", **whole)  # its rotary base is not mlx-lm's default
    made = export(str(run.path), out=out, to=["mlx"], prompts=PROMPTS)
    assert {"logits", "distribution"} <= set(faults(made))


@pytest.mark.slow
@pytest.mark.usefixtures("mlx_lm")
def test_fewer_bits_are_smaller_and_measured(tuned: Callable[..., Run], tmp_path: Path, out: Path) -> None:
    wide = tiny("llama", hidden_size=64, intermediate_size=128, head_dim=16)
    wide.save_pretrained(tmp_path / "wide")
    make_tokenizer().save_pretrained(tmp_path / "wide")
    run = tuned(str(tmp_path / "wide"), **{"method.name": "full"})
    result = export(str(run.path), out=out, to=["mlx"], quantize=["8bit", "4bit"], prompts=PROMPTS)
    eight, four = result.products
    assert [one.product.name for one in result.products] == ["mlx-8bit", "mlx-4bit"]
    assert four.size_bytes < eight.size_bytes
    assert four.verdict.numbers["divergence"] > eight.verdict.numbers["divergence"] > 1e-6
    assert eight.verdict.status == "verified", faults(result)
    config = json.loads((out / "mlx-4bit" / "config.json").read_text())
    assert config["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert {"tokenizer.json", "generation_config.json", "README.md"} <= {f.name for f in (out / "mlx-4bit").iterdir()}
    assert "model-index" not in (out / "mlx-4bit" / "README.md").read_text()  # nobody measured these numbers


def test_types_go_to_the_targets_that_have_them() -> None:
    names = [product.name for product in check_wishes(["gguf", "mlx"], ["q8_0", "4bit", "f32"])]
    assert names == ["gguf-f32", "gguf-q8_0", "mlx-4bit"]
    assert [product.name for product in check_wishes(["mlx", "gguf"], ["q8_0"])] == ["mlx", "gguf-q8_0"]
    weighed = check_wishes(["mlx", "gguf"], ["4bit", "q4_0"], imatrix=True)
    assert [product.name for product in weighed] == ["mlx-4bit", "gguf-q4_0-imatrix"]
    assert [product.name for product in check_wishes(["GGUF"], ["Q4_K_M"])] == ["gguf-q4_k_m"]  # as llama.cpp writes it
    with pytest.raises(SettingsError) as caught:
        check_wishes(["mlx", "gguf"], ["4bit", "3bit"])
    assert caught.value.problems[0].startswith("unknown type '3bit'; known: f32, ")
    assert caught.value.problems[1].startswith("no type for gguf; known: f32, ")


def test_a_type_that_is_asked_for_has_to_be_taken() -> None:
    """The type of the settings of a run may be meant for another target."""
    assert [product.name for product in check_wishes(["merged"], ["q8_0"])] == ["merged"]
    with pytest.raises(SettingsError) as caught:
        check_wishes(["merged", "adaptor"], ["4bit", "q8_0", "4bit"], are_asked_for=True)
    assert caught.value.problems[0].startswith("unknown target 'adaptor', did you mean 'adapter'; known: merged, ")
    assert caught.value.problems[1:] == (
        "4bit is no type of merged: it is one of mlx",
        "q8_0 is no type of merged: it is one of gguf, ollama",
    )
    taken = check_wishes(["merged", "mlx", "gguf"], ["4bit", "q8_0"], are_asked_for=True)
    assert [product.name for product in taken] == ["merged", "mlx-4bit", "gguf-q8_0"]


@pytest.mark.parametrize(
    ("method", "whole_head", "target", "words"),
    [
        ("full", False, "mlx-lora", "full fine-tuning has no adapter in mlx-lm; export the whole model with --to mlx"),
        ("ia3", False, "mlx-lora", "IA3 has no adapter in mlx-lm; export the whole model with --to mlx"),
        ("prompt", False, "mlx", "cannot be put into the base's weights; export it with --to adapter"),
        ("prompt", False, "mlx-lora", "prompt tuning has no adapter in mlx-lm; export with --to adapter"),
        ("lora", True, "mlx-lora", "LoRA with method.modules_to_save has no adapter in mlx-lm"),
    ],
)
def test_what_cannot_be_made_is_refused(
    method: str, whole_head: bool, target: str, words: str, tuned: Callable[..., Run], base: Path, out: Path
) -> None:
    run = tuned(str(base), **{"method.name": "lora"})
    trained, parameters = _trained(run, load_config(stored=run.config_path))
    other = replace(trained, facts=replace(trained.facts, method=method), modules_to_save=whole_head)
    with pytest.raises(SettingsError) as caught:
        plan(check_wishes([target], []), other, out, parameters=parameters)
    assert words in caught.value.problems[0]
    plan(check_wishes(["mlx", "mlx-lora"], []), trained, out, parameters=parameters)
    assert not out.exists()


def test_without_mlx_lm_it_is_exported_and_unverified(
    tuned: Callable[..., Run], base: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    run = str(tuned(str(base), **{"method.name": "lora"}).path)
    result = export(run, out=out, to=["mlx", "adapter"], prompts=PROMPTS)
    assert statuses(result) == {"mlx": "unverified", "adapter": "verified"}
    assert "tunesmith[mlx]" in str(result.products[0].verdict.reason)
    with pytest.raises(ResourceError, match=r"tunesmith\[mlx\]"):
        export(run, out=out, to=["mlx"], quantize=["4bit"])
