"""The order of the measurements, going on after a stop, and one real run on a tiny model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import ledger, train
from bench.job import CONTENDERS, Job

from .conftest import FACTS, MACHINE, training


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Job]:
    """Measurements that were started; they end at once with made-up results. `trl-packing` always fails."""
    started: list[Job] = []

    def start(command: list[str], **kwargs: Any) -> SimpleNamespace:
        job = Job(**json.loads(command[3]))
        started.append(job)
        if job.contender == "trl-packing":
            return SimpleNamespace(returncode=1, stderr="Traceback\nRuntimeError: no room\n")
        found = {"machine": MACHINE, "model": {"facts": FACTS}}.get(job.kind, training(1.0))
        Path(command[5]).write_text(json.dumps(found))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(ledger.subprocess, "run", start)
    monkeypatch.setattr(train, "WORK", tmp_path)
    return started


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    results = tmp_path / "results.json"
    small = ["--sizes", "llama-135m", "--warmup", "1", "--steps", "3", "--results", str(results)]
    return train.main([*small, *arguments]), json.loads(results.read_text())


def test_rounds_go_around_all_contenders(processes: list[Job], tmp_path: Path) -> None:
    code, _ = run(tmp_path, "--contenders", "ours,script,trl-best", "--rounds", "2")
    assert code == 0
    speed = [(job.round, job.contender) for job in processes if job.kind == "speed"]
    assert speed == [
        *((0, name) for name in ("ours", "script", "trl-best")),
        *((1, name) for name in ("script", "trl-best", "ours")),
    ]
    assert [job.kind for job in processes].count("machine") == 2


def test_a_second_start_measures_nothing_again(processes: list[Job], tmp_path: Path) -> None:
    _, first = run(tmp_path, "--rounds", "1")
    done = len(processes)
    log = tmp_path / "measurements.jsonl"
    log.write_text(log.read_text() + '{"code": "cut sho')
    _, second = run(tmp_path, "--rounds", "1")
    # the model's folder is made anew, and what failed is tried again
    assert {(job.kind, job.contender) for job in processes[done:]} == {("model", ""), ("speed", "trl-packing")}
    assert second == first


def test_other_code_is_measured_anew(processes: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "--rounds", "1")
    done = len(processes)
    monkeypatch.setattr(train, "code_digest", lambda *patterns: "changed")
    run(tmp_path, "--rounds", "1")
    assert len(processes) == 2 * done


def test_agreement_alone_leaves_the_speeds_as_they_are(processes: list[Job], tmp_path: Path) -> None:
    _, before = run(tmp_path, "--contenders", "ours,script", "--rounds", "1", "--agreement-steps", "3")
    done = len(processes)
    _, after = run(tmp_path, "--contenders", "ours,script", "--agreement-only", "--agreement-steps", "5")
    assert {job.kind for job in processes[done:]} == {"model", "agreement"}
    agreement = after["sizes"]["llama-135m"].pop("agreement")
    assert "--agreement-only" in agreement["command"]
    assert before["sizes"]["llama-135m"].pop("agreement").keys() == agreement.keys() - {"command", "date"}
    assert after == before


def test_speeds_alone_leave_the_agreement_and_say_when_it_was_measured(processes: list[Job], tmp_path: Path) -> None:
    _, before = run(tmp_path, "--contenders", "ours,script", "--rounds", "1", "--agreement-steps", "3")
    for rounds in ("2", "3"):  # the second keeps what the first has kept
        _, after = run(tmp_path, "--contenders", "ours,script", "--rounds", rounds, "--agreement-steps", "0")
        wanted = {**before["sizes"]["llama-135m"]["agreement"], "command": before["command"], "date": before["date"]}
        assert after["sizes"]["llama-135m"]["agreement"] == wanted
        assert after["command"] != before["command"]


def test_agreement_alone_needs_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.parse(["--agreement-only", "--results", str(tmp_path / "none.json")])
    assert "needs results to put it into" in capsys.readouterr().err


def test_a_failure_is_told_and_the_rest_goes_on(processes: list[Job], tmp_path: Path) -> None:
    code, results = run(tmp_path, "--rounds", "1")
    assert code == 1
    assert results["sizes"]["llama-135m"]["failed"] == {"trl-packing, speed": "RuntimeError: no room"}
    assert set(results["sizes"]["llama-135m"]["contenders"]) == {*CONTENDERS} - {"trl-packing"}


def test_sizes_for_cuda_are_left_out_without_it(processes: list[Job], tmp_path: Path, capsys) -> None:
    _, results = run(tmp_path, "--sizes", "llama-135m,qwen2-0.5b", "--rounds", "1")
    assert set(results["sizes"]) == {"llama-135m"}
    assert "no CUDA here: left out qwen2-0.5b" in capsys.readouterr().err


def test_unknown_names_are_answered_with_the_known(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        train.parse(["--contenders", "axolotl"])
    assert stop.value.code == 2
    assert "unknown axolotl; there are: ours" in capsys.readouterr().err


@pytest.mark.slow
def test_quick_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real trainers on a tiny model: same rows, same adapter, same losses, a positive rate and peak."""
    monkeypatch.setattr(train, "WORK", tmp_path)
    assert train.main(["--quick", "--no-growth", "--results", str(tmp_path / "quick.json")]) == 0
    size = json.loads((tmp_path / "quick.json").read_text())["sizes"]["tiny"]
    expected = {"ours", "script"} | ({"trl-best"} if find_spec("trl") else set())
    assert set(size["contenders"]) == expected
    assert {one["trainable"] for one in size["contenders"].values()} == {32768}
    assert all(one["tokens_per_second"] > 0 and one["peak_bytes"] > 2**20 for one in size["contenders"].values())
    assert set(size["agreement"]["deviations"]) == expected - {"ours"}
    assert all(one["largest"] < 1e-6 for one in size["agreement"]["deviations"].values())
