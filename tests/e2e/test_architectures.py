"""Every architecture of the foundation through train -> save -> load -> generate, with LoRA and full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.api import open_session, train
from tunesmith.config import load_config

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "colours.csv"
    rows = [f"What is the code of colour {number}?,The code is {number * 7}." for number in range(20)]
    path.write_text("question,answer\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_train_save_load_generate(
    arch: str,
    method: str,
    table: Path,
    tmp_path: Path,
    tiny_model_dir: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    base_dir = tiny_model_dir(arch)
    config = load_config(
        overrides={
            "data.path": str(table),
            "model.path": str(base_dir),
            "model.dtype": "float32",
            "method.name": method,
            "train.max_steps": 4,
            "train.learning_rate": 1e-2,
            "generate.max_new_tokens": 8,
            "name": "trial",
        }
    )
    result = train(config)
    folder = result.run.model_dir
    assert (folder / "README.md").exists()
    assert (folder / "adapter_model.safetensors").exists() == (method == "lora")

    session = open_session("trial")
    question = session.conversation("What is the code of colour 3?")
    tuned = session.answer(question)
    assert "".join(session.stream(question)) == tuned
    with session.engine() as engine, torch.no_grad():
        ids = torch.tensor([[5, 6, 7, 8]])
        ours = engine.model(ids).logits

    plain = AutoModelForCausalLM.from_pretrained(base_dir if method == "lora" else folder, dtype=torch.float32)
    with torch.no_grad():
        before = plain(ids).logits
    if method == "lora":
        plain = PeftModel.from_pretrained(plain, folder)
    with torch.no_grad():
        theirs = plain.eval()(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    if method == "lora":
        assert not torch.allclose(before, theirs, atol=1e-3)  # the adapter does something
    assert AutoTokenizer.from_pretrained(folder).chat_template == session.template.source
