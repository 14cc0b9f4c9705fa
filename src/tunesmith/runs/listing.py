"""What `tunesmith runs` shows: one summary a run. Reads, and never fails because one run is damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import TunesmithError
from tunesmith.runs.metrics import MetricsLog, best_validation
from tunesmith.runs.store import RUNS_FOLDER, Run, run_folders


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run at a glance. `status` is the run's, or "damaged", and then `problem` says why."""

    name: str
    path: Path
    status: str
    created: str | None = None
    model: str | None = None
    method: str | None = None
    best_validation_loss: float | None = None
    steps: int = 0
    problem: str | None = None


def list_runs(folder: str | Path = RUNS_FOLDER) -> list[RunSummary]:
    """A summary of every run in `folder`, newest first, damaged ones last. An absent folder has no runs."""
    summaries = [_summarize(path) for path in run_folders(Path(folder))]
    return sorted(summaries, key=lambda summary: summary.created or "", reverse=True)


def _summarize(path: Path) -> RunSummary:
    try:
        run = Run.open(path.absolute())  # absolute: a bare name would be looked for under runs/ too
        manifest, settings = run.manifest, run.settings
        log = MetricsLog(run.metrics_path)
        best = best_validation(log.read("eval"))
        return RunSummary(
            name=run.name,
            path=path,
            status=run.status,
            created=str(manifest["created"]),
            model=_text(settings, "model", "path"),
            method=_text(settings, "method", "name"),
            best_validation_loss=best["validation_loss"] if best else None,
            steps=log.last_step(),
        )
    except (TunesmithError, OSError) as error:
        return RunSummary(name=path.name, path=path, status="damaged", problem=str(error).splitlines()[0])


def _text(settings: dict[str, object], section: str, name: str) -> str | None:
    values = settings.get(section)
    return str(values[name]) if isinstance(values, dict) and name in values else None
