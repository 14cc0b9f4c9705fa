"""The run directory: how one is made, found and read. Knows neither settings (their text is handed in) nor training.

runs/<name>/ config.yaml  manifest.json  metrics.jsonl  model/  checkpoints/  training_visuals/  eval/  exports/
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from tunesmith.errors import SettingsError, did_you_mean
from tunesmith.runs.atomic import atomic_folder, atomic_write, disk_errors
from tunesmith.runs.kept import without_nonfinite

# There has been one format so far, so anything else is newer. A second one brings its migration to `_check_format`.
FORMAT_VERSION = 1
STATUSES = ("created", "running", "finished", "stopped", "failed")
RUNS_FOLDER = Path("runs")
NEWEST = "last"
_LONGEST_NAME_BYTES = 200  # file systems take 255, of which a number and what an unfinished folder is called need some
_CONFIG = "config.yaml"
_MANIFEST = "manifest.json"
_LOCK = ".lock"
_LOOKS, _LOOK_SECONDS = 5, 0.02  # how often, and how far apart, a lock is tried that another may only have looked at


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory. Holds only its path; everything is read from disk when asked for."""

    path: Path

    @staticmethod
    def create(path: str | Path, *, config_text: str, manifest: Mapping[str, object]) -> Run:
        """Make the directory with its config.yaml and manifest.json: both, or nothing.

        Args:
            config_text: the resolved settings as YAML.
            manifest: what else to record (package versions, data SHA-256, row counts, ...); the format version, the
                time and the status `created` are added.

        Raises:
            SettingsError: there is a run, or something else, at `path`.
            ResourceError: the disk is full, read-only, over quota or closed to us.
        """
        folder = Path(path)
        _refuse_occupied(folder)
        head = {"format_version": FORMAT_VERSION, "created": _now(), "status": "created"}
        files = {_CONFIG: config_text, _MANIFEST: _to_json({**head, **manifest, "format_version": FORMAT_VERSION})}
        if folder.is_dir():  # given empty, perhaps a mounted volume: it cannot be renamed over, so it is filled
            try:
                for name, text in files.items():
                    atomic_write(folder / name, text)
            except BaseException:
                for name in files:
                    (folder / name).unlink(missing_ok=True)
                raise
            return Run(folder)
        try:
            with atomic_folder(folder, replace=False) as temporary:
                for name, text in files.items():
                    (temporary / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except FileExistsError:  # another process was quicker
            _refuse_occupied(folder)
            raise
        return Run(folder)

    @staticmethod
    def open(reference: str | Path) -> Run:
        """The run at a path, of a name under runs/, or with "last" the newest one under runs/.

        Raises:
            SettingsError: there is no such run, the folder is not a run, or a newer tunesmith made it.
        """
        folder = _newest() if str(reference) == NEWEST else _find(reference)
        run = Run(folder)
        missing = [name for name in (_MANIFEST, _CONFIG) if not (folder / name).is_file()]
        if missing:
            around = next((parent for parent in folder.absolute().parents if (parent / _MANIFEST).is_file()), None)
            raise SettingsError(
                f"{folder} is not a run: it has no {' and no '.join(missing)}",
                fix=f"give the run itself: {around}" if around else _known_runs(),
            )
        _ = run.manifest  # told now rather than in the middle of the work
        return run

    @contextmanager
    def claimed(self, *, doing: str = "trained", instead: str = "start another run with --name") -> Iterator[None]:
        """Nobody else trains or exports this run inside. The lock goes with the process, whatever ends it.

        Args:
            doing, instead: what is done to it, and could be done in place of that, for the message.

        Raises:
            SettingsError: another process has it now.
            ResourceError: nothing can be written there.
        """
        path = self.path / _LOCK
        with disk_errors(path):
            lock = path.open("a")
        with lock as file:
            try:
                _lock(file)
                if not _is_at(path, file.fileno()):
                    raise BlockingIOError("who had it deleted it meanwhile, and another may have a new one")
            except BlockingIOError as error:
                raise SettingsError(
                    f"{self.path} is being {doing} by another process",
                    fix=f"wait for it or stop it; or {instead}",
                ) from error
            except OSError:
                pass  # a file system without locks: nothing can be told
            try:
                yield
            finally:
                with suppress(OSError):  # left over where the disk has failed, it locks nobody out
                    path.unlink(missing_ok=True)

    @property
    def is_claimed(self) -> bool:
        """Whether a process trains or exports it now; also where the file system cannot tell."""
        try:
            with (self.path / _LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @property
    def status(self) -> str:
        """The manifest's; a run whose process was killed, or lost its power, is `interrupted` and no longer running."""
        status = str(self.manifest["status"])
        return "interrupted" if status == "running" and not self.is_claimed else status

    @staticmethod
    def free_name(stem: str) -> str:
        """`stem` made fit for a folder's name, with the first number (-2, -3, ...) that is free under runs/."""
        plain = re.sub(r"\.{2,}", ".", re.sub(r"[^\w.-]+", "-", stem))
        plain = plain.encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore").strip(".-") or "run"
        name, number = plain, 1
        while name == NEWEST or (RUNS_FOLDER / name).exists():
            number += 1
            name = f"{plain}-{number}"
        return name

    @property
    def name(self) -> str:
        return self.path.absolute().name

    @property
    def verb(self) -> str:
        """The command that makes such runs: `tunesmith` and this."""
        return "pretrain" if self.manifest.get("kind") == "pretrain" else "train"

    @property
    def resume_command(self) -> str:
        """What goes on with it where it stopped."""
        return shlex.join(["tunesmith", self.verb, "--resume", str(self.path)])

    @property
    def config_path(self) -> Path:
        return self.path / _CONFIG

    @property
    def settings(self) -> dict[str, Any]:
        """config.yaml as nested dictionaries, unchecked, without the origins.

        Raises:
            SettingsError: the file is missing or is not YAML.
        """
        try:
            content = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: no UTF-8, a 13th month
            raise SettingsError(
                f"cannot read the settings of the run: {self.config_path}",
                cause=str(error),
                fix="restore the file, or train again",
            ) from error
        if not isinstance(content, dict):
            raise SettingsError(f"{self.config_path} holds no settings", fix="restore the file, or train again")
        return {str(name): value for name, value in content.items() if name != "origins"}

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json.

        Raises:
            SettingsError: the file is missing or damaged, or a newer tunesmith wrote it.
        """
        path = self.path / _MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"cannot read the manifest of the run: {path}", cause=str(error), fix="restore the file, or train again"
            ) from error
        return _check_format(content, path)

    def update_manifest(self, **fields: object) -> None:
        """Set fields of the manifest, atomically. `status` is one of created, running, finished, stopped, failed.

        Whoever does has `claimed` the run: of two at once, one would write over what the other has set.
        """
        if fields.get("status", STATUSES[0]) not in STATUSES:
            raise ValueError(f"status is {fields['status']!r}, not one of {', '.join(STATUSES)}")
        atomic_write(self.path / _MANIFEST, _to_json({**self.manifest, **fields}))

    def update_config(self, text: str) -> None:
        """Replace config.yaml, atomically: a run that is resumed with other settings goes on with them."""
        atomic_write(self.config_path, text)

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model_dir(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def visuals_dir(self) -> Path:
        return self.path / "training_visuals"

    @property
    def eval_dir(self) -> Path:
        return self.path / "eval"

    @property
    def exports_dir(self) -> Path:
        return self.path / "exports"


def _lock(file: IO[str]) -> None:
    """Raises BlockingIOError: another process keeps it. One that asks whether a run is claimed has it for a moment."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOOK_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_writer() -> bool:
    """Whether this process writes: of those that torchrun started to train together, the first alone."""
    return "MASTER_ADDR" not in os.environ or os.environ.get("RANK", "0") == "0"


def run_folders(folder: Path) -> list[Path]:
    """Folders under `folder` that hold any file of a run, by name. Unfinished and hidden ones are left out."""
    if not folder.is_dir():
        return []
    marks = (_MANIFEST, _CONFIG, "metrics.jsonl", "model")
    found = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(entry for entry in found if any((entry / mark).exists() for mark in marks))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _to_json(content: Mapping[str, object]) -> str:
    return json.dumps(without_nonfinite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _check_format(content: object, path: Path) -> dict[str, Any]:
    fields = content if isinstance(content, dict) else {}
    missing = [name for name in ("format_version", "created", "status") if name not in fields]
    if missing:
        raise SettingsError(f"{path} is damaged: it has no {', no '.join(missing)}", fix="restore it, or train again")
    version = fields["format_version"]
    if version != FORMAT_VERSION:
        raise SettingsError(
            f"{path.parent} was made by a newer tunesmith: its format is {version}, this one reads {FORMAT_VERSION}",
            fix="pip install --upgrade tunesmith",
        )
    return fields


def _refuse_occupied(folder: Path) -> None:
    if folder.is_dir():
        if (folder / _MANIFEST).exists():
            raise SettingsError(
                f"there is already a run at {folder}",
                fix=f"take another --name or --output-dir; to go on with that one: --resume {folder}",
            )
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if names:
            raise SettingsError(
                f"the folder {folder} is not empty and not a run: it holds {', '.join(names[:3])}"
                + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
                fix="choose another place with --name or --output-dir",
            )
    elif folder.exists():
        raise SettingsError(f"{folder} is a file, not a folder", fix="choose another place with --name or --output-dir")


def _find(reference: str | Path) -> Path:
    """The first place that is a run, else the first that is a folder: as a path, then as a name under runs/."""
    places = [Path(reference), RUNS_FOLDER / reference]
    runs = [place for place in places if (place / _MANIFEST).is_file()]
    folders = [place for place in places if place.is_dir()]
    if runs or folders:
        return (runs or folders)[0]
    if Path(reference).exists():
        raise SettingsError(f"{reference} is a file, not a run", fix=_known_runs())
    names = [folder.name for folder in run_folders(RUNS_FOLDER)]
    nearest = did_you_mean(Path(reference).name, names)
    raise SettingsError(f"there is no run {str(reference)!r}{nearest}", fix=_known_runs())


def _newest() -> Path:
    created: dict[Path, str] = {}
    for folder in run_folders(RUNS_FOLDER):
        try:
            created[folder] = str(Run(folder).manifest["created"])
        except SettingsError:
            continue  # a damaged run cannot be the one that was meant; `tunesmith runs` shows it
    if not created:
        raise SettingsError(f"there is no run under {RUNS_FOLDER.absolute()} yet", fix="tunesmith train <file>")
    return max(created, key=lambda folder: created[folder])


def _known_runs() -> str:
    names = [folder.name for folder in run_folders(RUNS_FOLDER)]
    if not names:
        return f"there are no runs under {RUNS_FOLDER.absolute()} yet; start one with tunesmith train <file>"
    more = f" and {len(names) - 10} more (tunesmith runs)" if len(names) > 10 else ""
    return f"runs under {RUNS_FOLDER}/: {', '.join(names[:10])}{more}; or give a path"
