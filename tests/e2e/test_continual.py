"""A run that goes on from another: starts at its weights, replays its rows, resumes to the bit, and measures what it
forgot; and whatever does not fit is refused before a model is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import stop_at
from tunesmith.api import evaluate, open_session, run_config, train
from tunesmith.config import METHODS, RunConfig, dump_config, load_config
from tunesmith.errors import ResourceError, SettingsError, Stopped
from tunesmith.runs import MetricsLog, Run
from tunesmith.train import Plan, continued, recipe, trainer

IDS = torch.tensor([[5, 6, 7, 8]])
ROWS = 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files of questions."""
    monkeypatch.chdir(tmp_path)
    for name, what in (("colours", "The code is"), ("animals", "Its legs are")):
        rows = [f"What of {name} {number}?,{what} {number * 7}." for number in range(ROWS)]
        (tmp_path / f"{name}.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def configured(place: Path, tiny_model_dir: Callable[[str], Path]) -> Callable[..., RunConfig]:
    """configured("colours", **settings) -> the settings of a short run on a file."""
    (place / "model").symlink_to(tiny_model_dir("llama"))

    def make(file: str, **settings: Any) -> RunConfig:
        shared = {
            "data.path": f"{file}.csv",
            "name": file,
            "model.dtype": "float32",
            "model.device": "cpu",
            "train.max_steps": 6,
            "train.eval_steps": 2,
            "train.batch_size": 2,
            "train.gradient_accumulation_steps": 2,
            "train.learning_rate": 1e-2,
            "generate.max_new_tokens": 4,
        }
        return load_config(overrides={**shared, **settings})

    return make


@pytest.fixture
def parent(configured: Callable[..., RunConfig]) -> Callable[..., Run]:
    """parent("lora") -> a finished run on the colours."""

    def make(method: str, **settings: Any) -> Run:
        rank = {"method.r": 4} if METHODS[method].has_rank else {}
        chosen = {"model.path": "model", "method.name": method, **rank, **settings}
        return train(configured("colours", **chosen)).run

    return make


def logits(reference: Path) -> torch.Tensor:
    with torch.no_grad():
        return open_session(str(reference)).loaded.model(IDS).logits


def steps_of(run: Run) -> list[dict[str, Any]]:
    lines = MetricsLog(run.metrics_path).read("train")
    return [{key: line[key] for key in line if key not in ("seconds", "tokens_per_second")} for line in lines]


@pytest.mark.parametrize("method", ["lora", "full", "dora", "ia3", "pissa"])
def test_it_starts_where_the_parent_ended(
    method: str, parent: Callable[..., Run], configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = parent(method)
    begun: list[torch.Tensor] = []
    fit = trainer.fit

    def spy(model: Any, *arguments: Any, **named: Any) -> Any:
        with torch.no_grad():
            begun.append(model.eval()(IDS).logits)
        return fit(model, *arguments, **named)

    monkeypatch.setattr(trainer, "fit", spy)
    later = train(configured("animals", **{"continual.parent": "colours"})).run
    torch.testing.assert_close(begun[0], logits(earlier.path), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(begun[0], logits(later.path), atol=1e-2)  # and it has learned since
    config = run_config(str(later.path))
    assert config.method.name == ("lora" if method == "pissa" else method)
    assert config.origin("method.name") == "run colours"
    expected = str(earlier.model_dir.absolute()) if method == "full" else run_config(str(earlier.path)).model.path
    assert config.model.path == expected


def test_rows_of_all_generations_are_kept_and_replayed(
    parent: Callable[..., Run], configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = parent("lora")
    plans: list[Any] = []
    fit = trainer.fit
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: plans.append((a[1], k["plan"])) or fit(*a, **k))
    second = train(configured("animals", **{"continual.parent": "colours", "continual.replay_share": 0.5})).run
    rows, plan = plans[0]
    kept = first.manifest["replay"]["rows"]
    assert kept == first.manifest["data"]["split"]["train"] == 16
    assert len(rows) == plan.new.rows + kept
    assert all((plan.rows_of(step) >= plan.new.rows).sum() == 4 for step in range(4))  # as many as new ones
    tokenizer = open_session(str(second.path)).loaded.tokenizer
    assert all("colours" in tokenizer.decode(row.input_ids) for row in rows[plan.new.rows :])
    assert second.manifest["replay"] | {"sha256": None} == {"capacity": 1000, "seen": 32, "rows": 32, "sha256": None}
    lines = [json.loads(line) for line in (second.path / "replay.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines] == ["colours"] * 16 + ["animals"] * 16
    third = train(configured("colours", **{"continual.parent": "animals", "name": "third"})).run
    tasks = json.loads((third.eval_dir / "forgetting.json").read_text())["tasks"]
    assert [(task["task"], task["is_new"]) for task in tasks] == [
        ("colours", False),
        ("animals", False),
        ("third", True),
    ]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_stopped_and_resumed_it_is_the_same_to_the_bit(
    method: str, parent: Callable[..., Run], configured: Callable[..., RunConfig]
) -> None:
    parent(method)
    settings = {"continual.parent": "colours", "continual.replay_share": 0.3, "continual.ewc_lambda": 50.0}
    whole = train(configured("animals", **settings)).run
    with pytest.raises(Stopped):
        train(configured("animals", **settings, name="parts"), observers=[stop_at(1)])
    with pytest.raises(Stopped):
        train(run_config("parts"), resume="parts", observers=[stop_at(4)])
    parts = train(run_config("parts"), resume="parts").run
    assert steps_of(parts) == steps_of(whole)
    assert steps_of(whole)[-1]["penalty"] > 0
    for path in whole.model_dir.glob("*.safetensors"):
        assert path.read_bytes() == (parts.model_dir / path.name).read_bytes()
    assert (whole.path / "fisher.safetensors").read_bytes() == (parts.path / "fisher.safetensors").read_bytes()
    fisher = load_file(whole.path / "fisher.safetensors")
    assert all((tensor >= 0).all() for tensor in fisher.values())
    assert any(tensor.any() for tensor in fisher.values())


def test_a_resumed_run_notices_other_old_rows(parent: Callable[..., Run], configured: Callable[..., RunConfig]) -> None:
    earlier = parent("lora")
    settings = {"continual.parent": "colours", "continual.replay_share": 0.3}
    with pytest.raises(Stopped):
        train(configured("animals", **settings), observers=[stop_at(3)])
    path = earlier.path / "replay.jsonl"
    text = path.read_text()
    path.write_text(text.replace("colours 3", "colours 33"))
    with pytest.raises(ResourceError, match="the rows that colours kept cannot be read"):
        train(run_config("animals"), resume="animals")
    path.write_text(text)
    earlier.update_manifest(replay={**earlier.manifest["replay"], "seen": 99})
    assert train(run_config("animals"), resume="animals").run.manifest["status"] == "finished"


def test_the_forgetting_table_is_the_two_models_on_both_files(
    parent: Callable[..., Run], configured: Callable[..., RunConfig]
) -> None:
    earlier = parent("lora")
    plans: list[Plan] = []
    later = train(configured("animals", **{"continual.parent": "colours"}), announce=plans.append).run
    table = json.loads((later.eval_dir / "forgetting.json").read_text())
    old, new = table["tasks"]
    assert (old["task"], old["is_new"], new["task"], new["is_new"]) == ("colours", False, "animals", True)
    assert old["rows"] == earlier.manifest["data"]["split"]["test"] == 2
    assert evaluate("colours").tuned.metrics["perplexity"] == pytest.approx(old["before"]["perplexity"], rel=1e-5)
    assert evaluate("animals").tuned.metrics["perplexity"] == pytest.approx(new["after"]["perplexity"], rel=1e-5)
    assert old["before"] != old["after"]
    (later.eval_dir / "forgetting.json").unlink()
    Path("colours.csv").write_text("question,answer\nWho?,Me.\n")
    train(run_config("animals"), resume="animals")
    again = json.loads((later.eval_dir / "forgetting.json").read_text())
    assert [task["task"] for task in again["tasks"]] == ["animals"]
    assert "has changed since colours was trained" in again["not_measured"]["colours"]


def made(folder: Path, status: str = "finished", **manifest: Any) -> Run:
    """A run without a model, for what is decided before one is loaded."""
    config = load_config(overrides={"model.path": "org/base", "method.name": "lora", "method.r": 4})
    run = Run.create(folder, config_text=dump_config(config), manifest={"kind": "finetune", **manifest})
    run.update_manifest(status=status)
    run.model_dir.mkdir()
    return run


def given(**settings: Any) -> RunConfig:
    return load_config(overrides={"continual.parent": "old", **settings})


def test_what_does_not_fit_is_told_together_before_a_model_is_loaded(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(place / "old")
    monkeypatch.setattr(recipe, "load_base", lambda *a, **k: pytest.fail("a model was loaded"))
    settings = {
        "data.path": "colours.csv",
        "model.path": "org/other",
        "method.name": "dora",
        "method.r": 8,
        "continual.replay_share": 0.5,
        "continual.ewc_lambda": 3.0,
        "train.sharding": "full",
    }
    with pytest.raises(SettingsError) as refused:
        train(given(**settings))
    assert [problem.split(" is ")[0] for problem in refused.value.problems] == [
        "model.path",
        "method.name",
        "method.r",
        "continual.replay_share",
        "continual.ewc_lambda",
        "continual.ewc_lambda does not work with train.sharding full: leave one of them out",
    ]


@pytest.mark.parametrize(
    ("status", "manifest", "message", "fix"),
    [
        ("stopped", {}, "old is not finished: its status is stopped", "train --resume"),
        ("finished", {"kind": "pretrain"}, "made by tunesmith pretrain", "--model .*model"),
    ],
)
def test_a_run_that_is_no_parent(place: Path, status: str, manifest: dict[str, Any], message: str, fix: str) -> None:
    made(place / "old", status, **manifest)
    with pytest.raises(SettingsError, match=message) as refused:
        continued(given())
    assert re.search(fix, refused.value.fix or "")


def test_a_parent_that_is_not_there(place: Path) -> None:
    with pytest.raises(SettingsError, match="there is no run 'old'"):
        continued(given())


@pytest.mark.parametrize("setting", ["continual.ewc_lambda", "continual.replay_share"])
def test_nothing_to_protect_without_a_parent(setting: str) -> None:
    with pytest.raises(SettingsError, match="add --continue RUN"):
        load_config(overrides={setting: 0.5})


def test_a_parent_of_an_earlier_version_is_continued_without_old_rows(place: Path) -> None:
    made(place / "old")
    config = continued(given())
    assert config.continual.replay_share == 0
    assert "kept no rows" in config.origin("continual.replay_share")
    assert config.continual.buffer_rows == 1000  # its own rows are kept for the next one


def test_a_buffer_cannot_grow_back(place: Path) -> None:
    text = '{"run": "old", "row": 2, "sheet": null, "text": "x"}\n'
    digest = hashlib.sha256(text.encode()).hexdigest()
    run = made(place / "old", replay={"capacity": 1, "seen": 5, "rows": 1, "sha256": digest})
    (run.path / "replay.jsonl").write_text(text)
    assert continued(given()).continual.buffer_rows == 1
    with pytest.raises(SettingsError) as refused:
        continued(given(**{"continual.buffer_rows": 9}))
    assert "4 of 5 rows are gone" in refused.value.problems[0]
