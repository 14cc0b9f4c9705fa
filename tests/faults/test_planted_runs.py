"""Defects planted in whole runs: the tests that kill and stop them, and fill their disk, notice each of them.

DEFECTS is the table: the function that is broken, what stands in its place in every process (fault_defects.py), the
test that has to fail, and the line of it or of its helpers that does. Those of a single save are in test_planted.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import test_disk
import test_kills
from fault_runs import Project, Reference

pytestmark = pytest.mark.slow


def killed(project: Project, reference: Reference, disk: Path) -> None:
    test_kills.test_kill_9(20, project, reference)


def told_to_stop(project: Project, reference: Reference, disk: Path) -> None:
    test_kills.test_signals_at_any_time(50, project, reference)


def told_in_a_step(project: Project, reference: Reference, disk: Path) -> None:
    step = ("tunesmith.train.loop", "_accumulate", 5, 4, signal.SIGTERM)
    test_kills.test_a_signal_in_each_phase(*step, project, reference)


def told_twice(project: Project, reference: Reference, disk: Path) -> None:
    test_kills.test_the_second_stops_at_once(signal.SIGTERM, project, reference)


def small_files(project: Project, reference: Reference, disk: Path) -> None:
    test_disk.test_files_may_not_grow(project, reference)


def full_disk(project: Project, reference: Reference, disk: Path) -> None:
    test_disk.test_a_disk_that_fills_up_and_is_freed(project, reference, disk)


def read_only_disk(project: Project, reference: Reference, disk: Path) -> None:
    test_disk.test_a_read_only_disk(project, reference, disk)


CHECKPOINT, TRAINER = "tunesmith.train.checkpoint", "tunesmith.train.trainer"
IN_PLACE = (CHECKPOINT, "atomic_folder", "in_place")
FORGETS = (CHECKPOINT, "_load_optimizer", "does_nothing")
UNEXPLAINED = ("tunesmith.runs.atomic", "_explain", "does_nothing")
DIFFERS = "assert result_of(run) == reference.result"
Check = Callable[[Project, Reference, Path], None]
DEFECTS: dict[str, tuple[tuple[str, str, str], Check, str]] = {
    "no temporary folder, killed": (IN_PLACE, killed, "assert damage(folder) is None"),
    "the optimizer is not restored, killed": (FORGETS, killed, DIFFERS),
    "the optimizer is not restored, told to stop": (FORGETS, told_to_stop, DIFFERS),
    "a signal does not wait for the step": (
        *((TRAINER, "listen_for_stop", "never_stops"), told_in_a_step),
        "assert code == 128 + number, output",
    ),
    "the second signal is not heard": (
        *((TRAINER, "listen_for_stop", "stops_in_its_own_time"), told_twice),
        'assert f"stopped at once; what was saved last is kept',
    ),
    "a file that may not grow is an internal error": (UNEXPLAINED, small_files, "assert code == 4, output"),
    "the old ones go first": (
        *((CHECKPOINT, "Checkpoints._write", "oldest_first"), full_disk),
        'assert damage(run.checkpoints_dir / "step-000003") is None',
    ),
    "a read-only disk is not told": (UNEXPLAINED, read_only_disk, 'assert "the file system is read-only" in output'),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_noticed(
    name: str, project: Project, reference: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (module, function, becomes), check, line = DEFECTS[name]
    disk: Any = request.getfixturevalue("small_disk") if check in (full_disk, read_only_disk) else None
    folder = tmp_path.parent / f"{tmp_path.name}-project"  # not on the small disk
    folder.mkdir()
    for path in (project.folder / "faq.csv", project.folder / "model"):
        (folder / path.name).symlink_to(path)
    broken = replace(project, folder=folder, defect={"module": module, "name": function, "becomes": becomes})
    with pytest.raises(AssertionError) as noticed:
        check(broken, reference, disk)
    assert str(noticed.traceback[-1].statement).strip().startswith(line), str(noticed.value)
