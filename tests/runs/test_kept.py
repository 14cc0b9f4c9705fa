"""Results that are kept: what was written is found, anything else is nothing, not an error."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tunesmith.runs import file_sha256, keep_result, kept_result, read_json


def texts(content: dict[str, Any]) -> list[str]:
    return [str(text) for text in content["texts"]]


def test_what_was_kept_is_found_by_its_version_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "a.json"
    assert kept_result(path, texts, version=2) is None
    keep_result(path, {"texts": ["ä", "\n"]}, version=2)
    assert kept_result(path, texts, version=2) == ["ä", "\n"]
    assert kept_result(path, texts, version=3) is None
    assert read_json(path) == {"schema_version": 2, "texts": ["ä", "\n"]}


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 2, "texts": 1}', '{"texts": ["a"]}'],
    ids=["torn", "no object", "empty", "lacks a field", "another type", "no version"],
)
def test_what_is_no_such_result_is_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert kept_result(path, texts, version=2) is None


def test_a_file_is_known_by_all_of_its_bytes(tmp_path: Path) -> None:
    path, content = tmp_path / "weights", bytes(range(256)) * 2000
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()
