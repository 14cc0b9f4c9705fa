"""The metrics log: whole lines only, no step missing or twice after a crash and a resume."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, ResourceError
from tunesmith.runs import MetricsLog
from tunesmith.runs.metrics import best_validation, summarize


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics.jsonl")


def train(step: int, **values: object) -> dict[str, Any]:
    return {"step": step, "kind": "train", "loss": 1 / (step + 1), "tokens": 100, "seconds": 0.5 * step, **values}


def evaluation(step: int, loss: float | None) -> dict[str, Any]:
    return {"step": step, "kind": "eval", "validation_loss": loss}


def test_lines_are_read_as_they_were_written(log: MetricsLog) -> None:
    assert log.read() == []
    assert log.last_step() == 0
    lines = [evaluation(0, 2.5), train(1, note="naïve"), train(2), evaluation(2, 2.25)]
    for count, line in enumerate(lines, start=1):
        log.append(line)
        assert log.read() == lines[:count], "a line can be read as soon as it is written"
    assert log.read("eval") == [lines[0], lines[3]]
    assert log.read("train") == lines[1:3]
    assert log.last_step() == 2
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == lines


def test_a_word_in_a_value_does_not_change_a_lines_kind(log: MetricsLog) -> None:
    log.append(train(1, note="eval"))
    assert log.read("eval") == []


def test_what_is_not_finite_is_null_and_flagged(log: MetricsLog) -> None:
    log.append(train(1, loss=math.nan, grad_norm=math.inf))
    log.append(train(2))
    assert log.read() == [train(1, loss=None, grad_norm=None, nonfinite=["loss", "grad_norm"]), train(2)]
    for raw in log.path.read_text().splitlines():
        json.loads(raw, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("line", [{"kind": "train"}, {"step": -1, "kind": "train"}, {"step": 1, "kind": "test"}])
def test_a_line_has_a_step_and_a_kind(log: MetricsLog, line: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a line has a step"):
        log.append(line)
    assert not log.path.exists()


@pytest.mark.parametrize("tail", ['{"step": 3, "ki', '{"step": 3, "kind": "train"}', "\0" * 5000, "é"[:1] * 9000])
def test_a_torn_tail_is_left_out_and_then_overwritten(log: MetricsLog, tail: str) -> None:
    log.append(train(1))
    log.append(train(2))
    with log.path.open("a") as file:
        file.write(tail)
    assert log.read() == [train(1), train(2)]
    assert log.last_step() == 2
    log.append(train(3, loss=9))
    assert log.read() == [train(1), train(2), train(3, loss=9)]


def test_resuming_drops_the_steps_after_the_checkpoint(log: MetricsLog) -> None:
    for step in range(1, 6):
        log.append(train(step))
        log.append(evaluation(step, 1.0))
    with log.path.open("a") as file:
        file.write('{"step": 6')
    log.truncate_after(3)
    log.append(train(4, loss=7))
    assert [(line["step"], line["kind"]) for line in log.read()] == [
        *((step, kind) for step in (1, 2, 3) for kind in ("train", "eval")),
        (4, "train"),
    ]
    log.truncate_after(0)
    assert log.path.read_bytes() == b""


def test_truncating_no_file_makes_none(log: MetricsLog) -> None:
    log.truncate_after(3)
    log.sync()
    assert not log.path.exists()


@pytest.mark.parametrize("damage", ["{broken", '{"step": "x", "kind": "train"}', '{"kind": "train"}', "7", "\udc80"])
def test_damage_in_the_middle_is_told_with_its_line(log: MetricsLog, damage: str) -> None:
    log.append(train(1))
    with log.path.open("ab") as file:
        file.write(damage.encode(errors="surrogateescape") + b"\n")
    log.append(train(3))
    with pytest.raises(DataError, match=r"metrics.jsonl:2 is damaged"):
        log.read()


@pytest.mark.parametrize("written", [0, 10])
def test_a_disk_that_fills_up_within_a_line_leaves_the_lines_before(
    log: MetricsLog, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    log.append(train(1))
    before = log.path.read_bytes()
    real_open = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self._file, self._room = file, written

        def write(self, data: memoryview) -> int:
            if not self._room:
                raise OSError(28, "No space left on device")
            self._room = 0
            return int(self._file.write(data[:written]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *args, **options: Full(real_open(path, *args, **options)))
        with pytest.raises(ResourceError, match="the disk is full"):
            log.append(train(2))
    assert log.path.read_bytes() == before
    log.append(train(2))
    assert log.last_step() == 2


TEXT = st.text(max_size=20)
VALUES = st.one_of(st.floats(), st.integers(-(2**40), 2**40), TEXT, st.none(), st.booleans())
ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.dictionaries(TEXT.filter(lambda n: n not in {"step", "kind"}), VALUES, max_size=3)),
    st.tuples(st.just("resume"), st.integers(0, 12)),
    st.tuples(st.just("tear"), st.floats(0, 1)),
)


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=25))
def test_any_history_of_writes_crashes_and_resumes_keeps_each_step_once(actions: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsLog(Path(folder) / "metrics.jsonl")
        expected: list[dict[str, Any]] = []
        for action, value in actions:
            step = expected[-1]["step"] if expected else 0
            if action == "append":
                line = {"step": step + 1, "kind": "train", **value}
                line.pop("nonfinite", None)
                log.append(line)
                bad = [name for name, item in line.items() if isinstance(item, float) and not math.isfinite(item)]
                expected.append({**line, **dict.fromkeys(bad)} | ({"nonfinite": bad} if bad else {}))
            elif action == "resume":
                log.truncate_after(value)
                expected = [line for line in expected if line["step"] <= value]
            else:  # the process dies while it writes the next line
                text = json.dumps({"step": step + 1, "kind": "train", "loss": 1.0}).encode() + b"\n"
                with log.path.open("ab") as file:
                    file.write(text[: int(value * (len(text) - 1))])
            assert log.read() == expected
            assert log.last_step() == len(expected)
        assert [line["step"] for line in log.read()] == list(range(1, len(expected) + 1))
        assert {entry.name for entry in Path(folder).iterdir()} <= {"metrics.jsonl"}


def test_the_summary_adds_up() -> None:
    lines = [
        evaluation(0, 3.0),
        train(1, epoch=0.5, loss=2.0, tokens=300, tokens_per_second=150.0, seconds=2.0),
        {**evaluation(1, 1.5), "seconds": 9.0},
        train(2, epoch=1.0, loss=1.0, tokens_per_second=100.0, seconds=10.0),
        evaluation(2, 1.5),
        train(3, epoch=1.5, loss=None, nonfinite=["loss"], seconds=10.5),
        {**evaluation(3, None), "nonfinite": ["validation_loss"]},
    ]
    assert summarize(lines) == {
        "steps": 3,
        "epochs": 1.5,
        "final_train_loss": None,
        "best_train_loss": 1.0,
        "final_validation_loss": None,
        "best_validation_loss": 1.5,
        "best_step": 1,
        "tokens": 500,
        "seconds": 10.5,
        "tokens_per_second": pytest.approx(400 / 3),
        "nonfinite_steps": [3],
    }


def test_an_empty_summary_has_no_values() -> None:
    summary = summarize([])
    zeros = {"steps": 0, "tokens": 0, "nonfinite_steps": []}
    assert summary == {**dict.fromkeys(summary), **zeros}
    assert best_validation([]) is None
