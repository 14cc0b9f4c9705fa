"""Files and folders that appear whole or not at all, with the disk failing or the process dying at every step."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import ResourceError
from tunesmith.runs import atomic_folder, atomic_write

OLD, NEW = {"a.txt": "old a", "sub/b.txt": "old b"}, {"a.txt": "new a", "c.txt": "new c"}


class Killed(BaseException):
    """Stands for kill -9: nothing after it has any effect."""


class Fault:
    """Fails the `at`-th change to the disk: once with an OSError, or for ever, as when the process is killed."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error = at, error
        self.calls: list[str] = []
        self.failed_at = ""

    def check(self, name: str) -> None:
        dead = isinstance(self.error, Killed) and self.failed_at
        if name in {"unlink", "rmdir"} and not isinstance(self.error, Killed):
            return  # cleaning up after the failure works
        self.calls.append(name)
        if dead or len(self.calls) == self.at:
            self.failed_at = self.failed_at or name
            raise self.error


class HalfWriter:
    """A file whose write stops in the middle when the fault says so."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file, self._fault = file, fault

    def write(self, data: bytes) -> int:
        try:
            self._fault.check("write")
        except BaseException:
            self._file.write(data[: len(data) // 2])
            raise
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> HalfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def faulty_disk(fault: Fault) -> Iterator[None]:
    """Every change goes through the fault first, but for the writes of the block itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir"):
            real = getattr(os, name)

            def checked(*args: Any, _name: str = name, _real: Callable[..., Any] = real, **options: Any) -> Any:
                fault.check(_name)
                return _real(*args, **options)

            patch.setattr(os, name, checked)
        real_open = Path.open

        def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = real_open(path, mode, *args, **options)
            return HalfWriter(file, fault) if "x" in mode else file

        patch.setattr(Path, "open", opened)
        yield


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        if not (folder / name).parent.exists():
            (folder / name).parent.mkdir()
        (folder / name).write_bytes(text.encode())


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_write_makes_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    atomic_write(target, "straße")
    assert target.read_bytes() == "straße".encode()
    atomic_write(target, b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    assert names(target.parent) == {"file.txt"}


def test_files_and_folders_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "plain_folder").mkdir()
    atomic_write(tmp_path / "file", "")
    with atomic_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "plain_folder").stat().st_mode


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_of_a_library_get_ordinary_permissions(tmp_path: Path, umask: int, rights: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "deep").mkdir()
            for path in (folder / "model.safetensors", folder / "deep" / "optimizer.safetensors"):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors makes them
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [rights, rights]


def test_a_file_survives_a_failure_at_every_step(tmp_path: Path) -> None:
    failures = []
    for at in count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        target = folder / "manifest.json"
        target.write_text("old")
        fault = Fault(at, OSError(errno.EBUSY, "the disk is busy"))
        with faulty_disk(fault), suppress(OSError):
            atomic_write(target, "brand new")
        if not fault.failed_at:
            break
        failures.append(fault.failed_at)
        renamed = "replace" in fault.calls[:-1]
        assert target.read_text() == ("brand new" if renamed else "old")
        assert names(folder) == {"manifest.json"}
    assert failures == ["mkdir", "write", "fsync", "replace", "fsync"]


def test_a_file_is_whole_when_the_process_is_killed_at_any_step(tmp_path: Path) -> None:
    for at in count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        target = folder / "manifest.json"
        target.write_text("old")
        fault = Fault(at, Killed())
        with faulty_disk(fault), suppress(Killed):
            atomic_write(target, "brand new")
        assert target.read_text() in {"old", "brand new"}
        for leftover in folder.glob(".tmp-*"):
            os.utime(leftover, (time.time() - 7200,) * 2)
        atomic_write(target, "next")
        assert names(folder) == {"manifest.json"}
        if not fault.failed_at:
            break
    assert at > 5


def test_the_temporary_file_of_another_writer_is_left_alone(tmp_path: Path) -> None:
    young, others = tmp_path / ".tmp-file.0123abcd", tmp_path / ".tmp-file.txt.0123abcd"
    young.write_text("")
    others.write_text("")
    os.utime(others, (0, 0))
    atomic_write(tmp_path / "file", "")
    assert young.exists()
    assert others.exists(), "it belongs to file.txt"
    os.utime(young, (0, 0))
    atomic_write(tmp_path / "file", "")
    assert not young.exists()


def test_a_folder_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "model"
    with atomic_folder(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".tmp-")
        fill(temporary, NEW)
        assert not target.exists()
    assert content(target) == NEW
    with atomic_folder(target) as temporary:
        fill(temporary, OLD)
        assert content(target) == NEW
    assert content(target) == OLD
    assert names(target.parent) == {"model"}


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    fill_and_keep(tmp_path / "model")

    def save() -> None:
        with atomic_folder(tmp_path / "model") as temporary:
            fill(temporary, NEW)
            raise error

    with pytest.raises(type(error)):
        save()
    assert content(tmp_path / "model") == OLD
    assert names(tmp_path) == {"model"}


def fail_to_save(target: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(target):
        raise RuntimeError


def fill_and_keep(target: Path) -> None:
    target.mkdir()
    fill(target, OLD)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_survives_a_failure_at_every_step(tmp_path: Path, exists: bool) -> None:
    failures = []
    for at in count(1):
        target = tmp_path / str(at) / "model"
        target.parent.mkdir()
        if exists:
            fill_and_keep(target)
        fault = Fault(at, OSError(errno.ENOSPC, "No space left on device"))
        with faulty_disk(fault):
            try:
                with atomic_folder(target) as temporary:
                    fill(temporary, NEW)
            except ResourceError:
                failures.append(fault.failed_at)
            else:
                assert content(target) == NEW
                if fault.failed_at:  # making the parent, which is there already
                    continue
                break
        assert names(target.parent) == ({"model"} if exists else set())
        assert not exists or content(target) == OLD
    assert failures.count("rename") == (2 if exists else 1)
    assert failures.count("fsync") == len(NEW) + 2  # each file, the folder, its parent


def test_a_folder_is_whole_when_the_process_is_killed_at_any_step(tmp_path: Path) -> None:
    states = set()
    for at in count(1):
        target = tmp_path / str(at) / "model"
        target.parent.mkdir()
        fill_and_keep(target)
        fault = Fault(at, Killed())
        with faulty_disk(fault):
            try:
                with atomic_folder(target) as temporary:
                    fill(temporary, NEW)
            except Killed:
                pass
        state = "old" if target.exists() and content(target) == OLD else "new" if target.exists() else "aside"
        states.add(state)
        whole = NEW if state == "new" else OLD
        fail_to_save(target)
        assert content(target) == whole, "an interrupted replacement is put back before anything else"
        assert names(target.parent) == {"model"}
        if not fault.failed_at:
            break
    assert states == {"old", "new", "aside"}


def test_everything_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[int | str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def rename(source: Path, destination: Path) -> None:
        events.append("rename")
        real_rename(source, destination)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    with atomic_folder(tmp_path / "model") as temporary:
        fill(temporary, OLD)
    before = events[: events.index("rename")]
    inside = [tmp_path / "model", *(tmp_path / "model").rglob("*")]
    assert sorted(before, key=str) == sorted((path.stat().st_ino for path in inside), key=str)
    assert events[events.index("rename") + 1 :] == [tmp_path.stat().st_ino]


def test_an_existing_folder_can_be_kept(tmp_path: Path) -> None:
    fill_and_keep(tmp_path / "run")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "run", replace=False) as temporary:
        fill(temporary, NEW)
    assert content(tmp_path / "run") == OLD
    assert names(tmp_path) == {"run"}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full (at least 3.0 MB needed, "),
        (errno.EDQUOT, "the disk quota is used up (at least 3.0 MB needed, "),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_disk_that_cannot_be_written_is_a_lack_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, kind: str
) -> None:
    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    target = tmp_path / "thing"

    def write() -> None:
        if kind == "file":
            atomic_write(target, bytes(3_000_000))
            return
        with atomic_folder(target) as temporary:
            (temporary / "weights").write_bytes(bytes(3_000_000))

    with pytest.raises(ResourceError) as raised:
        write()
    assert f"cannot write {target}: {words}" in raised.value.message
    assert ("MB free" in raised.value.message) == (number in {errno.ENOSPC, errno.EDQUOT})
    assert raised.value.exit_code == 4
    assert raised.value.fix is not None
    assert names(tmp_path) == set()


def test_a_full_disk_inside_the_block_is_a_lack_of_resources(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the disk is full"), atomic_folder(tmp_path / "model") as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary / "weights"))


def test_a_full_disk_met_by_a_library_in_rust_is_a_lack_of_resources(tmp_path: Path) -> None:
    words = "Error while serializing: I/O error: No space left on device (os error 28)"  # safetensors 0.8
    with pytest.raises(ResourceError, match="the disk is full"), atomic_folder(tmp_path / "model"):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="error 99"), atomic_folder(tmp_path / "model"):
        raise RuntimeError("something else (os error 99)")


def test_a_folder_that_may_not_be_written_is_a_lack_of_resources(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="permission denied"), atomic_folder(tmp_path / "model") as temporary:
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary / "weights"))


def test_a_file_that_the_block_may_not_read_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="secret"), atomic_folder(tmp_path / "model"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/secret")


WRITER = """
import sys
from pathlib import Path
from tunesmith.runs import atomic_folder, atomic_write
root = Path(sys.argv[1])
for number in range(1_000_000):
    text = str(number) * 20_000
    atomic_write(root / "file", text)
    with atomic_folder(root / "folder") as folder:
        for name in "abc":
            (folder / name).write_text(text)
    if number == 0:
        print("there is something to lose", flush=True)
"""


@pytest.mark.slow
def test_real_kills_leave_whole_files(tmp_path: Path) -> None:
    for number in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout:
            writer.stdout.readline()
            time.sleep(0.05 + number * 0.017)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        fail_to_save(tmp_path / "folder")  # puts an interrupted one back
        texts = {*content(tmp_path / "folder").values()}
        assert len(texts) == 1
        for text in (*texts, (tmp_path / "file").read_text()):
            assert text
            assert text == text[: len(text) // 20_000] * 20_000
        assert {name for name in names(tmp_path) if not name.startswith(".tmp-file.")} == {"file", "folder"}
