"""The importance matrix: against sums made by hand, its file, and what llama.cpp does with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import make_model, make_tokenizer
from tests.export.test_vocabulary import some_facts
from tunesmith.api import export
from tunesmith.errors import DataError, SettingsError
from tunesmith.export import measure_importance
from tunesmith.export.gguf import write_model
from tunesmith.export.importance import Importance, read_means
from tunesmith.export.quantise import quantise
from tunesmith.export.vocabulary import read_vocabulary
from tunesmith.model import open_trained
from tunesmith.prompts import check_template
from tunesmith.runs import Run
from tunesmith.types import Encoded

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_cpp")


def some_rows(count: int = 3) -> list[Encoded]:
    draw = np.random.default_rng(0)
    return [
        Encoded(draw.integers(5, 300, size=8 + 3 * number), np.zeros(8 + 3 * number, dtype=np.bool_))
        for number in range(count)
    ]


def test_sums_are_those_of_the_inputs_worked_out_by_hand() -> None:
    """What enters q_proj of each layer is the norm of its hidden state, and down_proj the gated product."""
    model, rows = make_model("llama", 400), some_rows()
    found = measure_importance(model, rows)
    query, down = torch.zeros(32, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    layer = model.model.layers[1]
    kept: list[torch.Tensor] = []
    hook = layer.post_attention_layernorm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        for row in rows:
            hidden = model(torch.from_numpy(row.input_ids)[None], output_hidden_states=True).hidden_states[1]
            query += layer.input_layernorm(hidden)[0].double().square().sum(0)
            mlp, entered = layer.mlp, kept.pop()[0]
            gated = torch.nn.functional.silu(entered @ mlp.gate_proj.weight.T) * (entered @ mlp.up_proj.weight.T)
            down += gated.double().square().sum(0)
    hook.remove()
    np.testing.assert_allclose(found.sums["blk.1.attn_q.weight"], query.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.sums["blk.1.ffn_down.weight"], down.numpy(), rtol=1e-5)
    assert (found.rows, found.tokens) == (3, sum(map(len, rows)))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2", "phi", "phi3", "gemma"])
def test_every_matrix_of_the_file_but_the_ends_has_its_columns(
    arch: str, tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    vocabulary = read_vocabulary(tokenizer, check_template("chat", tokenizer), size=len(tokenizer))
    write_model(tmp_path / "x.gguf", open_trained(tiny_model_dir(arch)), vocabulary, some_facts(), file_type="f32")
    matrices = {
        tensor.name: tensor.shape[0]
        for tensor in gguf.GGUFReader(str(tmp_path / "x.gguf")).tensors
        if len(tensor.shape) == 2 and not tensor.name.startswith(("token_embd", "position_embd", "output."))
    }
    found = measure_importance(make_model(arch, len(tokenizer)), some_rows(1))
    assert {name: len(sums) for name, sums in found.sums.items()} == matrices


def test_the_file_is_laid_out_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    """Names and shapes of tools/imatrix/imatrix.cpp: sums of squares, and one count for a matrix without experts."""
    importance = Importance({"blk.0.attn_q.weight": np.arange(8.0)}, tokens=40, rows=2)
    importance.write(tmp_path / "importance.gguf", origin="training rows of faq")
    reader = gguf.GGUFReader(str(tmp_path / "importance.gguf"))
    fields = {key: value.contents() for key, value in reader.fields.items()}
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.datasets"] == ["training rows of faq"]
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (2, 20)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors["blk.0.attn_q.weight.in_sum2"].shape) == [8, 1]
    assert list(tensors["blk.0.attn_q.weight.counts"].shape) == [1, 1]
    assert tensors["blk.0.attn_q.weight.counts"].data.item() == 40
    np.testing.assert_allclose(read_means(tmp_path / "importance.gguf")["blk.0.attn_q.weight"], np.arange(8) / 40)


def test_llama_cpp_rounds_used_columns_better(tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """The error that counts, weighed by the columns, is smaller than without the matrix."""
    pytest.importorskip("llama_cpp")
    tokenizer = make_tokenizer()
    vocabulary = read_vocabulary(tokenizer, check_template("chat", tokenizer), size=len(tokenizer))
    tensors = open_trained(tiny_model_dir("qwen3"))
    write_model(tmp_path / "f32.gguf", tensors, vocabulary, some_facts(), file_type="f32")
    draw = np.random.default_rng(1)
    weights = draw.lognormal(0, 2, size=32)
    name = "blk.0.ffn_up.weight"
    Importance({name: weights}, tokens=1, rows=1).write(tmp_path / "importance.gguf", origin="a test")
    quantise(tmp_path / "f32.gguf", tmp_path / "plain.gguf", file_type="q4_0")
    quantise(tmp_path / "f32.gguf", tmp_path / "weighed.gguf", file_type="q4_0", matrix=tmp_path / "importance.gguf")
    exact = tensors["model.layers.0.mlp.up_proj.weight"].numpy()

    def error(path: Path) -> float:
        stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}[name]
        found = gguf.quants.dequantize(stored.data, stored.tensor_type)
        return float((weights * (found - exact) ** 2).sum())

    assert error(tmp_path / "weighed.gguf") < 0.8 * error(tmp_path / "plain.gguf")


def test_a_run_is_exported_with_the_importance_of_its_training_rows(tuned: Callable[..., Run], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    run = tuned("llama")
    result = export(str(run.path), out=tmp_path, to=["gguf"], quantize=["q4_0", "q8_0"], imatrix=True, prompts=2)
    assert [one.product.name for one in result.products] == ["gguf-q4_0-imatrix", "gguf-q8_0"]
    assert {one.verdict.status for one in result.products} == {"verified"}
    means = read_means(tmp_path / "gguf-q4_0-imatrix" / "importance.gguf")
    assert len(means) == 2 * 7
    assert all((mean > 0).all() for mean in means.values())
    assert result.products[0].path.name.endswith("-q4_0-imatrix.gguf")


def test_nothing_to_weigh_and_other_rows_are_refused(
    tuned: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = tuned("llama")
    with pytest.raises(SettingsError, match="nothing to weigh") as caught:
        export(str(run.path), out=tmp_path, to=["gguf"], quantize=["f16", "q8_0"], imatrix=True)
    assert "q4_k_m" in str(caught.value.fix)
    pytest.importorskip("llama_cpp")
    data = Path(run.settings["data"]["path"])
    before = data.read_text()
    data.write_text(before + "And one more?,Yes.\n")
    try:
        with pytest.raises(DataError, match="has changed since"):
            export(str(run.path), out=tmp_path, to=["gguf"], quantize=["q4_0"], imatrix=True)
    finally:
        data.write_text(before)
