"""`tunesmith runs`: what is under runs/."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from tunesmith.cli.overrides import Json

_STYLES = {
    **{"finished": "green", "running": "cyan", "stopped": "yellow", "interrupted": "yellow"},
    **{"failed": "red", "damaged": "red"},
}


def runs(*, json: Json = False) -> None:
    """List the runs under runs/, newest first.

    tunesmith runs
    tunesmith runs --json
    """
    from rich.text import Text

    from tunesmith.cli.terminal import plain, show, show_json, table, tell
    from tunesmith.runs import list_runs

    found = list_runs()
    if json:
        show_json({"schema_version": 1, "runs": [asdict(run) for run in found]})
        return
    if not found:
        tell("there are no runs here yet; start one: tunesmith train FILE, or tunesmith quickstart")
        return
    columns = ("run", "status", "model", "method", "steps", "val. loss", "created")
    made = table(*columns, right=("steps", "val. loss"), fold=("run", "model"))
    for run in found:
        loss = f"{run.best_validation_loss:.4f}" if run.best_validation_loss is not None else "-"
        made.add_row(
            Text(plain(run.name), style="bold"),
            Text(run.status, style=_STYLES.get(run.status, "")),
            Text(plain(run.model or "-")),
            run.method or "-",
            str(run.steps),
            loss,
            _local_time(run.created),
        )
    show(made)
    for run in found:
        if run.problem:
            tell(f"{run.name}: {run.problem}")


def _local_time(created: str | None) -> str:
    if created is None:
        return "-"
    try:
        return datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created
