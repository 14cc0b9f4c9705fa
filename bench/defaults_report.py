"""bench/defaults.json -> the tables of docs/defaults.md: `python -m bench.defaults_report`.

A change is of one setting against the defaults, on the same rows: a pair for each file and seed. Its interval is that
of `evaluate.paired`, with such pairs in the place of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from bench.pages import Report, read_results, table
from tunesmith.evaluate import difference, mean_of

DEFAULTS = "defaults"
# what a file is scored by: the first of these that it has
SCORES = {"accuracy": "accuracy", "token_f1": "token F1"}

Run = Mapping[str, Any]


def score_of(run: Run) -> tuple[str, float]:
    """Which score, and out of 100."""
    name = next(name for name in SCORES if name in run["scores"])
    return SCORES[name], 100 * float(run["scores"][name])


def best(run: Run) -> tuple[float, float]:
    """The pass whose weights are kept, and its validation loss."""
    step, loss = min(run["validation"], key=lambda point: point[1])
    return run["passes"] * step / run["steps"], loss


def tables(content: Mapping[str, Any]) -> str:
    """All that stands between the markers."""
    runs: Sequence[Run] = content["runs"]
    seeds = {run["seed"] for run in runs}
    lines = [
        f"Measured {content['date']} with `{content['command']}`, {content['threads']} thread, torch "
        f"{content['versions']['torch']}: {len(seeds)} seeds (mean, lowest to highest). Scores out of 100; losses in "
        "nats per token, those of the pass that is kept; seconds of the processor, training alone.",
        "",
        "Score, changed against the defaults on the same rows, over all files and seeds:",
        "",
        *_changes(runs),
    ]
    for task, file in content["files"].items():
        lines += ["", *_of_file(task, file, [run for run in runs if run["task"] == task])]
    return "\n".join(lines)


def _changes(runs: Sequence[Run]) -> list[str]:
    scores = {(run["name"], run["task"], run["seed"]): score_of(run)[1] for run in runs}
    lines = []
    for name in dict.fromkeys(run["name"] for run in runs if run["name"] != DEFAULTS):
        pairs = [(scores[DEFAULTS, task, seed], score) for (of, task, seed), score in scores.items() if of == name]
        before, after = np.array(pairs).T
        found = difference(mean_of(before), mean_of(after))
        lines.append([name, str(len(pairs)), f"{found.change:+.1f}", f"{found.low:+.1f} to {found.high:+.1f}"])
    return table(["setting", "pairs", "change", "95 % interval"], lines)


def _of_file(task: str, file: str, runs: Sequence[Run]) -> list[str]:
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run["name"], []).append(run)
    rows = runs[0]["rows"]
    lines = [
        [
            name,
            f"{mean(run['passes'] for run in same):.1f} ({mean(best(run)[0] for run in same):.1f})",
            f"{mean(run['tokens'] for run in same) / 1000:.0f}",
            f"{mean(run['cpu_seconds'] for run in same):.0f}",
            _range([best(run)[1] for run in same], 2),
            _range([score_of(run)[1] for run in same], 1),
        ]
        for name, same in by_name.items()
    ]
    columns = ["setting", "passes (kept)", "thousand tokens", "s", "validation loss", score_of(runs[0])[0]]
    return [f"**{task}** (`{file}`): {rows['train']} rows, {rows['test']} asked", "", *table(columns, lines)]


def _range(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


REPORT = Report("defaults", "python -m bench.defaults --data FOLDER", tables)

if __name__ == "__main__":
    REPORT.write(read_results(REPORT.path))
