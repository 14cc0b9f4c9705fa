"""What each method of tuning learns and costs: the built-in model, one open file, the method's own default rate.

Usage: python -m bench.methods --data FOLDER [--seeds 1 2 3] [--methods lora ia3 ...] [--threads N]; see docs/methods.md

Every run is a process of its own, so that its peak memory is that of this method alone. A seed chooses the rows, the
split, their order and the first values of what trains. A finished run is a line in build/bench/methods.jsonl: started
again, the program goes on where it was stopped. qlora needs bitsandbytes and is left out without it.
Writes bench/methods.json, docs/methods.png and the table of docs/methods.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.ledger import PACKAGE, WORK, Found, Ledger, code_digest
from bench.methods_report import REPORT
from bench.tuning import COMMON, TASKS, measured_once
from tunesmith.config import METHODS

TASK = "home orders"
SETTINGS: Mapping[str, Any] = {
    "train.max_steps": 100,
    "train.batch_size": 4,
    "train.gradient_accumulation_steps": 1,
    # once, at the end, and in passes no larger than those of training: the peak of the memory is that of a step
    "train.eval_steps": 100,
    "train.tokens_per_batch": 128,
}


def jobs(methods: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Seeds first, so that what is stopped has measured all methods equally often."""
    for seed in seeds:
        for name in methods:
            yield {"task": TASK, "seed": seed, "answers": True, "settings": {**COMMON, **SETTINGS, "method.name": name}}


def measured(job: dict[str, Any], data: Path, ledger: Ledger, threads: int) -> dict[str, Any]:
    """The line of the results for a job, measured now or before.

    Raises:
        SystemExit: the run failed.
    """

    def told(found: Found) -> str:
        loss, step = found["validation"][-1][1], found["step_cpu_seconds"]
        return f"loss {loss:.3f}, {step:.3f} s a step, {found['peak_bytes'] / 2**20:.0f} MiB"

    name, seed = job["settings"]["method.name"], job["seed"]
    found = measured_once(job, f"{name}, seed {seed}", data, ledger, threads=threads, told=told)
    return {"method": name, "seed": seed} | found


def main(arguments: Sequence[str]) -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the open files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--threads", type=int, default=1, help="threads of a run (1)")
    options = parser.parse_args(arguments)
    methods = [name for name in options.methods if find_spec("bitsandbytes") or not METHODS[name].is_quantized]
    for name in sorted({*options.methods} - {*methods}):
        print(f"{name} is left out: bitsandbytes is not installed", file=sys.stderr)
    ledger = Ledger(
        WORK / "methods.jsonl", code_digest(*PACKAGE, "bench/methods.py", "bench/tuning.py", "bench/watch.py")
    )
    data = options.data.absolute()
    runs = [measured(job, data, ledger, options.threads) for job in jobs(methods, options.seeds)]
    content = {
        "format": 1,
        "command": " ".join(["python -m bench.methods --data FOLDER --seeds", *map(str, options.seeds)]),
        "date": time.strftime("%Y-%m-%d"),
        "threads": options.threads,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "task": {"name": TASK, "file": TASKS[TASK][0]},
        "settings": {**COMMON, **TASKS[TASK][1], **SETTINGS},
        "runs": runs,
    }
    REPORT.publish(content)


if __name__ == "__main__":
    main(sys.argv[1:])
