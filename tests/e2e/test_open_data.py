"""Files as people have them start training with the right shape and no flag beyond the path."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.api import train
from tunesmith.config import load_config

SHAPES = {
    "mental_health_faq.csv": "qa",
    "azure_qnamaker_sample_faq.xlsx": "qa",
    "azure_sample_qnas.xlsx": "qa",
    "gsm8k_test.jsonl": "qa",
    "llamafactory_alpaca_en_demo.json": "instruction",
    "toy_chat_fine_tuning.jsonl": "messages",
    "llamafactory_glaive_toolcall_en_demo.json": "sharegpt",
    "banking77_test.csv": "label",
    "sms_spam_collection.tsv": "label",
    "gsm8k_test_socratic_derived.parquet": "qa",
    "tinyshakespeare.txt": "text",
}


@pytest.mark.parametrize(("file", "shape"), SHAPES.items(), ids=list(SHAPES))
def test_training_starts(
    file: str, shape: str, open_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(overrides={"data.path": str(open_data / file), "train.max_steps": 1, "data.max_rows": 200})
    plans = []
    result = train(config, announce=plans.append)
    assert plans[0].data.shape == shape
    assert result.state.step == 1
    assert (result.run.model_dir / "model.safetensors").exists()  # the built-in model is small: all weights
