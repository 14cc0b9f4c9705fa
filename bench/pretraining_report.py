"""bench/pretraining.json -> the table of docs/pretraining.md: `python -m bench.pretraining_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.pages import Report, read_results, table

Run = Mapping[str, Any]


def tables(content: Mapping[str, Any]) -> str:
    """All that stands between the markers: a line for each rate, a column for each text and number of rows a step."""
    runs: Sequence[Run] = content["runs"]
    cells = {(run["rate"], run["text"], run["rows"]): run for run in runs}
    columns = list(dict.fromkeys((run["text"], run["rows"]) for run in runs))
    heads, firsts = [], []
    for text, rows in columns:
        first = next(run for run in runs if (run["text"], run["rows"]) == (text, rows))
        heads.append(f"{text}, {first['steps']} steps of {rows} blocks")
        firsts.append(f"{first['before']:.3f}")
    lines = [["before", *firsts]]
    for rate in sorted({run["rate"] for run in runs}):
        lines.append([f"{rate:g}", *(_cell(cells.get((rate, *column))) for column in columns)])
    return "\n".join(
        [
            f"Measured {content['date']} with `{content['command']}`, torch {content['versions']['torch']}: bits per "
            "byte of held-out documents after one pass.",
            "",
            *table(["rate", *heads], lines),
        ]
    )


def _cell(run: Run | None) -> str:
    return "" if run is None else f"{run['after']:.3f}"


REPORT = Report("pretraining", "python -m bench.pretraining --data FOLDER", tables)

if __name__ == "__main__":
    REPORT.write(read_results(REPORT.path))
