"""eval/report.html of a run: what was measured, beside how it was trained and what was done to its data.

Knows what stands on the page, not how it looks and not how anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.api.leaks import LeakReport
from tunesmith.evaluate import Contest, PageTable, report_html
from tunesmith.runs import Run

if TYPE_CHECKING:
    from tunesmith.evaluate import SuiteComparison

_LEAKS_SHOWN = 20
_PLACES_SHOWN = 6
_SUITE_SCORES = {"choices": "right choice", "written": "right in words", "bits_per_byte": "bits per byte"}


def run_page(
    run: Run,
    contest: Contest,
    *,
    leakage: LeakReport,
    suites: Sequence[SuiteComparison],
    data: str | None,
    asked: Mapping[str, Any] | None,
    pictures: Sequence[tuple[str, Path]],
    scores: str,
) -> str:
    """The page as HTML.

    Args:
        contest: base and tuned. data: the file of the user that was asked, and `asked`, the report of reading it; None
            for the run's own test rows.
        pictures: titles and files, besides the training curves. scores: why these were measured.
    """
    manifest = run.manifest
    training = manifest["training"]
    rows = "its own test rows, which no training step has seen" if data is None else Path(data).name
    curves = ("How the training went", run.visuals_dir / "training_curves.png")
    shown = [(title, path.read_bytes()) for title, path in (*pictures, curves) if path.exists()]
    return report_html(
        contest,
        title=f"{run.name}: tuned against base" + (f", on {Path(data).name}" if data else ""),
        facts=[
            ("base", manifest["model"]["path"]),
            ("asked", rows),
            ("scores", scores),
            ("method", manifest["method"]),
            ("training", f"{training['step']} steps, {training['seconds']:,.0f} s"),
        ],
        tables=[
            *map(_suite_table, suites),
            *_leak_tables(leakage),
            *(_data_tables(asked, "What was asked", "What was noticed in it") if asked else ()),
            *_data_tables(manifest["data"], "What it was trained on", "What was noticed in the training data"),
        ],
        pictures=shown,
    )


def _suite_table(suite: SuiteComparison) -> PageTable:
    rows = []
    for name, found in suite.changes.items():
        scale, digits = (1, 3) if name == "bits_per_byte" else (100, 1)
        numbers = [f"{value * scale:.{digits}f}" for value in (found.before, found.after)]
        interval = " to ".join(f"{end * scale:+.{digits}f}" for end in (found.low, found.high))
        rows.append([_SUITE_SCORES[name], *numbers, interval, found.verdict])
    for kind, shares in suite.kinds.items():
        rows += [
            [f"{kind}, {_SUITE_SCORES[name]}", f"{before * 100:.1f}", f"{after * 100:.1f}", "", ""]
            for name, (before, after) in shares.items()
        ]
    note = f"{len(suite.base.rows)} questions besides its own task; of bits per byte less is better"
    columns = ["score", "base", "tuned", "95 % interval of the change", "verdict"]
    return PageTable(f"Did it forget: {suite.name}", columns, rows, note=note, is_numeric=True)


def _leak_tables(report: LeakReport) -> Iterator[PageTable]:
    if report.unchecked:
        yield PageTable("Did it leak", ["not checked"], [[report.unchecked]])
    if not report.leaks:
        return
    rows = [
        [
            f"{Path(leak.file).name} row {leak.row}",
            f"{Path(leak.seen_file).name} {leak.side} row {leak.seen_row}",
            leak.kind,
            f"{leak.similarity:.0%}",
        ]
        for leak in report.leaks[:_LEAKS_SHOWN]
    ]
    more = f"; {_LEAKS_SHOWN} are shown, summary.json has all" if len(report.leaks) > _LEAKS_SHOWN else ""
    rows_are = "1 row is" if len(report.leaks) == 1 else f"{len(report.leaks)} rows are"
    note = f"{rows_are} also in the training data, the same or nearly{more}"
    yield PageTable("Did it leak", ["row", "is also", "how", "alike"], rows, note=note)


def _data_tables(report: Mapping[str, Any], read: str, noticed: str) -> Iterator[PageTable]:
    """What was read, and what was left out and noticed in it, of a data report as JSON. read, noticed: headings."""
    reports = report.get("tasks") or {"": report}
    files = [
        [
            Path(file["path"]).name,
            file["side"],
            ", ".join(file["sheets"]),
            str(file["rows_read"]),
            str(file["rows_kept"]),
        ]
        for one in reports.values()
        for file in one["files"]
    ]
    split = ", ".join(f"{rows} {side}" for side, rows in report["split"].items() if rows)
    yield PageTable(read, ["file", "for", "sheets", "rows read", "rows kept"], files, note=split)
    facts = []
    for task, one in reports.items():
        head = f"{task}: " if task else ""
        facts.append([f"{head}shape", f"{one['shape']}: {one['reason']}"])
        facts += [[f"{head}{len(at)} left out", f"{why} ({_places(at)})"] for why, at in one["dropped"].items()]
        for part, of in one["lengths"].items():
            shown = f"median {of['median']:g}, 95 % up to {of['p95']}, longest {of['longest']} (row {of['row']})"
            facts.append([f"{head}{part}, characters", shown])
        facts += [[f"{head}{found['level']}", _said(found)] for found in one["findings"]]
    if report.get("labels"):
        facts.append(["training rows", ", ".join(f"{label}: {rows}" for label, rows in report["labels"].items())])
    yield PageTable(noticed, ["what", "found"], facts)


def _said(found: Mapping[str, Any]) -> str:
    """A finding as `data inspect` prints it: what, in which rows, and what to change."""
    rows = f" ({_places(found['rows'])})" if found["rows"] else ""
    return f"{found['message']}{rows}" + (f"; {found['fix']}" if found.get("fix") else "")


def _places(rows: Sequence[object]) -> str:
    more = f" and {len(rows) - _PLACES_SHOWN} more" if len(rows) > _PLACES_SHOWN else ""
    return f"row{'' if len(rows) == 1 else 's'} {', '.join(map(str, rows[:_PLACES_SHOWN]))}{more}"
