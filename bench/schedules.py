"""Do three phases learn faster than cosine, linear or a constant rate? Equal steps, the built-in model, two open files.

Usage: python -m bench.schedules --data FOLDER [--seeds 1 2 3 4 5 6] [--threads N]      see docs/schedules.md

Each schedule has the best of three peaks for each task, chosen by the last validation loss on a seed that is not
reported. A seed chooses the rows, the split, their order and the adapter's first values, the same for all schedules.
A finished run is a line in build/bench/schedules.jsonl: started again, the program goes on where it was stopped.
Writes bench/schedules.json, docs/schedules.png and the tables of docs/schedules.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.ledger import PACKAGE, WORK, Ledger, code_digest
from bench.schedules_report import REPORT, chosen_peaks
from bench.tuning import COMMON, TASKS, measure
from tunesmith.config import load_config

COMPARED = ("TruthfulQA", "home orders")
TUNING_SEED = 0
# the rate at which the guide's first phase begins; the default here for LoRA on a model of this size; as much more
PEAKS = (5e-4, 2e-3, 8e-3)
STEPS = 100
# Fewer pairs cannot differ at 95 %: six go in one direction by chance in 2 of 64 cases, five in 2 of 32.
FEWEST_SEEDS = 6
SETTINGS: Mapping[str, Any] = {
    "method.name": "lora",  # which the guide tunes with
    "train.max_steps": STEPS,
    "train.batch_size": 4,
    "train.gradient_accumulation_steps": 1,
    "train.eval_steps": 10,
}
_WARMUP: Mapping[str, Any] = {"train.warmup_ratio": 0.05, "train.min_lr_ratio": 0.0}


def schedules(peak: float) -> dict[str, dict[str, Any]]:
    """What is compared: the recipe `three-phases` with all its rates scaled to a peak, and three with one shape.

    All warm up over 5 % of the steps, which is what the recipe does.
    """
    phases = [phase.model_dump(by_alias=True) for phase in load_config(recipe="three-phases").train.phases]
    factor = peak / phases[0]["from"]
    scaled = [{**phase, "from": phase["from"] * factor, "to": phase["to"] * factor} for phase in phases]
    return {
        "three phases": {"train.schedule": "phases", "train.phases": scaled},
        **{
            name: {"train.schedule": name, "train.learning_rate": peak, **_WARMUP}
            for name in ("cosine", "linear", "constant")
        },
    }


def jobs(peaks: Mapping[str, Mapping[str, Sequence[float]]], seed: int, *, answers: bool) -> Iterator[dict[str, Any]]:
    """One seed of every task and schedule, at each of the peaks that `peaks` gives."""
    for task in COMPARED:
        for name in schedules(PEAKS[0]):
            for peak in peaks[task][name]:
                settings = {**COMMON, **SETTINGS, **schedules(peak)[name]}
                # the rows of the losses are few, and only their end is of interest where no answers are asked for
                settings |= {} if answers else {"train.eval_steps": STEPS}
                yield {
                    **{"task": task, "schedule": name, "peak": peak, "seed": seed},
                    **{"answers": answers, "settings": settings},
                }


def measured(job: dict[str, Any], data: Path, ledger: Ledger) -> dict[str, Any]:
    """The line of the results for a job, measured now or before."""
    found = ledger.find(job)
    if found is None:
        started = time.monotonic()
        found = ledger.add(job, measure(job, data))
        what = f"{job['task']}, {job['schedule']}, peak {job['peak']:g}, seed {job['seed']}"
        loss, seconds = found["validation"][-1][1], time.monotonic() - started
        print(f"{what}: loss {loss:.3f} {found['scores']} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    kept = ("validation", "scores", "rows", "steps", "tokens")
    named = {key: job[key] for key in ("task", "schedule", "peak", "seed")}
    return named | {key: found[key] for key in kept}


def main(arguments: Sequence[str]) -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the open files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="those that are reported")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run (1)")
    options = parser.parse_args(arguments)
    if TUNING_SEED in options.seeds or len({*options.seeds}) < FEWEST_SEEDS:
        parser.error(f"--seeds takes {FEWEST_SEEDS} or more, and not {TUNING_SEED}, on which the peaks are chosen")
    torch.set_num_threads(options.threads)
    data = options.data.absolute()
    ledger = Ledger(WORK / "schedules.jsonl", code_digest(*PACKAGE, "bench/schedules.py", "bench/tuning.py"))

    def all_of(chosen: Mapping[str, Mapping[str, Sequence[float]]], seed: int, *, answers: bool) -> list[Any]:
        return [measured(job, data, ledger) for job in jobs(chosen, seed, answers=answers)]

    every = {task: dict.fromkeys(schedules(PEAKS[0]), PEAKS) for task in COMPARED}
    tuning = all_of(every, TUNING_SEED, answers=False)
    peaks = chosen_peaks(tuning)
    best = {task: {name: [peak] for name, peak in of_task.items()} for task, of_task in peaks.items()}
    runs = [run for seed in options.seeds for run in all_of(best, seed, answers=True)]
    content = {
        "format": 1,
        "command": " ".join(["python -m bench.schedules --data FOLDER --seeds", *map(str, options.seeds)]),
        "date": time.strftime("%Y-%m-%d"),
        "threads": options.threads,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "settings": {**COMMON, **SETTINGS, **_WARMUP},
        "tasks": {task: TASKS[task][0] for task in COMPARED},
        "peaks": peaks,
        "tuning": tuning,
        "runs": runs,
    }
    REPORT.publish(content)


if __name__ == "__main__":
    main(sys.argv[1:])
