"""A disk that fails at any single operation of a save, is full or read-only: what was saved stays as it was."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from fault_runs import Project, Reference, assert_whole, result_of
from tunesmith.errors import ResourceError
from tunesmith.runs import Run
from tunesmith.train import checkpoint
from tunesmith.train.checkpoint import Checkpoints, TrainingState, damage


class Killed(BaseException):
    """Stands for kill -9: from here on nothing has any effect."""


class Disk:
    """Counts what changes the disk and fails the `at`-th change, half done if it is a write."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.calls = at, error, 0
        self.failed: str | None = None

    def change(self, name: str, half: Callable[[], object] = lambda: None) -> None:
        if self.failed is not None:
            if isinstance(self.error, Killed):
                raise self.error
            return
        if name in ("unlink", "rmdir") and not isinstance(self.error, Killed):
            return  # cleaning up is not what is tested
        self.calls += 1
        if self.calls == self.at:
            half()
            self.failed = name
            raise self.error


class HalfWriter:
    """A file that is written to through a Disk."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        self._disk.change("write", lambda: self._file.write(data[: len(data) // 2]))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> HalfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def failing(disk: Disk) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir"):
            real = getattr(os, name)

            def changed(*args: Any, _name: str = name, _real: Callable[..., Any] = real, **options: Any) -> Any:
                disk.change(_name)
                return _real(*args, **options)

            patch.setattr(os, name, changed)
        real_open, real_save = Path.open, checkpoint.save_file

        def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = real_open(path, mode, *args, **options)
            return HalfWriter(file, disk) if set(mode) & set("wx") else file

        def saved(tensors: Any, path: Path) -> None:  # safetensors writes from Rust
            real_save(tensors, path)
            disk.change("write", lambda: os.truncate(path, path.stat().st_size // 2))

        patch.setattr(Path, "open", opened)
        patch.setattr(checkpoint, "save_file", saved)
        yield


def trained(step: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(step)
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(8)).sum().backward()
    optimizer.step()
    return model, optimizer


def state_of(step: int) -> TrainingState:
    return TrainingState(step=step, best_loss=9.0 - step, best_step=step)


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    Killed(),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EROFS, "Read-only file system"),
]


@pytest.mark.parametrize("again", [False, True], ids=["new", "over-an-older-one"])
@pytest.mark.parametrize("error", ERRORS, ids=["full", "broken", "killed", "quota", "read-only"])
def test_a_save_that_fails_anywhere_loses_nothing(tmp_path: Path, error: BaseException, again: bool) -> None:
    """Step 1 is saved; saving step 2 (again, over itself, if `again`) fails at each of its operations in turn."""
    failures = []
    for at in count(1):
        folder = tmp_path / str(at)
        checkpoints = Checkpoints(folder, identity={}, keep=1)
        for step in (1, 2) if again else (1,):
            checkpoints.keep = 5
            checkpoints.save(*trained(step), state_of(step))
        checkpoints.keep = 1
        disk = Disk(at, error)
        with failing(disk), suppress(ResourceError, Killed):
            checkpoints.save(*trained(2), state_of(2))
        if disk.failed is None:
            break
        failures.append(disk.failed)
        assert [path.name for path in checkpoints.list() if damage(path) is not None] == []
        if not isinstance(error, Killed):
            assert not list(folder.glob(".*")), "the failed save left something"
        # a new process: one of the two states, whole, and saving goes on
        model, optimizer = trained(9)
        after = Checkpoints(folder, identity={}, keep=1)
        state = after.restore(model, optimizer)
        assert after.messages == []
        assert state is not None, "no checkpoint is left"
        assert state in ([state_of(2)] if again else [state_of(1), state_of(2)])
        assert torch.equal(model.weight, trained(state.step)[0].weight)
        assert after.best(state) == folder / f"step-{state.step:06d}"
        after.save(*trained(2), state_of(2))
        assert [path.name for path in after.list()] == ["step-000002"]
        assert sorted(path.name for path in folder.iterdir()) == ["BEST", "LATEST", "step-000002"]
    assert {"write", "fsync", "rename", "replace", "mkdir"} <= set(failures)
    assert failures.count("write") == 6  # four files, LATEST, BEST
    assert failures.count("fsync") >= 9


@pytest.mark.parametrize("error", ERRORS, ids=["full", "broken", "killed", "quota", "read-only"])
def test_a_manifest_is_the_old_or_the_new_one(tmp_path: Path, error: BaseException) -> None:
    failures = []
    for at in count(1):
        run = Run.create(tmp_path / str(at), config_text="seed: 1\n", manifest={"kind": "finetune"})
        before = run.manifest
        disk = Disk(at, error)
        with failing(disk), suppress(ResourceError, Killed):
            run.update_manifest(status="running")
        if disk.failed is None:
            break
        failures.append(disk.failed)
        assert run.manifest in (before, {**before, "status": "running"})
        run.update_manifest(status="finished")
        assert run.manifest == {**before, "status": "finished"}
    assert {"write", "fsync", "replace"} <= set(failures)


def test_too_little_space_is_told_before_the_run_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = 1_000_000
    model = torch.nn.Linear(100, 100)
    needed = 3 * 4 * (100 * 100 + 100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free})())
    fits = free // needed - 2  # beside the best one, and the next while it is written
    Checkpoints(tmp_path / "run", identity={}, keep=fits).check(model)
    with pytest.raises(ResourceError, match=rf"room for {fits + 3} checkpoints takes .* MB, 1.0 MB are free") as caught:
        Checkpoints(tmp_path / "run", identity={}, keep=fits + 1).check(model)
    assert caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())


def test_files_may_not_grow(project: Project, reference: Reference) -> None:
    """RLIMIT_FSIZE: the weights can be written, the optimizer's state cannot."""
    code, output = project.start("limited", file_bytes=300_000)
    assert code == 4, output
    assert "step 1 is not saved, trying again later: cannot write" in output
    assert "files may not be that large here" in output
    run = project.run("limited")
    assert run.manifest["status"] == "failed"
    assert list(run.checkpoints_dir.iterdir()) == []
    assert project.start("limited")[0] == 0
    assert result_of(run) == reference.result


def test_a_disk_that_fills_up_and_is_freed(project: Project, reference: Reference, small_disk: Path) -> None:
    filler = small_disk / "filler"
    hook = {"module": "tunesmith.train.checkpoint", "name": "save_file", "call": 7, "fill": str(filler)}
    code, output = project.start("run", at=small_disk, hook=hook)
    assert code == 4, output
    assert "step 4 is not saved, trying again later" in output
    assert "the disk is full" in output
    run = Run(small_disk / "run")
    assert damage(run.checkpoints_dir / "step-000003") is None
    filler.unlink()
    code, output = project.start("run", at=small_disk)
    assert code == 0, output
    assert "resumed after step 3" in output
    assert result_of(run) == reference.result


def test_a_read_only_disk(project: Project, reference: Reference, small_disk: Path) -> None:
    hook = {"module": "tunesmith.train.loop", "name": "_accumulate", "call": 6, "signals": [15]}
    assert project.start("run", at=small_disk, hook=hook)[0] == 143
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, output = project.start("run", at=small_disk)
    assert code == 4
    assert "the file system is read-only" in output
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert_whole(Run(small_disk / "run"))
    assert project.start("run", at=small_disk)[0] == 0
    assert result_of(Run(small_disk / "run")) == reference.result
