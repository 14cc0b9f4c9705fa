"""evaluate() a second time: nothing is loaded, nothing heavy imported, nothing written that is the same."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunesmith import api
from tunesmith.api import measuring
from tunesmith.api.facts import card_facts
from tunesmith.api.leaks import LeakReport
from tunesmith.api.measuring import Comparison
from tunesmith.config import load_config
from tunesmith.errors import SettingsError
from tunesmith.evaluate import Measured, score, summarise
from tunesmith.generate import Choice
from tunesmith.runs import Run
from tunesmith.types import Example, Message

HEAVY = ["torch", "transformers", "peft", "matplotlib", "rouge_score", "nltk", "sklearn", "pandas"]
AGAIN = f"""
import json, sys
from tunesmith import api
result = api.evaluate("faq", overrides={{"max_new_tokens": 6}})
print(json.dumps([[name for name in {HEAVY} if name in sys.modules], result.to_json()]))
"""
SHORT: dict[str, object] = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def run(tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Measured once. One of its test rows is also in the training data, so it is scored without it as well."""
    folder = tmp_path_factory.mktemp("home")
    rows = [f"What is the code of colour {n}?,The code is {n * 7} and it is written on the lid.\n" for n in range(40)]
    (folder / "faq.csv").write_text("question,answer\n" + "".join(rows))
    overrides = {
        **{"data.path": str(folder / "faq.csv"), "model.path": str(tiny_model_dir("llama"))},
        **{"method.name": "lora", "train.max_steps": 2, "output_dir": str(folder / "runs" / "faq")},
        **{"data.max_length": 96},
    }
    found = api.train(load_config(overrides=overrides)).run
    api.evaluate(str(found.path), overrides=SHORT)
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a session is opened for: every way to weights leads through one."""
    asked: list[str] = []
    real = api.open_session

    def counted(reference: str, overrides: dict[str, object] | None = None) -> Any:
        asked.append(reference)
        return real(reference, overrides)

    monkeypatch.setattr("tunesmith.api.session.open_session", counted)
    return asked


def test_a_second_call_loads_no_weights_and_finds_the_same(run: Run, opened: list[str]) -> None:
    api.evaluate(str(run.path), overrides=SHORT)  # the files may be of another test
    opened.clear()
    written = json.loads((run.eval_dir / "summary.json").read_text())
    page = (run.eval_dir / "report.html").read_bytes()
    again = api.evaluate(str(run.path), overrides=SHORT)
    assert opened == []
    found = json.loads(json.dumps(again.to_json()))
    assert {**found, "seconds": None} == {**written, "seconds": None}
    assert (run.eval_dir / "report.html").read_bytes() == page


def test_a_run_is_asked_with_the_template_of_its_training(run: Run) -> None:
    with pytest.raises(SettingsError, match="was trained with the template"):
        api.open_session(str(run.path), {"prompt.template": "qa"})


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 5},
        {"seed": 9, "data.split.test": 0.1},
        {"eval.max_rows": 2},
        {"prompt.system": "Be brief."},
        {"model.dtype": "bfloat16"},
    ],
    ids=",".join,
)
def test_another_setting_or_other_rows_are_asked(run: Run, opened: list[str], change: dict[str, object]) -> None:
    api.evaluate(str(run.path), overrides={**SHORT, **change})
    assert len(opened) == 1


def test_a_machine_with_another_device_asks_anew(
    run: Run, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With auto the device is that of the machine, to which a run may have been moved."""
    monkeypatch.setattr("tunesmith.api.records._GPUS", (str(tmp_path / "nvidia[0-9]*"),))
    on_cpu = {**SHORT, "model.device": "cpu"}
    for settings in (SHORT, on_cpu):
        api.evaluate(str(run.path), overrides=settings)
    opened.clear()
    (tmp_path / "nvidia0").touch()
    api.evaluate(str(run.path), overrides=on_cpu)  # said, so a GPU changes nothing
    assert opened == []
    api.evaluate(str(run.path), overrides=SHORT)
    assert len(opened) == 1
    (tmp_path / "nvidia0").unlink()
    api.evaluate(str(run.path), overrides=SHORT)
    assert len(opened) == 1


def test_a_machine_that_takes_another_number_format_asks_anew(
    run: Run, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was detected where the run was trained is chosen anew where it is asked, on the same device too."""
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu avx2\nflags : of the second\n")
    monkeypatch.setattr("tunesmith.api.records._KINDS", ((str(tmp_path / "cpu*"), "flags"), ("/nowhere/*", "Model")))
    on_cpu = {**SHORT, "model.device": "cpu"}
    said = {**on_cpu, "model.dtype": "float32"}
    for settings in (on_cpu, said):
        api.evaluate(str(run.path), overrides=settings)
    opened.clear()
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu avx2 avx512_bf16\n")
    api.evaluate(str(run.path), overrides=said)
    assert opened == []
    api.evaluate(str(run.path), overrides=on_cpu)
    assert len(opened) == 1
    (tmp_path / "cpuinfo").unlink()
    api.evaluate(str(run.path), overrides=on_cpu)
    assert len(opened) == 2


def test_a_suite_that_was_answered_is_not_asked_again(run: Run, opened: list[str], tmp_path: Path) -> None:
    suite = tmp_path / "mine.jsonl"
    items = [{"question": f"Is {n} a number?", "answer": "yes", "wrong": ["no"]} for n in range(3)]
    suite.write_text("".join(json.dumps(item) + "\n" for item in items))
    first = api.evaluate(str(run.path), overrides={**SHORT, "eval.suites": [str(suite)]}).to_json()["suites"]
    assert len(opened) == 1
    again = api.evaluate(str(run.path), overrides={**SHORT, "eval.suites": [str(suite)]}).to_json()["suites"]
    assert (len(opened), again) == (1, first)
    suite.write_text(suite.read_text().replace("Is 2", "Is 4"))
    api.evaluate(str(run.path), overrides={**SHORT, "eval.suites": [str(suite)]})
    assert len(opened) == 2


def test_two_suites_of_the_same_name_are_both_told(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / folder / "mine.jsonl" for folder in ("a", "b")]
    for rows, path in enumerate(paths, start=1):
        path.parent.mkdir()
        items = [{"question": f"Is {n} a number?", "answer": "yes"} for n in range(rows)]
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    given = [str(path) for path in (*paths, paths[0])]
    found = api.evaluate(str(run.path), overrides={**SHORT, "eval.suites": given}).to_json()["suites"]
    assert isinstance(found, dict)
    assert {name: suite["items"] for name, suite in found.items()} == {given[0]: 1, given[1]: 2}
    (alone,) = api.evaluate(str(run.path), overrides={**SHORT, "eval.suites": given[:1]}).suites
    assert alone.name == "mine"


def test_confusions_are_drawn_anew_when_they_alone_changed(tmp_path: Path) -> None:
    """Three labels that are taken for each other in a ring: turned around, no score is another."""
    labels = ("ham", "news", "spam")
    rows = [Example((Message("user", f"text {label}"), Message("assistant", label)), row=1) for label in labels]

    def written(step: int) -> tuple[object, bytes, str]:
        chosen = [math.log(share) for share in (0.6, 0.2, 0.2)]
        choices = [Choice(labels, tuple(chosen[(n - place - step) % 3] for n in range(3))) for place in range(3)]
        nll = np.ones((3, 3))
        found = score(
            Measured([0, 1, 2], [], [], [0, 1, 2], [None] * 3, nll, [], choices, seconds=0.0),
            rows,
            config=load_config(),
            labels=dict.fromkeys(labels, 1),
        )
        place: Any = SimpleNamespace(name="mail", visuals_dir=tmp_path)
        measuring._write_pictures(Comparison(place, found, found, LeakReport(()), tmp_path), is_new=False)
        picture, counts = ((tmp_path / f"confusion.{end}").read_bytes() for end in ("png", "json"))
        return summarise(found, found) | {"seconds": 0}, picture, counts.decode()

    first, other = written(1), written(2)
    assert first[0] == other[0]
    assert first[1] != other[1]
    assert first[2] != other[2]


def test_a_model_that_was_written_anew_is_asked_anew(run: Run, opened: list[str]) -> None:
    (weights,) = run.model_dir.glob("*.safetensors")
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    api.evaluate(str(run.path), overrides=SHORT)
    assert len(opened) == 1
    api.evaluate(str(run.path), overrides=SHORT)
    assert len(opened) == 1


def test_what_cannot_be_read_is_measured_again(run: Run, opened: list[str]) -> None:
    api.evaluate(str(run.path), overrides=SHORT)
    before = len(opened)
    for content in ("{", "[]", '{"schema_version": 0}'):
        for path in (run.eval_dir / "answers").glob("measured-tuned-*.json"):
            path.write_text(content)
        again = api.evaluate(str(run.path), overrides=SHORT)
        before += 1
        assert len(opened) == before
        assert again.tuned.row_count == 4


def test_a_second_process_imports_nothing_heavy_and_rewrites_no_summary(run: Run) -> None:
    api.evaluate(str(run.path), overrides=SHORT)
    card, summary = run.model_dir / "README.md", run.eval_dir / "summary.json"
    times = [path.stat().st_mtime_ns for path in (card, summary)]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN], cwd=run.path.parents[1], capture_output=True, text=True, check=True, timeout=120
    )
    heavy, found = json.loads(done.stdout)
    assert heavy == []
    assert found["tuned"] == json.loads(summary.read_text())["tuned"]
    assert [path.stat().st_mtime_ns for path in (card, summary)] == times


def test_a_card_that_a_kill_left_behind_its_scores_is_written(run: Run) -> None:
    api.evaluate(str(run.path), overrides=SHORT)
    card, summary = run.model_dir / "README.md", run.eval_dir / "summary.json"
    card.write_text("old")
    os.utime(card, ns=(0, summary.stat().st_mtime_ns - 1))
    api.evaluate(str(run.path), overrides=SHORT)
    assert "How good it is" in card.read_text()


def test_a_damaged_summary_has_no_scores_for_the_card(run: Run) -> None:
    api.evaluate(str(run.path), overrides=SHORT)
    config = load_config(stored=run.config_path)
    assert card_facts(run, config).test_rows == 4
    (run.eval_dir / "summary.json").write_text("{")
    assert card_facts(run, config).test_rows == 0


def test_a_soft_prompt_takes_context_from_base_and_tuned_model_alike(
    tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """A row that the base alone has room for is no row of either; one that is shortened is the same for both."""
    rows = [f"What is the code of colour {n}?,The code is {n * 7}.\n" for n in range(40)]
    (tmp_path / "faq.csv").write_text("question,answer\n" + "".join(rows))
    overrides = {
        **{"data.path": str(tmp_path / "faq.csv"), "model.path": str(tiny_model_dir("llama"))},
        **{"method.name": "prompt", "method.num_virtual_tokens": 100, "train.max_steps": 1, "data.max_length": 96},
        **{"output_dir": str(tmp_path / "runs" / "faq")},
    }
    found = api.train(load_config(overrides=overrides)).run
    long = "it is " * 100
    (tmp_path / "new.csv").write_text(f"question,answer\nWho?,Nobody.\nWhat?,{long}\n{long}?,Seven.\n")
    result = api.evaluate(str(found.path), data=str(tmp_path / "new.csv"), overrides=SHORT)
    assert [row["row"] for row in result.base.rows] == [row["row"] for row in result.tuned.rows] == [2, 4]
    assert result.tuned.skipped_rows == (3,)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
# Keys whose values are by name: of a score, a label, a task, a model, a setting.
BY_NAME = {
    *("base", "tuned", "change", "changes", "tasks", "suites", "kinds", "scores", "answers", "judge", "seconds"),
    *("tokens_per_second", "settings", "training_rows", "unseen", "calibration", "asked_with", "data"),
}


def keys_of(content: object) -> set[str]:
    """All keys of a file that are no names."""
    if isinstance(content, list):
        return set().union(*map(keys_of, content))
    if not isinstance(content, dict):
        return set()
    found = set(content)
    for key, value in content.items():
        named = key in BY_NAME and isinstance(value, dict)
        for part in value.values() if named else [value]:
            found |= set() if key in ("settings", "asked_with", "data", "judge") else keys_of(part)
    return found


def test_the_guide_says_what_each_key_of_the_files_means(
    run: Run, tiny_model_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    suite = tmp_path / "mine.jsonl"
    suite.write_text(json.dumps({"question": "Is 2 a number?", "answer": "yes", "wrong": ["no"], "kind": "a"}) + "\n")
    (tmp_path / "new.csv").write_text("question,answer\nWho?,Nobody.\nWhat is the code of colour 3?,21\n")
    settings = {**SHORT, "eval.suites": [str(suite)]}
    measured = api.evaluate(str(run.path), data=str(tmp_path / "new.csv"), overrides=settings)
    folder = tmp_path / "compared"
    (tmp_path / "cases.yaml").write_text("- {question: 'Who?', answer: Nobody, check: {contains: nobodyever}}\n")
    compared = api.compare(
        ["base", str(run.path)], questions=str(tmp_path / "cases.yaml"), overrides=SHORT, folder=folder
    )
    (tmp_path / "mail.csv").write_text("text,label\n" + "".join(f"day {n},{'ab'[n % 2]}\n" for n in range(40)))
    settings = {"data.path": str(tmp_path / "mail.csv"), "model.path": str(tiny_model_dir("llama"))}
    mail = api.train(load_config(overrides={**settings, "train.max_steps": 1, "output_dir": str(tmp_path / "mail")}))
    chosen = api.evaluate(str(mail.run.path))
    files = [result.folder / "predictions.jsonl" for result in (measured, chosen)] + [folder / "rows.jsonl"]
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    keys = keys_of([measured.to_json(), compared.to_json(), chosen.to_json(), *lines])
    keys |= {key for line in lines for side in ("base", "tuned") for key in line.get(side, ())}
    assert {"without_leaked", "slices", "support", "reference_probability", "seen_row", "failed"} <= keys
    page = PAGE.read_text()
    assert {key for key in keys if f"`{key}`" not in page} == set()


def test_another_seed_asks_the_same_rows(run: Run) -> None:
    """With rows divided anew, rows of the training would be measured as held out."""
    rows = [row["question"] for row in api.evaluate(str(run.path), overrides=SHORT).tuned.rows]
    other = api.evaluate(str(run.path), overrides={**SHORT, "seed": 9, "temperature": 0.5})
    assert [row["question"] for row in other.tuned.rows] == rows


@pytest.mark.parametrize(
    "change",
    [
        {"data.split.test": 0.4, "data.split.train": 0.5},
        {"data.max_rows": 20},
        {"data.drop_duplicates": False},
        {"data.shape": "text"},
    ],
    ids=",".join,
)
def test_the_rows_of_a_run_cannot_be_divided_otherwise(run: Run, opened: list[str], change: dict[str, object]) -> None:
    name = next(iter(change))
    with pytest.raises(SettingsError, match=f"its training left out: {name.removesuffix('.test')} cannot change"):
        api.evaluate(str(run.path), overrides={**SHORT, **change})
    assert opened == []


def test_a_data_file_that_was_moved_is_told_by_its_new_place(run: Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved.csv"
    moved.write_bytes(Path(load_config(stored=run.config_path).data.path or "").read_bytes())
    first = api.evaluate(str(run.path), overrides=SHORT)
    again = api.evaluate(str(run.path), overrides={**SHORT, "data.path": str(moved)})
    assert again.to_json()["tuned"] == first.to_json()["tuned"]
