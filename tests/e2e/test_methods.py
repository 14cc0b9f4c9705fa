"""Every method through train -> stop -> resume -> eval -> answer -> plain PEFT -> merge, on three shapes of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.conftest import stop_at
from tunesmith.api import evaluate, open_session, run_config, train
from tunesmith.config import METHODS, RunConfig, load_config
from tunesmith.errors import SettingsError, Stopped
from tunesmith.model import load_adapter, merge
from tunesmith.runs import Run
from tunesmith.train import Plan

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def configured(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    """configured("llama", **settings) -> the settings of a short run on 20 rows."""
    monkeypatch.chdir(tmp_path)
    rows = [f"What is the code of colour {number}?,The code is {number * 7}." for number in range(20)]
    (tmp_path / "colours.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")

    def make(arch: str, **settings: Any) -> RunConfig:
        shared = {
            "data.path": "colours.csv",
            "model.path": str(tiny_model_dir(arch)),
            "model.dtype": "float32",
            "model.device": "cpu",
            "train.max_steps": 6,
            "train.eval_steps": 2,
            "generate.max_new_tokens": 4,
            "eval.max_rows": 2,
        }
        rank = {"method.r": 4} if METHODS[settings.get("method.name", "lora")].has_rank else {}
        return load_config(overrides={**shared, **rank, **settings})

    return make


def weights(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.model_dir.glob("*.safetensors")}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("name", METHODS)
def test_from_training_to_a_merged_model(configured: Callable[..., RunConfig], name: str, arch: str) -> None:
    settings: dict[str, Any] = {"method.name": name}
    if METHODS[name].is_soft_prompt:
        settings["method.num_virtual_tokens"] = 5
    if METHODS[name].is_quantized:
        pytest.importorskip("bitsandbytes")
    whole = train(configured(arch, name="whole", **settings))
    with pytest.raises(Stopped):
        train(configured(arch, name="halves", **settings), observers=[stop_at(3)])
    halves = train(run_config("halves"), resume="halves")
    assert weights(halves.run) == weights(whole.run)

    compared = evaluate("whole")
    assert compared.tuned.metrics["perplexity"] != compared.base.metrics["perplexity"]
    session = open_session("whole")
    question = session.conversation("What is the code of colour 3?")
    assert "".join(session.stream(question)) == session.answer(question)
    with session.engine() as engine, torch.no_grad():
        ours = engine.model(IDS).logits

    folder, is_adapter = whole.run.model_dir, METHODS[name].is_adapter
    base = whole.config.model.path
    loaded = load_adapter(folder, dtype="float32", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(base if is_adapter else folder, dtype=torch.float32)
    with torch.no_grad():
        if METHODS[name].is_quantized:  # the run's record makes the same base; plain PEFT has the whole one here
            assert not torch.equal(loaded.model(IDS).logits, ours)
            ours = loaded.model(IDS).logits
        before = plain(IDS).logits
        if is_adapter:
            plain = PeftModel.from_pretrained(plain, str(folder)).eval()
        theirs = plain(IDS).logits
        if METHODS[name].mergeable:
            torch.testing.assert_close(merge(loaded.model)(IDS).logits, ours, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert torch.equal(before, theirs[:, -IDS.shape[1] :]) == (not is_adapter)  # the adapter does something

    card = (folder / "README.md").read_text(encoding="utf-8")
    assert METHODS[name].title in card
    assert ("library_name: peft" in card) == is_adapter


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method.name": "lora"}, []),
        ({"method.name": "pissa"}, []),
        ({"method.name": "full"}, []),
        ({"method.name": "dora"}, ["DoRA cannot become a GGUF adapter"]),
        ({"method.name": "ia3"}, ["IA3 cannot become a GGUF adapter"]),
        (
            {"method.name": "prompt"},
            ["prompt tuning stays an adapter: it cannot be merged into the base nor become GGUF"],
        ),
        (
            {"method.name": "prefix"},
            ["prefix tuning stays an adapter: it cannot be merged into the base nor become GGUF"],
        ),
        ({"method.name": "ptuning"}, ["P-tuning stays an adapter: it cannot be merged into the base nor become GGUF"]),
        ({"modules_to_save": "head"}, ["LoRA with method.modules_to_save cannot become a GGUF adapter"]),
    ],
)
def test_what_cannot_be_exported_is_said_before_training(
    configured: Callable[..., RunConfig], settings: dict[str, str], expected: list[str]
) -> None:
    plans: list[Plan] = []
    train(configured("llama", **{"train.max_steps": 1}, **settings), announce=plans.append)
    said = [finding.message for finding in plans[0].findings if finding.code.startswith("no_gguf")]
    assert [message.split(",")[0] for message in said] == expected


def test_a_layer_that_is_not_there_is_refused_before_data_and_model_are_read(
    configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = configured("llama", **{"method.layers": "0-7"})
    (tmp_path / "colours.csv").write_bytes(b"\x00\x01 no table at all")
    with pytest.raises(SettingsError, match="it has 2, from 0 to 1"):
        train(config)
    assert not (tmp_path / "runs").exists()
