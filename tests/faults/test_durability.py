"""What a power cut can lose: a file gets its name when it is on the disk, and nothing older goes before that.

A kill leaves what was written in the memory of the system; a power cut does not. It cannot be tried here, so the order
of fsync and rename is watched instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.runs import MetricsLog, Run, append_line, atomic_write
from tunesmith.train.checkpoint import Checkpoints, TrainingState


class Watch:
    """What was wrong about the order of fsync and rename, in words."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.renames = 0
        self._on_disk: dict[tuple[int, int], tuple[int, int]] = {}  # file -> its size and time when it was synced
        self._unsynced_folders: dict[tuple[int, int], Path] = {}  # names in them may be lost

    def fsync(self, descriptor: int) -> None:
        stat = os.fstat(descriptor)
        self._on_disk[stat.st_dev, stat.st_ino] = stat.st_size, stat.st_mtime_ns
        self._unsynced_folders.pop((stat.st_dev, stat.st_ino), None)

    def rename(self, source: Path, target: Path) -> None:
        if target.name.startswith("."):  # what is renamed aside is about to go
            self.problems += [f"{source} goes while names in {f} may be lost" for f in self._unsynced_folders.values()]
            return
        self.renames += 1
        for path in (source, *source.rglob("*")):
            if not self.is_on_disk(path):
                self.problems.append(f"{path} is not on the disk and becomes {target}")
        stat = target.parent.stat()
        self._unsynced_folders[stat.st_dev, stat.st_ino] = target.parent

    def remove(self, path: Path) -> None:
        if not path.name.startswith("."):
            self.problems.append(f"{path} goes file by file while it has its name")

    def is_on_disk(self, path: Path) -> bool:
        """Whether a file has been synced as it is, or a folder with the names in it."""
        stat = path.stat()
        return self._on_disk.get((stat.st_dev, stat.st_ino)) == (stat.st_size, stat.st_mtime_ns)

    def end(self) -> list[str]:
        return self.problems + [f"names in {folder} may be lost" for folder in self._unsynced_folders.values()]


@contextmanager
def watched() -> Iterator[Watch]:
    watch = Watch()
    real_fsync, real_rename, real_replace = os.fsync, os.rename, os.replace

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        watch.fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        for name, real in (("rename", real_rename), ("replace", real_replace)):

            def renamed(source: str | Path, target: str | Path, _real: object = real) -> None:
                watch.rename(Path(source), Path(target))
                _real(source, target)  # type: ignore[operator]

            patch.setattr(os, name, renamed)
        real_rmtree = shutil.rmtree

        def removed(path: str | Path, **options: Any) -> None:
            watch.remove(Path(path))
            real_rmtree(path, **options)

        patch.setattr(shutil, "rmtree", removed)
        yield watch


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(8)).sum().backward()
    optimizer.step()
    checkpoints = Checkpoints(tmp_path / "checkpoints", identity={}, keep=1)
    with watched() as watch:
        for step in (1, 2, 2, 3):  # the same step again replaces a folder
            checkpoints.save(model, optimizer, TrainingState(step=step, best_step=step))
    assert watch.end() == []
    assert watch.renames == 4 * 3  # the folder, LATEST and BEST
    assert watch.is_on_disk(tmp_path), "the name of the checkpoints folder may be lost"
    assert [folder.name for folder in checkpoints.list()] == ["step-000003"]


def test_a_run_and_its_manifest_are_on_the_disk_before_they_get_their_names(tmp_path: Path) -> None:
    with watched() as watch:
        run = Run.create(tmp_path / "run", config_text="seed: 1\n", manifest={"kind": "finetune"})
        run.update_manifest(status="running")
        run.update_config("seed: 2\n")
    assert watch.end() == []
    assert watch.renames >= 3


def test_what_is_made_on_the_way_is_on_the_disk_too(tmp_path: Path) -> None:
    with watched() as watch:
        atomic_write(tmp_path / "one" / "two" / "file", "content")
        append_line(tmp_path / "three" / "four" / "lines", "line")
        log = MetricsLog(tmp_path / "metrics.jsonl")
        log.append({"step": 1, "kind": "train", "loss": 1.0})
        log.sync()
    assert [path for path in (tmp_path, *tmp_path.rglob("*")) if not watch.is_on_disk(path)] == []
