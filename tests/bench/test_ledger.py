"""A finished measurement is not made again; one of other code, or cut short, is."""

from __future__ import annotations

from pathlib import Path

from bench.ledger import Ledger, code_digest

JOB = {"task": "a", "settings": {"rate": 2e-3, "phases": [{"from": 1.0}]}}


def test_what_was_found_is_found_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    Ledger(log, "one").add(JOB, {"loss": 1.5})
    log.write_text(log.read_text() + '{"code": "one", "jo')
    again = Ledger(log, "one")
    assert again.find(dict(reversed(JOB.items()))) == {"loss": 1.5}
    assert again.find({**JOB, "task": "b"}) is None
    assert Ledger(log, "two").find(JOB) is None


def test_a_digest_is_of_the_files_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bench.ledger.ROOT", tmp_path)
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("1")
    before = code_digest("a.py")
    (tmp_path / "b.py").write_text("2")
    assert code_digest("a.py") == before
    assert code_digest("*.py") != before
    (tmp_path / "a.py").write_text("2")
    assert code_digest("a.py") != before
