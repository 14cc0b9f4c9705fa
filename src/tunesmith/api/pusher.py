"""A run, or one of its exports, to the Hugging Face Hub. Where the run directory and the Hub's client meet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import GateFailed, ResourceError, SettingsError
from tunesmith.export import CARD, MARK, Upload, check_repo, choose_files, push_files
from tunesmith.runs import Run
from tunesmith.types import Progress


@dataclass(frozen=True, slots=True)
class Push:
    """What was, or with a dry run would be, uploaded.

    folder: where from. url: None when nobody was asked. status: of the export's verification; None for the run's own
    model, which is what others are verified against.
    """

    repo: str
    folder: Path
    private: bool
    files: tuple[Upload, ...]
    status: str | None
    url: str | None = None

    @property
    def card(self) -> str:
        """The model card as it is uploaded."""
        return (self.folder / CARD).read_text(encoding="utf-8")

    def to_json(self) -> dict[str, object]:
        """What `tunesmith push --json` prints."""
        return {
            "schema_version": 1,
            "repo": self.repo,
            "url": self.url,
            "private": self.private,
            "folder": str(self.folder),
            "status": self.status,
            "files": [{"name": one.name, "bytes": one.size_bytes} for one in self.files],
            "card": self.card,
        }


def push(
    reference: str,
    repo: str,
    *,
    export: str | None = None,
    public: bool = False,
    update: bool = False,
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> Push:
    """Upload the model of a run, or one of its exports, to the Hub.

    Args:
        reference: a run's name or folder. repo: OWNER/NAME.
        export: name of an export of the run ("gguf-q8_0"), or its folder where it was written elsewhere; None for
            model/ of the run.
        public: everybody may have it. update: commit to a repository that is there. force: also an export that was not
            verified, or is not the trained model. dry_run: say what would be uploaded and ask nobody.

    Raises:
        SettingsError: no such run, export or repository name; files that must not go there; see `push_files`.
        GateFailed: the export was not verified. ResourceError: no finished model, no token, no connection.
    """
    check_repo(repo)
    run = Run.open(reference)
    folder, status = _of_run(run) if export is None else _of_export(run, export, force=force)
    files = choose_files(folder)
    planned = Push(repo, folder, not public, files, status)
    if dry_run:
        return planned
    what = "the model" if export is None else folder.name
    url = push_files(
        repo,
        files,
        private=not public,
        update=update,
        message=f"Upload {what} of {run.name} with Tunesmith",
        on_progress=on_progress,
    )
    return Push(repo, folder, not public, files, status, url)


def _of_run(run: Run) -> tuple[Path, None]:
    if run.manifest.get("status") != "finished" or not run.model_dir.is_dir():
        raise ResourceError(f"{run.name} has no finished model", fix=f"finish it with: {run.resume_command}")
    return run.model_dir, None


def _of_export(run: Run, name: str, *, force: bool) -> tuple[Path, str]:
    folder = run.exports_dir / name
    if not (folder / MARK).is_file():
        folder = Path(name)
    if not (folder / MARK).is_file():
        there = sorted(mark.parent.name for mark in run.exports_dir.glob(f"*/{MARK}"))
        raise SettingsError(
            f"{run.name} has no export {name!r}, and there is no folder of that name that holds one",
            cause=f"it has: {', '.join(there)}" if there else "it has none yet",
            fix=f"tunesmith export {run.name} --to ...",
        )
    try:
        verdict = json.loads((folder / MARK).read_text(encoding="utf-8"))
        status = str(verdict["status"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{folder / MARK} cannot be read", cause=str(error), fix="export it again") from error
    if status != "verified" and not force:
        faults = [f"{one['name']}: {one['detail']}" for one in verdict.get("checks", []) if not one["passed"]]
        raise GateFailed(
            f"{folder.name} is {status}, so it is not uploaded",
            cause="; ".join(faults) or verdict.get("reason"),
            fix="export it again where it can be tried, or add --force",
        )
    return folder, status
