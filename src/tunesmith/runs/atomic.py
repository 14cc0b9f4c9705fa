"""Files and folders that appear whole or not at all, whatever is killed or full. Knows nothing of runs.

A file is written beside its target, synced and renamed over it; a folder likewise, after the old one is renamed aside.
Leftovers of a killed process are called `.tmp-<target>.<token>` (unfinished) and `.old-<target>.<token>` (the folder
that was being replaced) and are dealt with by the next call for the same target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import ResourceError

_UNFINISHED = ".tmp-"
_ASIDE = ".old-"
# Two programs may write the same small file (two evaluations of a run one summary) or start the same run, so a young
# leftover can be in use; a folder that replaces another has one writer.
_ABANDONED_SECONDS = 3600
_DENIED = {errno.EACCES, errno.EPERM}
_ELSEWHERE = "with --output-dir, or with --out where a command has that"
_REASONS = {
    errno.ENOSPC: ("the disk is full", f"free some space, or choose another disk {_ELSEWHERE}"),
    errno.EDQUOT: ("the disk quota is used up", f"delete files of yours, or choose another disk {_ELSEWHERE}"),
    errno.EROFS: ("the file system is read-only", f"choose a folder that can be written {_ELSEWHERE}"),
    errno.EACCES: ("permission denied", f"choose a folder that can be written {_ELSEWHERE}"),
    errno.EPERM: ("permission denied", f"choose a folder that can be written {_ELSEWHERE}"),
    errno.EFBIG: ("files may not be that large here", "raise the limit (ulimit -f), or choose another disk"),
    errno.EIO: ("the disk reports an error", f"check the disk, or choose another {_ELSEWHERE}"),
}


def atomic_write(path: str | Path, data: str | bytes) -> None:
    """Put `data` (text as UTF-8) at `path`, making its folder. Readers see the old content or the new, never a part.

    Raises:
        ResourceError: the disk is full, read-only, over quota or closed to us; the old content is untouched.
    """
    target = Path(path)
    # a file's name that is no UTF-8 has halves of pairs, which JSON escapes in just this way
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    temporary = _sibling(target, _UNFINISHED)
    with disk_errors(target, needed_bytes=len(content)):
        _make_folder(target.parent)
        _clear_leftovers(target, older_than_seconds=_ABANDONED_SECONDS)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def append_line(path: str | Path, line: str) -> None:
    """Add a line (as UTF-8) to a file of lines, making file and folder; on the disk when this returns.

    What is there is never changed. A last line without its end, of a crash or an editor, gets one first.

    Raises:
        ResourceError: the disk is full, read-only, over quota or closed to us; the file is as before.
    """
    target = Path(path)
    data = f"{line}\n".encode(errors="backslashreplace")
    with disk_errors(target, needed_bytes=len(data)):
        _make_folder(target.parent)
        with target.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                data = b"\n" + data
            try:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
                if not end:  # a new file: its name is to last too
                    sync_folder(target.parent)
            except OSError:
                file.truncate(end)
                raise


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends without an error it becomes `path`, every file synced.

    An existing folder is replaced, or with `replace=False` kept: then FileExistsError is raised unless it is empty.
    When the block or the disk fails, `path` is as before. With `replace` a target has one writer at a time.

    Raises:
        ResourceError: the disk is full, read-only, over quota or closed to us.
        FileExistsError: `replace` is False and there is something at `path`.
    """
    target = Path(path)
    temporary = _sibling(target, _UNFINISHED)
    with disk_errors(target):
        _make_folder(target.parent)
        _clear_leftovers(target, older_than_seconds=0 if replace else _ABANDONED_SECONDS)
        temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        _move(temporary, target, replace=replace)
    except Exception as error:
        needed_bytes = _tree_bytes(temporary)
        _remove(temporary)
        explained = None if _is_elsewhere(error, target) else _explain(error, target, needed_bytes)
        if explained is None:
            raise
        raise explained from error
    finally:
        _remove(temporary)  # gone already when the move succeeded


def remove_folder(path: Path) -> None:
    """Delete a folder that others may be reading, all of it at once: it is renamed before its files go.

    Raises:
        ResourceError: the file system is read-only or closed to us.
    """
    with disk_errors(path):
        aside = _sibling(path, _UNFINISHED)
        os.rename(path, aside)
        try:
            sync_folder(path.parent)  # else a power cut could bring back the name of what is half gone
        finally:
            _remove(aside)


def recover(folder: Path) -> None:
    """Deal with what killed writers left in `folder`: half-made entries go, a folder about to be replaced comes back.

    Only for a folder that one process writes to: what another is writing would go too.
    """
    if not folder.is_dir():
        return
    with disk_errors(folder):
        for entry in list(folder.iterdir()):
            prefix = next((prefix for prefix in (_UNFINISHED, _ASIDE) if entry.name.startswith(prefix)), None)
            if prefix is not None:
                _clear_leftovers(folder / entry.name[len(prefix) :].rpartition(".")[0], older_than_seconds=0)


def require_free(folder: Path, needed_bytes: int, *, purpose: str) -> None:
    """Check that the disk of `folder`, which need not exist yet, has room for `purpose`.

    Raises:
        ResourceError: it has not; the message says how much is needed and how much there is.
    """
    free_bytes = shutil.disk_usage(_existing(folder / "any")).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"not enough disk space at {folder}: {purpose} takes {_megabytes(needed_bytes)}, "
            f"{_megabytes(free_bytes)} are free",
            fix=f"free some space, lower train.save_total_limit, or choose another disk {_ELSEWHERE}",
        )


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, where the file system can: some of a network cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(target: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn a full, read-only or closed disk into a ResourceError about `target`; other errors pass."""
    try:
        yield
    except OSError as error:
        explained = _explain(error, target, needed_bytes)
        if explained is None:
            raise
        raise explained from error


def _explain(error: Exception, target: Path, needed_bytes: int | None) -> ResourceError | None:
    number = _error_number(error)
    if number not in _REASONS:
        return None
    reason, fix = _REASONS[number]
    amounts = []
    if number in {errno.ENOSPC, errno.EDQUOT}:
        if needed_bytes is not None:
            amounts.append(f"at least {_megabytes(needed_bytes)} needed")
        with contextlib.suppress(OSError):
            amounts.append(f"{_megabytes(shutil.disk_usage(_existing(target)).free)} free")
    numbers = f" ({', '.join(amounts)})" if amounts else ""
    return ResourceError(f"cannot write {target}: {reason}{numbers}", cause=str(error), fix=fix)


def _error_number(error: Exception) -> int | None:
    """errno of an OSError, or of the I/O error that a library in Rust (safetensors, tokenizers) put into words."""
    if isinstance(error, OSError):
        return error.errno
    in_words = re.search(r"\(os error (\d+)\)", str(error))  # how std::io::Error prints itself
    return int(in_words[1]) if in_words else None


def _is_elsewhere(error: Exception, target: Path) -> bool:
    """What the block reads elsewhere may be denied to it; that is not about writing `target`."""
    if not isinstance(error, OSError) or error.errno not in _DENIED or error.filename is None:
        return False
    return not Path(str(error.filename)).absolute().is_relative_to(target.parent.absolute())


def _megabytes(count_bytes: int) -> str:
    return f"{count_bytes / 1e6:,.1f} MB"


def _existing(path: Path) -> Path:
    return next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))


def _sibling(target: Path, prefix: str) -> Path:
    return target.with_name(f"{prefix}{target.name}.{secrets.token_hex(4)}")


def _clear_leftovers(target: Path, *, older_than_seconds: float) -> None:
    """Delete what killed writers of `target` left; a folder caught between the two renames is put back."""
    for entry in list(target.parent.iterdir()):
        stem = entry.name.rpartition(".")[0]
        if stem == f"{_ASIDE}{target.name}" and not target.exists():
            os.rename(entry, target)
        elif stem in {f"{_ASIDE}{target.name}", f"{_UNFINISHED}{target.name}"}:
            with contextlib.suppress(FileNotFoundError):  # its writer is alive and was quicker
                if time.time() - entry.lstat().st_mtime >= older_than_seconds:
                    _remove(entry)


def _move(temporary: Path, target: Path, *, replace: bool) -> None:
    """Rename `temporary` to `target`. When any step fails both are as they were."""
    aside = _sibling(target, _ASIDE)
    try:
        if replace and target.exists():
            os.rename(target, aside)
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise FileExistsError(errno.EEXIST, "there is already something here", str(target)) from error
            raise
        sync_folder(target.parent)
    except BaseException:
        if not temporary.exists():
            os.rename(target, temporary)
        if aside.exists():
            os.rename(aside, target)
        raise
    _remove(aside)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing; their names are on the disk when this returns."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def _sync_tree(folder: Path) -> None:
    """Make every file durable, and readable for whom a new file is: safetensors makes its own for the owner alone."""
    rights = folder.stat().st_mode & 0o666  # of a folder just made: what the umask leaves
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            Path(parent, name).chmod(rights)
            with Path(parent, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def _tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
