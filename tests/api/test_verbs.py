"""train and pretrain as functions: where a run goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith import api
from tunesmith.api import verbs
from tunesmith.config import load_config
from tunesmith.errors import SettingsError


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str | None, Path]]:
    """Name and folder of each run that was to be pre-trained."""
    monkeypatch.chdir(tmp_path)
    found: list[tuple[str | None, Path]] = []

    def train_on_texts(config: Any, *, destination: Path, **_: object) -> None:
        found.append((config.name, destination))

    monkeypatch.setattr(verbs.training, "train_on_texts", train_on_texts)
    return found


@pytest.mark.parametrize(
    ("overrides", "name", "folder"),
    [
        ({"pretrain.documents": ["books/b*.txt", "more.jsonl.gz"]}, "b", "runs/b"),
        ({"pretrain.documents": ["books/*.txt"]}, "books", "runs/books"),
        ({"pretrain.documents": ["taken.txt"]}, "taken-2", "runs/taken-2"),
        ({"pretrain.documents": ["a.txt"], "name": "mine"}, "mine", "runs/mine"),
        ({"pretrain.documents": ["a.txt"], "output_dir": "out/x"}, None, "out/x"),
    ],
    ids=["pattern", "folder", "taken", "name", "output_dir"],
)
def test_a_pre_trained_run_is_called_by_its_first_text(
    overrides: dict[str, object], name: str | None, folder: str, made: list[tuple[str | None, Path]]
) -> None:
    Path("runs/taken").mkdir(parents=True)
    api.pretrain(load_config(overrides=overrides))
    assert made == [(name, Path(folder))]


def test_without_texts_nothing_is_pre_trained(made: list[tuple[str | None, Path]]) -> None:
    with pytest.raises(SettingsError, match="there are no texts to train on"):
        api.pretrain(load_config())
    assert made == []
