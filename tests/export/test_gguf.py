"""What a GGUF file says of itself, how its tensors are stored, and that one is in memory at a time."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import make_tokenizer
from tests.export.test_vocabulary import some_facts
from tunesmith.errors import TrainingError
from tunesmith.export import License
from tunesmith.export.gguf import FILE_TYPES, write_model
from tunesmith.export.mlx_runner import BITS
from tunesmith.export.verify import LIMITS
from tunesmith.export.vocabulary import Vocabulary, read_vocabulary
from tunesmith.model import TrainedTensors, open_trained
from tunesmith.prompts import check_template

gguf = pytest.importorskip("gguf")


@pytest.fixture
def vocabulary() -> Vocabulary:
    tokenizer = make_tokenizer()
    return read_vocabulary(tokenizer, check_template("chat", tokenizer), size=len(tokenizer))


def test_every_type_has_limits() -> None:
    assert set(LIMITS) == {*FILE_TYPES, *BITS}


def test_the_file_says_where_it_comes_from(
    tiny_model_dir: Callable[[str], Path], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    facts = dataclasses.replace(some_facts(), license=License(("apache-2.0",)), base_revision="abc", name="my-Phi-3")
    write_model(tmp_path / "x.gguf", open_trained(tiny_model_dir("llama")), vocabulary, facts, file_type="q4_0")
    reader = gguf.GGUFReader(str(tmp_path / "x.gguf"))
    found = {key: value.contents() for key, value in reader.fields.items()}
    expected = {
        "general.architecture": "llama",
        "general.name": "my-Phi_3",  # with phi-3 in its name llama.cpp would look for that model's tokens
        "general.license": "apache-2.0",
        "general.base_model.0.name": "org/tiny",
        "general.base_model.0.version": "abc",
        "general.base_model.0.repo_url": "https://huggingface.co/org/tiny",
        "tunesmith.run": "my-Phi-3",
        "tunesmith.data.sha256": ["00"],
        "tokenizer.chat_template": vocabulary.chat_template,
        "tokenizer.ggml.add_bos_token": False,
        "llama.rope.dimension_count": 8,
    }
    assert {key: found[key] for key in expected} == expected
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == "Q4_0"
    assert types["output.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_one_tensor_is_in_memory_at_a_time(
    tiny_model_dir: Callable[[str], Path], vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    given: list[weakref.ref[torch.Tensor]] = []
    read = TrainedTensors.__getitem__

    def watched(self: TrainedTensors, name: str) -> torch.Tensor:
        gc.collect(1)  # all that is as young as a tensor before: of everything it would take seconds
        alive.append(sum(one() is not None for one in given))
        tensor = read(self, name)
        given.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(TrainedTensors, "__getitem__", watched)
    tensors = open_trained(tiny_model_dir("llama"))
    write_model(tmp_path / "x.gguf", tensors, vocabulary, some_facts(), file_type="q8_0")
    assert len(alive) == len(tensors.shapes) > 10
    assert max(alive) <= 1  # the one before, while the next is read


def test_a_number_that_float16_cannot_hold_is_refused(
    tiny_model_dir: Callable[[str], Path], vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Any = TrainedTensors.__getitem__
    monkeypatch.setattr(TrainedTensors, "__getitem__", lambda self, name: read(self, name) * 1e6)
    tensors = open_trained(tiny_model_dir("llama"))
    with pytest.raises(TrainingError, match="float16 cannot"):
        write_model(tmp_path / "x.gguf", tensors, vocabulary, some_facts(), file_type="f16")
