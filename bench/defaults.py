"""Are the defaults of a small model good ones? Each is changed alone, on five files, and the answers are scored.

Usage: python -m bench.defaults --data FOLDER [--seeds 1 2 3] [--tasks ...] [--settings ...] [--threads N]

Whatever a line of the table does not name is what `tunesmith train FILE` chooses. A seed chooses the rows, the split,
their order and dropout, the same for all settings. Every run is a process of its own; a finished one is a line in
build/bench/defaults.jsonl: started again, the program goes on where it was stopped. Seeds come first, so that what is
stopped has measured all settings equally often. Writes bench/defaults.json and the tables of docs/defaults.md.

--base FOLDER measures another model of the size of the built-in one on the same rows, and prints instead.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.defaults_report import REPORT, tables
from bench.ledger import PACKAGE, WORK, Found, Ledger, code_digest
from bench.tuning import TASKS, measured_once

COMPARED = ("sample FAQ", "azure support", "banking77, 600 rows", "sms spam, 400 rows", "mental health FAQ")
# name -> what is not at its default
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "rate 1e-3": {"train.learning_rate": 1e-3},
    "rate 5e-4": {"train.learning_rate": 5e-4},
    "rate 4e-3": {"train.learning_rate": 4e-3},
    "lora": {"method.name": "lora"},
    "9 passes": {"train.epochs": 9},
    "36 passes": {"train.epochs": 36},
    "decay 0.01": {"train.weight_decay": 0.01},
}
_KEPT = ("validation", "scores", "rows", "steps", "tokens", "passes", "cpu_seconds")


def jobs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What `bench.tuning` is to measure, with the name of its settings."""
    base = {} if options.base is None else {"model.path": str(options.base.absolute())}
    for seed in options.seeds:
        for task in options.tasks:
            for name in options.settings:
                settings = {**SETTINGS[name], **base}
                yield {"task": task, "name": name, "seed": seed, "answers": True, "settings": settings}


def measured(job: dict[str, Any], data: Path, ledger: Ledger, threads: int) -> dict[str, Any]:
    """The line of the results for a job, measured now or before.

    Raises:
        SystemExit: the run failed.
    """

    def told(found: Found) -> str:
        return f"{found['scores']} in {found['cpu_seconds']:.0f} s"

    what = f"{job['task']}, {job['name']}, seed {job['seed']}"
    found = measured_once(job, what, data, ledger, threads=threads, told=told)
    return {key: job[key] for key in ("task", "name", "seed")} | {key: found[key] for key in _KEPT}


def main(arguments: Sequence[str]) -> None:
    """Measure; write, or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the open files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tasks", nargs="+", default=list(COMPARED), choices=COMPARED)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--base", type=Path, help="a folder of weights in place of the built-in model")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run (1)")
    options = parser.parse_args(arguments)
    ledger = Ledger(
        WORK / "defaults.jsonl",
        code_digest(*PACKAGE, "bench/tuning.py", "bench/watch.py", "src/tunesmith/**/*.safetensors"),
    )
    runs = [measured(job, options.data.absolute(), ledger, options.threads) for job in jobs(options)]
    words = ["FOLDER" if word == str(options.data) else word for word in arguments]
    content = {
        "format": 1,
        "command": f"python -m bench.defaults {shlex.join(words)}",
        "date": time.strftime("%Y-%m-%d"),
        "threads": options.threads,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        "settings": SETTINGS,
        "files": {task: TASKS[task][0] for task in options.tasks},
        "runs": runs,
    }
    if options.base is None:
        REPORT.publish(content)
    else:
        print(tables(content))


if __name__ == "__main__":
    main(sys.argv[1:])
