"""Defects planted in what keeps work safe: the suite's own tests notice each of them.

A test that cannot fail proves nothing. DEFECTS is the table: what is broken, how, the test that has to fail, and what
it has to see, since another error may come of the planting itself. Those of resuming are in
tests/train/test_resume_planted.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import test_damage
import test_disk
import test_durability
from tunesmith.errors import SettingsError
from tunesmith.runs import atomic
from tunesmith.train import checkpoint
from tunesmith.train.checkpoint import Checkpoints

pytestmark = pytest.mark.slow

Patch = pytest.MonkeyPatch
_move, _sync_tree = atomic._move, atomic._sync_tree


def does_nothing(*arguments: object, **options: object) -> None:
    pass


def names_first(patch: Patch) -> None:
    """Rename, then sync."""

    def move(temporary: Path, target: Path, *, replace: bool) -> None:
        _move(temporary, target, replace=replace)
        _sync_tree(target)

    patch.setattr(atomic, "_sync_tree", does_nothing)
    patch.setattr(atomic, "_move", move)


def in_place(patch: Patch) -> None:
    """Write under the final name."""

    @contextmanager
    def folder(path: Path) -> Iterator[Path]:
        with atomic.disk_errors(path):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
            yield path

    patch.setattr(checkpoint, "atomic_folder", folder)


def deletes_before_renaming(patch: Patch) -> None:
    """The folder that is replaced goes before the new one has its name."""

    def move(temporary: Path, target: Path, *, replace: bool) -> None:
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)

    patch.setattr(atomic, "_move", move)


def oldest_first(patch: Patch) -> None:
    """Old checkpoints go before the new one is written."""
    real = Checkpoints._write

    def write(self: Checkpoints, *arguments: Any) -> Path:
        for folder in self.list():
            checkpoint.remove_folder(folder)
        return real(self, *arguments)

    patch.setattr(Checkpoints, "_write", write)


def not_read_back(patch: Patch) -> None:
    """Old checkpoints go although nobody looked whether the new one is good."""

    def prune(self: Checkpoints, newest: Path, state: object) -> None:
        for folder in self.list()[: -self.keep]:
            checkpoint.remove_folder(folder)

    patch.setattr(Checkpoints, "_prune", prune)


def leaves_a_mess(patch: Patch) -> None:
    patch.setattr(atomic, "_remove", does_nothing)


def deletes_piece_by_piece(patch: Patch) -> None:
    """A kill in the middle leaves half a checkpoint with its name."""

    def remove(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            os.unlink(path)
        os.rmdir(folder)

    patch.setattr(checkpoint, "remove_folder", remove)


def manifest_in_place(patch: Patch) -> None:
    from tunesmith.runs import store

    def write(path: Path, data: str) -> None:
        with Path(path).open("w") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, path)

    patch.setattr(store, "atomic_write", write)


def hash_of(described: Callable[[Path], str]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(checkpoint, "file_sha256", described)


def damage_is(found: Callable[[Path], str | None]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(checkpoint, "damage", found)


def ignores(module: object, name: str) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(module, name, does_nothing)


def never_tells_the_best(patch: Patch) -> None:
    patch.setattr(Checkpoints, "_has_best", lambda self, state: True)


def durability(tmp_path: Path, patch: Patch) -> None:
    test_durability.test_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path)


def durability_of_a_run(tmp_path: Path, patch: Patch) -> None:
    test_durability.test_a_run_and_its_manifest_are_on_the_disk_before_they_get_their_names(tmp_path)


def failed_save(index: int, *, again: bool) -> Callable[[Path, Patch], None]:
    """index: of ERRORS, an error of the disk or a kill. again: a folder is replaced."""

    def check(tmp_path: Path, patch: Patch) -> None:
        test_disk.test_a_save_that_fails_anywhere_loses_nothing(tmp_path, test_disk.ERRORS[index], again)

    return check


def failed_manifest(tmp_path: Path, patch: Patch) -> None:
    test_disk.test_a_manifest_is_the_old_or_the_new_one(tmp_path, test_disk.ERRORS[2])


def flipped_bits(tmp_path: Path, patch: Patch) -> None:
    test_damage.test_every_flipped_bit_is_seen(test_damage.two_checkpoints(tmp_path))


def lost_ends(tmp_path: Path, patch: Patch) -> None:
    test_damage.test_every_lost_end_is_seen(test_damage.two_checkpoints(tmp_path))


def missing_file(tmp_path: Path, patch: Patch) -> None:
    folder = test_damage.two_checkpoints(tmp_path)
    test_damage.test_every_missing_file_is_seen_and_the_one_before_is_used(folder, "optimizer.safetensors")


def bad_disk(tmp_path: Path, patch: Patch) -> None:
    test_damage.test_old_checkpoints_stay_when_the_new_one_does_not_read_back(
        test_damage.two_checkpoints(tmp_path), patch
    )


def lost_best(tmp_path: Path, patch: Patch) -> None:
    test_damage.test_a_lost_best_checkpoint_is_told_and_replaced_by_a_later_one(test_damage.two_checkpoints(tmp_path))


def has_a_manifest(folder: Path) -> str | None:
    return None if (folder / "manifest.json").exists() else "manifest.json is missing"


FULL, KILLED = 0, 2
NOT_SYNCED = "is not on the disk and becomes"
HALF_A_CHECKPOINT = r"assert \['step-00000\d'\] == \[\]"
MISSED = rf"assert \d+ == {test_damage.PLACES}"
# what is broken -> how; the test that has to fail; how it fails
DEFECTS: dict[str, tuple[Callable[[Patch], None], Callable[[Path, Patch], None], type[BaseException], str]] = {
    "files are not synced": (ignores(atomic, "_sync_tree"), durability, AssertionError, NOT_SYNCED),
    "named, then synced": (names_first, durability, AssertionError, NOT_SYNCED),
    "folders are not synced": (ignores(atomic, "sync_folder"), durability, AssertionError, NOT_SYNCED),
    "an old one goes before the new name is synced": (
        *(deletes_before_renaming, durability),
        *(AssertionError, "step-000001 goes file by file while it has its name"),
    ),
    "the manifest is not replaced": (
        *(manifest_in_place, durability_of_a_run),
        *(AssertionError, "names in .* may be lost"),
    ),
    "the manifest is written in place": (
        *(manifest_in_place, failed_manifest),
        *(SettingsError, "cannot read the manifest of the run"),
    ),
    "no temporary folder, a full disk": (in_place, failed_save(FULL, again=False), AssertionError, HALF_A_CHECKPOINT),
    "no temporary folder, a kill": (in_place, failed_save(KILLED, again=False), AssertionError, HALF_A_CHECKPOINT),
    "deleted, then renamed": (
        *(deletes_before_renaming, failed_save(KILLED, again=True)),
        *(AssertionError, HALF_A_CHECKPOINT),
    ),
    "the old ones go first": (
        *(oldest_first, failed_save(KILLED, again=False)),
        *(AssertionError, "no checkpoint is left"),
    ),
    "deleted file by file": (
        *(deletes_piece_by_piece, failed_save(KILLED, again=False)),
        *(AssertionError, HALF_A_CHECKPOINT),
    ),
    "a failed save leaves its folder": (
        *(leaves_a_mess, failed_save(FULL, again=False)),
        *(AssertionError, "the failed save left something"),
    ),
    "the new one is not read back": (not_read_back, bad_disk, pytest.fail.Exception, "DID NOT RAISE ResourceError"),
    "hashes are not compared": (hash_of(lambda path: "same"), flipped_bits, AssertionError, MISSED),
    "sizes are compared": (hash_of(lambda path: str(path.stat().st_size)), flipped_bits, AssertionError, MISSED),
    "the first bytes are compared": (
        *(hash_of(lambda path: path.read_bytes()[:64].hex()), lost_ends),
        *(AssertionError, MISSED),
    ),
    "a manifest is believed": (damage_is(has_a_manifest), missing_file, FileNotFoundError, "optimizer.safetensors"),
    "nothing is checked": (damage_is(lambda folder: None), missing_file, FileNotFoundError, "optimizer.safetensors"),
    "a lost best is not noticed": (
        *(never_tells_the_best, lost_best),
        *(AssertionError, r"assert \(2, 1, 1.5\) == \(2, None, None\)"),
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check, kind, words = DEFECTS[name]
    plant(monkeypatch)
    with pytest.raises(kind, match=words):
        check(tmp_path, monkeypatch)
