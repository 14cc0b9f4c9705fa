"""A file of texts and labels, with no flags about them: train -> eval -> ask, on three shapes of models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from tunesmith.api import evaluate, open_session, train
from tunesmith.config import load_config
from tunesmith.errors import DataError
from tunesmith.runs import Run, plots

COLOURS = ["red", "dark red", "green"]


def _check_calibration(run: Run, found: dict[str, Any]) -> None:
    """It is in files and on the page as it was measured; where it is not measured, no picture speaks of it."""
    picture, page = run.visuals_dir / "calibration.png", run.eval_dir / "report.html"
    rows = [json.loads(line)["tuned"] for line in (run.eval_dir / "predictions.jsonl").read_text().splitlines()]
    assert sum(one["rows"] for one in found["bins"]) == len(rows)
    mean = sum(one["rows"] * one["probability"] for one in found["bins"])
    assert mean == pytest.approx(sum(row["probability"] for row in rows))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "How far the probabilities can be trusted" in page.read_text()
    assert all(f"label {colour}" in page.read_text() for colour in COLOURS)  # a slice for each
    evaluate("things", overrides={"eval.metrics": ["accuracy"]})
    assert not picture.exists()
    assert "How far the probabilities" not in page.read_text()
    evaluate("things")
    assert picture.exists()


@pytest.mark.parametrize(
    ("arch", "method"),
    [
        pytest.param("gpt2", "lora", marks=pytest.mark.slow),
        ("llama", "full"),
        pytest.param("qwen2", "lora", marks=pytest.mark.slow),
    ],
)
def test_labels_from_the_file_to_the_answer(
    arch: str,
    method: str,
    tmp_path: Path,
    tiny_model_dir: Callable[[str], Path],
    rendering: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plots, "render", rendering)
    monkeypatch.chdir(tmp_path)
    rows = [f"A thing of number {number} and {COLOURS[number % 3]},{COLOURS[number % 3]}" for number in range(60)]
    Path("things.csv").write_text("text,category\n" + "\n".join(rows) + "\n")
    settings = {
        "data.path": "things.csv",
        "model.path": str(tiny_model_dir(arch)),
        "model.dtype": "float32",
        "model.device": "cpu",
        "method.name": method,
        "train.learning_rate": 0.02 if method == "lora" else 0.003,
        "train.max_steps": 40,
        "train.early_stopping_patience": None,
    }
    run = train(load_config(overrides=settings)).run
    assert run.manifest["data"]["labels"] == dict.fromkeys(sorted(COLOURS), 16)
    for picture in ("training_curves.png", "loss_comparison.png", "lr_schedule.png"):
        assert imread(run.visuals_dir / picture).shape == (1050, 1500, 4)

    comparison = evaluate("things")
    assert comparison.tuned.metrics["accuracy"] > comparison.base.metrics["accuracy"]
    assert comparison.tuned.metrics["log_loss"] < comparison.base.metrics["log_loss"]
    for side in (comparison.base, comparison.tuned):  # the base chooses among the labels as well
        assert {row["prediction"] for row in side.rows} <= set(COLOURS)
    summary = json.loads((run.eval_dir / "summary.json").read_text())
    assert summary["labels"]["always"]["accuracy"] == pytest.approx(1 / 3)
    confusion = json.loads((run.eval_dir / "confusion.json").read_text())
    assert sum(map(sum, confusion["tuned"]["confusion"])) == summary["rows"] == 6
    assert (run.visuals_dir / "confusion.png").read_bytes().startswith(b"\x89PNG")
    _check_calibration(run, summary["labels"]["calibration"]["tuned"])
    card = (run.model_dir / "README.md").read_text()
    assert "one of 3 labels: `dark red`, `green`, `red`" in card
    assert "Macro F1" in card

    session = open_session("things")
    messages = session.conversation("A thing of number 5 and green")
    choice = session.choose(messages)
    assert sum(choice.probabilities) == pytest.approx(1)
    assert session.answer(messages) == choice.label == "".join(session.stream(messages))
    assert session.choose(messages, base=True).probabilities != choice.probabilities

    Path("other.csv").write_text("text,category\nA thing of number 99,purple\nA thing of number 98,pink\n")
    with pytest.raises(DataError, match="none of the 2 test rows has a label that the run was trained on"):
        evaluate("things", overrides={"data.test_path": "other.csv"})
