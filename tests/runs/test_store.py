"""Making, finding and refusing run directories."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.runs import Run

CONFIG = "seed: 42\nmodel:\n  path: builtin:nano\nmethod:\n  name: lora\norigins:\n  seed: flag\n"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(name: str, **manifest: object) -> Run:
    return Run.create(Path("runs") / name, config_text=CONFIG, manifest=manifest)


def test_a_new_run_holds_its_settings_and_its_manifest() -> None:
    before = datetime.now(UTC)
    run = make("faq", seed=42, versions={"torch": "2.13"}, data={"sha256": "ab", "rows": 10}, format_version=99)
    assert {entry.name for entry in run.path.iterdir()} == {"config.yaml", "manifest.json"}
    assert run.config_path.read_text() == CONFIG
    manifest = run.manifest
    assert before <= datetime.fromisoformat(manifest.pop("created")) <= datetime.now(UTC)
    assert manifest == {
        "format_version": 1,
        "status": "created",
        "seed": 42,
        "versions": {"torch": "2.13"},
        "data": {"sha256": "ab", "rows": 10},
    }
    assert run.settings == {"seed": 42, "model": {"path": "builtin:nano"}, "method": {"name": "lora"}}
    assert run.name == "faq"


def test_the_places_of_a_run_are_those_of_the_plan() -> None:
    run = Run(Path("runs/faq"))
    places = {run.config_path, run.metrics_path, run.model_dir, run.checkpoints_dir}
    places |= {run.visuals_dir, run.eval_dir, run.exports_dir}
    names = {"config.yaml", "metrics.jsonl", "model", "checkpoints", "training_visuals", "eval", "exports"}
    assert places == {Path("runs/faq") / name for name in names}
    assert Run(Path()).name == Path.cwd().name


@pytest.mark.parametrize(("kind", "verb"), [("finetune", "train"), ("pretrain", "pretrain")])
def test_a_run_is_resumed_by_the_command_that_made_it(kind: str, verb: str) -> None:
    run = make("my faq", kind=kind)
    assert run.verb == verb
    assert run.resume_command == f"tunesmith {verb} --resume 'runs/my faq'"


def test_a_run_is_not_made_over_another() -> None:
    run = make("faq", mark=1)
    with pytest.raises(SettingsError, match="already a run at") as raised:
        make("faq", mark=2)
    assert raised.value.exit_code == 2
    assert raised.value.fix is not None
    assert all(flag in raised.value.fix for flag in ("--resume", "--name", "--output-dir"))
    assert run.manifest["mark"] == 1


def test_a_run_is_not_made_among_other_files(workplace: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (workplace / name).write_text("")
    with pytest.raises(SettingsError, match=r"not empty and not a run: it holds a.txt, b.txt, c.txt and 1 more"):
        Run.create(workplace, config_text=CONFIG, manifest={})
    with pytest.raises(SettingsError, match="is a file"):
        Run.create(workplace / "a.txt", config_text=CONFIG, manifest={})
    assert {entry.name for entry in workplace.iterdir()} == {"a.txt", "b.txt", "c.txt", "d.txt"}


@pytest.mark.parametrize("path", ["empty", "."])
def test_a_run_can_be_made_in_an_empty_folder_without_replacing_it(path: str) -> None:
    Path(path).mkdir(exist_ok=True)
    (Path(path) / ".hidden").write_text("a volume's own file")
    inode = Path(path).stat().st_ino
    run = Run.create(path, config_text=CONFIG, manifest={})
    assert Path(path).stat().st_ino == inode
    assert Run.open(path).manifest == run.manifest


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("failing_sync", [1, 2, 3])
def test_a_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, exists: bool, failing_sync: int) -> None:
    if exists:
        Path("runs/faq").mkdir(parents=True)
    calls = []

    def fail(_: int) -> None:
        calls.append(1)
        if len(calls) == failing_sync:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError):
        make("faq")
    assert [str(path) for path in Path("runs").rglob("*")] == (["runs/faq"] if exists else [])
    make("faq")


def test_two_processes_that_make_the_same_run_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename
    other: list[Run] = []

    def rename(source: object, target: object) -> None:
        monkeypatch.setattr(os, "rename", real)
        other.append(make("faq", mark="first"))
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(SettingsError, match="already a run"):
        make("faq", mark="second")
    assert other[0].manifest["mark"] == "first"
    assert [path.name for path in Path("runs").iterdir()] == ["faq"]


def test_a_run_is_opened_by_path_by_name_and_as_the_last(workplace: Path) -> None:
    first, second = make("b"), make("a")
    first.update_manifest(status="finished")  # being touched last does not make it the newest
    for reference in ("b", "runs/b", "runs/b/", workplace / "runs" / "b"):
        assert Run.open(reference).manifest == first.manifest
    assert Run.open("last").path == second.path


def test_a_folder_of_the_same_name_does_not_hide_a_run() -> None:
    Path("faq").mkdir()
    make("faq")
    assert Run.open("faq").path == Path("runs/faq")


def test_an_unknown_run_is_answered_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="no run 'x'") as raised:
        Run.open("x")
    assert "no runs under" in str(raised.value)
    with pytest.raises(SettingsError, match="there is no run under"):
        Run.open("last")
    make("support-faq")
    make("poems")
    with pytest.raises(SettingsError, match=r"no run 'suport-faq', did you mean 'support-faq'\?") as raised:
        Run.open("suport-faq")
    assert raised.value.fix == "runs under runs/: poems, support-faq; or give a path"


def test_what_is_no_run_is_told_so(workplace: Path) -> None:
    run = make("faq")
    run.model_dir.mkdir()
    with pytest.raises(
        SettingsError, match=r"model is not a run: it has no manifest.json and no config.yaml"
    ) as raised:
        Run.open(run.model_dir)
    assert raised.value.fix == f"give the run itself: {workplace / 'runs' / 'faq'}"
    Path("data.csv").write_text("")
    with pytest.raises(SettingsError, match="is a file, not a run"):
        Run.open("data.csv")
    run.config_path.unlink()
    with pytest.raises(SettingsError, match=r"is not a run: it has no config.yaml$|it has no config.yaml\n"):
        Run.open("faq")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"format_version": 2, "created": "2026", "status": "finished"}',
            "made by a newer tunesmith: its format is 2",
        ),
        ('{"format_version": 1, "created": "2026"}', "damaged: it has no status"),
        ("[]", "damaged: it has no format_version, no created, no status"),
        ('{"format_version": 1, "crea', "cannot read the manifest"),
        ("\udc80", "cannot read the manifest"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_told_at_once(text: str, words: str) -> None:
    run = make("faq")
    (run.path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError, match=words):
        Run.open("faq")
    with pytest.raises(SettingsError, match=words):
        run.update_manifest(status="failed")
    assert (run.path / "manifest.json").read_bytes() == text.encode(errors="surrogateescape")


def test_the_last_run_is_found_among_damaged_ones() -> None:
    make("good")
    make("bad")
    Path("runs/bad/manifest.json").write_text("{")
    assert Run.open("last").name == "good"


def test_the_manifest_is_updated_and_stays_json() -> None:
    run = make("faq", seed=1)
    created = run.manifest["created"]
    run.update_manifest(status="running", best={"loss": math.nan, "steps": (1, 2)})
    assert run.manifest == {
        "format_version": 1,
        "created": created,
        "status": "running",
        "seed": 1,
        "best": {"loss": None, "steps": [1, 2]},
    }
    assert "NaN" not in (run.path / "manifest.json").read_text()
    with pytest.raises(ValueError, match="'done', not one of created, running, finished, stopped, failed"):
        run.update_manifest(status="done")
    assert run.manifest["status"] == "running"


@pytest.mark.parametrize("text", ["a: [", "just words", "\udcff", "name: 2024-13-45"])
def test_settings_that_cannot_be_read_are_told(text: str) -> None:
    run = make("faq")
    run.config_path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError, match=r"config.yaml"):
        _ = run.settings


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("faq", "faq"),
        ("Meine Fragen (v2)", "Meine-Fragen-v2"),
        ("données.été", "données.été"),
        ("../../etc", "etc"),
        ("a..b", "a.b"),
        ("???", "run"),
        ("", "run"),
        ("last", "last-2"),
    ],
)
def test_a_file_name_becomes_a_run_name(stem: str, name: str) -> None:
    assert Run.free_name(stem) == name


def test_a_taken_name_gets_the_next_number() -> None:
    for expected in ("faq", "faq-2", "faq-3"):
        assert Run.free_name("faq") == expected
        make(expected)
    Path("runs/poems").write_text("a file takes a name too")
    assert Run.free_name("poems") == "poems-2"


@pytest.mark.parametrize("letter", ["x", "é", "问"])
def test_the_name_of_a_run_is_short_enough_for_a_folder(letter: str) -> None:
    """A file may have a name of 255 bytes, and the folder of a run is called .tmp-NAME.TOKEN while it is made."""
    stem = letter * (250 // len(letter.encode()))
    for _ in range(2):
        run = make(Run.free_name(stem))
        assert run.name.startswith(letter * 60)


@given(st.text(max_size=40))
def test_every_free_name_is_one_plain_folder(stem: str) -> None:
    name = Run.free_name(stem)
    assert Path(name).name == name
    assert ".." not in name
    assert not name.startswith((".", "-"))


def test_the_manifest_is_plain_json() -> None:
    run = make("faq", path="données")
    assert "données" in (run.path / "manifest.json").read_text(encoding="utf-8")
    json.loads((run.path / "manifest.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", config_text="", manifest={})
    with run.claimed():
        with pytest.raises(SettingsError, match="being trained by another process"), run.claimed():
            pass
        assert (run.path / ".lock").exists()
    assert not (run.path / ".lock").exists()
    with run.claimed():
        pass


def test_who_only_looks_whether_a_run_is_trained_keeps_nobody_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "a", config_text="", manifest={})
    (run.path / ".lock").touch()
    with (run.path / ".lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: looking.close())
        with run.claimed():
            assert run.is_claimed


def test_a_lock_left_by_a_killed_process_holds_nobody(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", config_text="", manifest={})
    (run.path / ".lock").touch()
    with run.claimed():
        pass


def test_a_lock_that_is_deleted_before_it_is_taken_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ends deletes the file, perhaps after another has opened and before it locks it; a third makes a new one."""
    run = Run.create(tmp_path / "a", config_text="", manifest={})
    lock = fcntl.flock

    def late(file: Any, operation: int) -> None:
        (run.path / ".lock").unlink()
        lock(file, operation)

    monkeypatch.setattr("tunesmith.runs.store.fcntl.flock", late)
    with pytest.raises(SettingsError, match="being trained by another process"), run.claimed():
        pass


def test_a_name_that_is_no_utf_8_is_kept(workplace: Path) -> None:
    """As Python has a file of the name b'caf\\xe9.csv', from an archive of another system."""
    name = os.fsdecode(b"caf\xe9.csv")
    text = yaml.safe_dump({"data": {"path": name}, "note": name}, allow_unicode=True)
    run = Run.create("runs/cafe", config_text=text, manifest={"data": {"files": [name]}})
    assert run.settings["data"]["path"] == name
    run.update_manifest(status="finished")
    assert run.manifest["data"]["files"] == [name]
