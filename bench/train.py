"""Tunesmith and other trainers side by side: `make bench`, or `python -m bench.train --help`. See bench/README.md.

Every measurement is a process of its own. Rounds go around all contenders, each round starting with another one, so
that noise of the machine meets all alike. A finished measurement is a line in a file: stopped and started again with
the same options and the same code, the program goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.job import CONTENDERS, QUICK_SIZE, SIZES, Job
from bench.ledger import PACKAGE, WORK, Ledger, code_digest, measured_apart
from bench.report import RESULTS, read_results, tables, write_pages
from bench.summary import Measurement, summarize, with_agreement, with_earlier_agreement

# What a measurement depends on; the files that only describe it are left out.
MEASURED_CODE = (*PACKAGE, "bench/job.py", "bench/o*.py", "bench/peers.py", "bench/w*.py")
AGREEMENT_ROWS_PER_STEP = 4
GROWTH_CONTENDERS = ("ours", "trl-best")
GROWTH_ROW_TOKENS = (64, 192, 448)


def main(arguments: Sequence[str]) -> int:
    """Measure, write, print. 0 done, 1 a contender failed or its losses are not ours, 4 nothing could be measured."""
    options = parse(arguments)
    results: Path = options.results
    measurements = measure(options)
    command, date = " ".join(["python -m bench.train", *arguments]), time.strftime("%Y-%m-%d")
    if options.agreement_only:
        earlier = json.loads(results.read_text(encoding="utf-8"))
        summary = with_agreement(earlier, measurements, command=command, date=date)
    else:
        summary = summarize(measurements, warmup=options.warmup, command=command, date=date)
        if not options.agreement_steps and results.is_file():
            summary = with_earlier_agreement(summary, json.loads(results.read_text(encoding="utf-8")))
    if not summary["sizes"]:
        print("nothing to write: no size could be measured here", file=sys.stderr)
        return 4
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(tables(summary))
    if results.resolve().parent == RESULTS.parent:
        write_pages(read_results())
    sizes = summary["sizes"].values()
    agreed = all(one["agrees"] for size in sizes for one in size["agreement"].get("deviations", {}).values())
    return 0 if agreed and not any(size["failed"] for size in sizes) else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; --quick changes the defaults of the others."""
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute on a tiny model: does everything run?")
    parser.add_argument("--sizes", type=_names(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--contenders", type=_names(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run, warm-up included (10)")
    parser.add_argument("--warmup", type=int, help="steps at its start that are not timed (3)")
    parser.add_argument("--rounds", type=int, help="rounds around all contenders (3)")
    parser.add_argument(
        "--agreement-steps", type=int, help="steps of the float32 comparison of losses; 0: what was found before (30)"
    )
    parser.add_argument(
        "--agreement-only", action="store_true", help="measure that alone, and put it into the results that are there"
    )
    parser.add_argument(
        "--no-growth", dest="growth", action="store_false", help="skip cost by number and length of rows"
    )
    parser.add_argument("--results", type=Path, help="where to write (bench/results.json; --quick: build/bench/)")
    options = parser.parse_args(arguments)
    full = {
        "sizes": [name for name in SIZES if name != QUICK_SIZE],
        "contenders": list(CONTENDERS),
        **{"steps": 10, "warmup": 3, "rounds": 3, "agreement_steps": 30, "results": RESULTS},
    }
    quick = {
        "sizes": [QUICK_SIZE],
        "contenders": ["ours", "script", "trl-best"],
        **{"steps": 3, "warmup": 1, "rounds": 1, "agreement_steps": 3, "results": WORK / "quick.json"},
    }
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not 0 <= options.warmup < options.steps or options.rounds < 1:
        parser.error("--warmup must be below --steps, and --rounds at least 1")
    if options.agreement_only and not options.results.is_file():
        parser.error(f"--agreement-only needs results to put it into: there is no {options.results}")
    return options


def measure(options: argparse.Namespace) -> list[Measurement]:
    """Every measurement of the options, from the log where it is finished there."""
    ledger = Ledger(WORK / "measurements.jsonl", code_digest(*MEASURED_CODE))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        machine = Job("machine")
        found = ledger.find(asdict(machine)) or run(machine, Path(folder), ledger)
        if "error" in found:
            raise SystemExit(f"the machine cannot be measured: {found['error']}")
        measurements: list[Measurement] = [(machine, found)]
        jobs = list(plan(options, found))
        for number, job in enumerate(jobs, start=1):
            known = (
                ledger.find(asdict(job)) if job.kind != "model" else None
            )  # its folder is gone with the last process
            found = known or run(job, Path(folder), ledger)
            print(f"{number}/{len(jobs)}  {_line(job, found, options.warmup)}", file=sys.stderr, flush=True)
            measurements.append((job, found))
    return measurements


def plan(options: argparse.Namespace, machine: Mapping[str, Any]) -> Iterator[Job]:
    """The measurements in their order. What this machine or this environment cannot do is left out, with a line."""
    names = [name for name in options.contenders if CONTENDERS[name].trainer != "trl" or "trl" in machine["versions"]]
    if len(names) < len(options.contenders):
        print("trl is not installed here: its contenders are left out (make bench installs it)", file=sys.stderr)
    sizes = [name for name in options.sizes if SIZES[name].device == "cpu" or machine["gpu"]]
    if len(sizes) < len(options.sizes):
        print(f"no CUDA here: left out {', '.join(sorted({*options.sizes} - {*sizes}))}", file=sys.stderr)
    for size in sizes:
        yield Job("model", size)
    for number in range(0 if options.agreement_only else options.rounds):
        if number:
            yield Job("machine", round=number)
        for size in sizes:
            step = SIZES[size].rows_per_step
            shift = number % max(1, len(names))
            for name in names[shift:] + names[:shift]:
                yield Job("speed", size, name, number, rows=options.steps * step, rows_per_step=step)
    for size in sizes if options.agreement_steps else ():
        step = AGREEMENT_ROWS_PER_STEP
        for name in names:
            if not CONTENDERS[name].packs:
                yield Job("agreement", size, name, rows=options.agreement_steps * step, rows_per_step=step)
    for size in sizes[:1] if options.growth and not options.agreement_only else ():
        step = SIZES[size].rows_per_step
        for row_tokens in (None, *GROWTH_ROW_TOKENS):
            for name in [name for name in GROWTH_CONTENDERS if name in names]:
                factor = 1 if row_tokens else 2  # the drawn lengths were measured at this number already, as speed
                rows = factor * options.steps * step
                yield Job("growth", size, name, rows=rows, rows_per_step=step, row_tokens=row_tokens)


def run(job: Job, folder: Path, ledger: Ledger) -> dict[str, Any]:
    """Start the process of a measurement, wait for it, and write down what it found. Errors are not written down."""
    found = measured_apart("bench.worker", [json.dumps(asdict(job)), str(folder / job.size)], folder)
    return found if "error" in found else ledger.add(asdict(job), found)


def _line(job: Job, found: Mapping[str, Any], warmup: int) -> str:
    what = " ".join(filter(None, [job.kind, job.size, job.contender, f"round {job.round + 1}"]))
    if "error" in found:
        return f"{what}: failed: {found['error']}"
    if "step_seconds" not in found:
        return what
    rate = sum(found["step_tokens"][warmup:]) / sum(found["step_seconds"][warmup:])
    return f"{what}: {rate:.0f} tokens/s, {found['peak_bytes'] / 2**30:.2f} GiB, loss {found['losses'][-1]:.4f}"


def _names(known: Mapping[str, object]) -> Any:
    def split(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are: {', '.join(known)}")
        return names

    return split


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
