"""Every architecture and target through training, export and verification with real llama.cpp; and what is planted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.export.conftest import faults, statuses
from tunesmith.api import export
from tunesmith.api.exporter import _claimed_folder
from tunesmith.config import dump_config, load_config
from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export import architectures, gguf, workshop
from tunesmith.export.merged import write_merged
from tunesmith.export.verify import _check_ends
from tunesmith.model import load_adapter, load_base, merge, open_trained
from tunesmith.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_cpp")
ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"]
PROMPTS = 6


@pytest.fixture
def llama_cpp() -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")


@pytest.mark.slow
@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_verified(arch: str, tuned: Callable[..., Run], out: Path) -> None:
    run = tuned(arch)
    result = export(
        str(run.path), out=out, to=["gguf", "gguf-lora", "merged"], quantize=["q8_0", "f16", "f32"], prompts=PROMPTS
    )
    assert statuses(result) == dict.fromkeys(
        ["gguf-f32", "gguf-q8_0", "gguf-f16", "gguf-lora", "merged"], "verified"
    ), faults(result)
    numbers = {one.product.name: one.verdict.numbers for one in result.products}
    assert numbers["gguf-f32"]["logits"] < 2e-3
    assert numbers["gguf-lora"]["logits"] < 2e-3
    assert numbers["gguf-q8_0"]["divergence"] > numbers["gguf-f32"]["divergence"]
    assert numbers["gguf-f32"]["perplexity"] == pytest.approx(numbers["gguf-f32"]["reference_perplexity"], rel=1e-3)
    assert numbers["gguf-f32"]["prompts"] >= PROMPTS + 8  # the standing ones besides


@pytest.mark.parametrize(("expected", "least"), [(1, 1), (2, 1), (3, 1), (6, 4), (10, 8), (15, 13), (200, 179)])
def test_as_many_answers_end_as_chance_leaves_and_never_none(expected: int, least: int) -> None:
    def ended(count: int) -> list[Any]:
        return [SimpleNamespace(ended=number < count) for number in range(200)]

    original: Any = SimpleNamespace(answers=ended(expected))
    assert _check_ends(ended(least), original).passed
    assert not _check_ends(ended(least - 1), original).passed


@pytest.mark.slow
@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("method", ["full", "rslora", "dora", "pissa", "ia3"])
def test_every_method_is_verified(method: str, tuned: Callable[..., Run], out: Path) -> None:
    run = tuned("llama", **{"method.name": method})
    names = ["gguf", "merged", *(["gguf-lora"] if method in ("rslora", "pissa") else [])]
    result = export(str(run.path), out=out, to=names, quantize=["f32"], prompts=PROMPTS)
    assert set(statuses(result).values()) == {"verified"}, faults(result)


@pytest.mark.slow
@pytest.mark.usefixtures("llama_cpp")
def test_k_quants_are_made_by_llama_cpp(tuned: Callable[..., Run], out: Path) -> None:
    result = export(str(tuned("llama").path), out=out, to=["gguf"], quantize=["q4_k_m", "q4_0", "q8_0"], prompts=0)
    sizes = {str(one.product.file_type): one.size_bytes for one in result.products}
    # rows of 32 numbers are too short for blocks of 256: llama.cpp falls back to larger types
    assert sizes["q4_0"] < sizes["q4_k_m"] <= sizes["q8_0"]
    assert [entry.name for entry in out.iterdir() if entry.name.startswith(".")] == []


def test_merged_is_the_tuned_model(tuned: Callable[..., Run], out: Path) -> None:
    run = tuned("gpt2")
    result = export(str(run.path), out=out, to=["merged"], prompts=PROMPTS)
    assert statuses(result) == {"merged": "verified"}, faults(result)
    card = (out / "merged" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card
    assert "is added to the weights" in card
    assert not (out / "merged" / "adapter_config.json").exists()


@pytest.mark.parametrize("out", ["file", "file/x/y"])
def test_a_file_in_the_place_of_the_folder_is_told(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match="/file is a file, not a folder") as caught,
        _claimed_folder(Run(tmp_path / "run"), tmp_path / out),
    ):
        pass
    assert caught.value.fix == "choose another folder with --out"


@pytest.mark.parametrize("out", ["", " "])
def test_a_folder_without_a_name_is_refused(out: str, tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match=r"\(--out\) has no name") as caught,
        _claimed_folder(Run(tmp_path / "run"), out),
    ):
        pass
    assert caught.value.fix == "name one, or leave --out out"


@pytest.mark.parametrize(
    ("is_gone", "message"),
    [
        (False, "colours.csv has changed since run-1 was trained: exports were tried without held-out rows"),
        (True, "there is no file colours.csv: exports were tried without prompts of it"),
    ],
)
def test_a_data_file_that_is_not_that_of_the_training_is_told(
    is_gone: bool, message: str, tuned: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunesmith.cli import main

    run = tmp_path / "run-1"
    shutil.copytree(tuned("gpt2").path, run)
    config = load_config(stored=run / "config.yaml")
    data = tmp_path / "colours.csv"
    shutil.copy(str(config.data.path), data)
    (run / "config.yaml").write_text(dump_config(config.replaced("data.path", str(data), "moved")))
    assert export(str(run), out=tmp_path / "before", to=["merged"], prompts=PROMPTS).findings == ()
    data.write_text("question,answer\n" + "Why?,So.\n" * 12)
    if is_gone:
        data.unlink()
    assert main(["export", str(run), "--to", "merged", "--verify", str(PROMPTS), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    assert f"warning: {message}, which proves less; restore the file and export again" in told


def test_merged_weights_in_several_shards_load_as_one(tuned: Callable[..., Run], tmp_path: Path) -> None:
    run = tuned("gpt2")
    write_merged(
        tmp_path, open_trained(run.model_dir), run.model_dir, dtype=torch.float32, stop_ids=(1, 3), shard_bytes=20_000
    )
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found = load_base(str(tmp_path), dtype="float32").model
        expected = merge(load_adapter(run.model_dir, dtype="float32").model)
        torch.testing.assert_close(found(ids).logits, expected(ids).logits)
    assert found.generation_config.eos_token_id == [1, 3]


Planted = Callable[[], tuple[int, dict[str, str]]]


@pytest.fixture
def planted(
    llama_cpp: None, tuned: Callable[..., Run], own_stops: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> Planted:
    """planted() -> exit code of an export of a tuned llama in float32, and the checks that failed."""
    from tunesmith.cli import main

    run = tuned(str(own_stops), **{"method.name": "full"})
    command = ["export", str(run.path), "--to", "gguf", "--quantize", "f32", "--verify", str(PROMPTS), "--json"]

    def find() -> tuple[int, dict[str, str]]:
        capsys.readouterr()
        code = main([*command, "--out", str(out)])
        printed = capsys.readouterr()
        (product,) = json.loads(printed.out)["products"]
        recorded = json.loads((out / "gguf-f32" / "verification.json").read_text())
        assert recorded["status"] == product["status"] == ("failed" if code else "verified")
        assert Path(product["path"]).exists()  # nothing is deleted
        assert ("not the trained model: gguf-f32" in printed.err) == bool(code)
        return code, {check["name"]: check["detail"] for check in product["checks"] if not check["passed"]}

    return find


def with_vocabulary(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], dict[str, Any]]) -> None:
    import dataclasses

    read = workshop.read_vocabulary

    def changed(*arguments: Any, **named: Any) -> Any:
        vocabulary = read(*arguments, **named)
        return dataclasses.replace(vocabulary, **change(vocabulary))

    monkeypatch.setattr(workshop, "read_vocabulary", changed)


def test_nothing_is_found_where_nothing_is_planted(planted: Planted) -> None:
    assert planted() == (0, {})


def test_a_wrong_template_is_caught(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    with_vocabulary(monkeypatch, lambda v: {"chat_template": v.chat_template.replace("assistant", "model")})
    code, found = planted()
    assert (code, set(found)) == (100, {"prompts"})


@pytest.mark.parametrize("role", ["eos", "eot"])
def test_a_missing_stop_token_is_caught(role: str, planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(vocabulary: Any) -> dict[str, Any]:
        return {"ids": {**vocabulary.ids, role: vocabulary.ids["padding"]}}

    with_vocabulary(monkeypatch, forget)
    code, found = planted()
    assert code == 100
    assert "stop tokens" in found


def test_an_unpermuted_query_is_caught(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    change = gguf.change

    def unpermuted(tensor: Any, name: str, *rest: Any) -> Any:
        return tensor if name.endswith("q_proj.weight") else change(tensor, name, *rest)

    monkeypatch.setattr(gguf, "change", unpermuted)
    code, found = planted()
    assert code == 100
    assert {"logits", "distribution"} <= set(found)


def test_a_swapped_vocabulary_entry_is_caught(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap(vocabulary: Any) -> dict[str, Any]:
        tokens = list(vocabulary.tokens)
        tokens[300], tokens[301] = tokens[301], tokens[300]
        return {"tokens": tuple(tokens)}

    with_vocabulary(monkeypatch, swap)
    code, found = planted()
    assert code == 100
    assert "vocabulary" in found
    assert "300 is" in found["vocabulary"]


def test_without_llama_cpp_it_is_exported_and_unverified(
    tuned: Callable[..., Run], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr("tunesmith.export.llamacpp.importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setenv("PATH", "")
    run = str(tuned("llama").path)
    result = export(run, out=out, to=["gguf", "adapter"], quantize=["q8_0"], prompts=PROMPTS)
    assert statuses(result) == {"gguf-q8_0": "unverified", "adapter": "verified"}
    assert '"tunesmith[llamacpp]"' in str(result.products[0].verdict.reason)
    with pytest.raises(ResourceError, match="K-quants need"):
        export(run, out=out, to=["gguf"], quantize=["q4_k_m"])


def test_an_adapter_brings_its_template_where_the_base_has_another(tuned: Callable[..., Run], out: Path) -> None:
    pytest.importorskip("gguf")
    run = tuned("llama")  # its base ends at <|endoftext|> alone
    export(str(run.path), out=out, to=["gguf-lora"], prompts=0)
    template = (out / "gguf-lora" / "chat_template.jinja").read_text(encoding="utf-8")
    assert template == (run.model_dir / "chat_template.jinja").read_text(encoding="utf-8")
    assert "--chat-template-file chat_template.jinja" in (out / "gguf-lora" / "README.md").read_text(encoding="utf-8")


def test_an_adapter_that_is_there_already_is_named_by_its_file(tuned: Callable[..., Run], out: Path) -> None:
    pytest.importorskip("gguf")
    run = tuned("llama")
    (first,) = export(str(run.path), out=out, to=["gguf-lora"], prompts=0).products
    server = "http://127.0.0.1:9"  # with one, what is there is kept
    (again,) = export(str(run.path), out=out, to=["gguf-lora"], prompts=0, server=server).products
    assert first.path == again.path == out / "gguf-lora" / f"{run.name}-lora.gguf"
    assert again.size_bytes == first.path.stat().st_size
    first.path.unlink()
    (anew,) = export(str(run.path), out=out, to=["gguf-lora"], prompts=0, server=server).products
    assert anew.path.is_file()


@pytest.mark.usefixtures("llama_cpp")
def test_an_adapter_whose_base_cannot_be_written_is_unverified(
    tuned: Callable[..., Run], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise SettingsError("no GGUF", problems=("its normaliser is odd",))

    monkeypatch.setattr(workshop, "read_vocabulary", refuse)
    result = export(str(tuned("llama").path), out=out, to=["gguf-lora"], prompts=PROMPTS)
    assert statuses(result) == {"gguf-lora": "unverified"}
    assert "its normaliser is odd" in str(result.products[0].verdict.reason)


def test_wishes_are_refused_all_together_before_anything_is_made(tuned: Callable[..., Run], out: Path) -> None:
    run = str(tuned("llama", **{"method.name": "ia3"}).path)
    with pytest.raises(SettingsError) as caught:
        export(run, out=out, to=["gguff", "merged"], quantize=["q9"])
    assert len(caught.value.problems) == 2
    with pytest.raises(SettingsError, match="4bit is no type of merged"):
        export(run, out=out, to=["merged"], quantize=["4bit"])
    with pytest.raises(SettingsError, match="export the whole model with --to gguf"):
        export(run, out=out, to=["gguf-lora"])
    (out / "merged").mkdir(parents=True)
    (out / "merged" / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="is no export"):
        export(run, out=out, to=["merged"])
    assert (out / "merged" / "thesis.txt").read_text() == "mine"


def test_an_architecture_that_llama_cpp_computes_otherwise_is_refused() -> None:
    import transformers as tf

    scaled = tf.GPT2Config(scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(SettingsError) as caught:
        architectures.find_architecture(scaled)
    assert "scale_attn_by_inverse_layer_idx is True" in caught.value.problems[0]
    with pytest.raises(SettingsError, match="architecture 'opt'"):
        architectures.find_architecture(tf.OPTConfig())
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    config = tf.LlamaConfig(rope_parameters=rope)
    with pytest.raises(SettingsError) as caught:
        architectures.find_architecture(config)
    assert "'yarn'" in caught.value.problems[0]


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
)
def test_scaled_rotary_embeddings_are_verified(
    rope: dict[str, Any], tuned: Callable[..., Run], tiny_model_dir: Callable[[str], Path], tmp_path: Path, out: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_dir("llama"), base)
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"] = {**config["rope_parameters"], **rope}
    (base / "config.json").write_text(json.dumps(config))
    result = export(str(tuned(str(base)).path), out=out, to=["gguf"], quantize=["f32"], prompts=PROMPTS)
    assert statuses(result) == {"gguf-f32": "verified"}, faults(result)


def test_a_second_export_leaves_the_files_of_a_first_one_alone(tuned: Callable[..., Run]) -> None:
    """What is unfinished in a run's exports is of a killed export only where nobody exports it now."""
    run = tuned("llama")
    begun = run.exports_dir / ".tmp-export.0123abcd"
    begun.mkdir(parents=True)
    with run.claimed(), pytest.raises(SettingsError, match="is being exported by another process") as caught:
        export(str(run.path), to=["adapter"], prompts=0)
    assert "--out" in str(caught.value.fix)
    assert begun.exists()
    export(str(run.path), to=["adapter"], prompts=0)
    assert [path.name for path in run.exports_dir.iterdir()] == ["adapter"]
    shutil.rmtree(run.exports_dir)
