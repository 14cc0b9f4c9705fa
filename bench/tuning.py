"""One fine-tuning of the built-in model on an open file: how its loss falls, what it answers, what it costs.

`measure` in this process, or `python -m bench.tuning JOB FOLDER OUTPUT` in one of its own, whose peak memory is then
that of the training. What is compared, and on which task, is said by `schedules.py`, `methods.py` and `defaults.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench.ledger import ROOT, Found, Ledger, measured_apart
from bench.watch import Watch, peak_bytes

SAMPLES = ROOT / "examples"
# task -> file (of the sample's folder or of the open files), and what it is read with
TASKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "TruthfulQA": ("truthfulqa.csv", {"data.columns.question": "Question", "data.columns.answer": "Best Answer"}),
    "home orders": (
        "nlu_home_domain_semicolon.csv",
        {"data.columns.question": "answer_from_user", "data.columns.answer": "scenario"},
    ),
    "sample FAQ": ("presscrafters_faq.xlsx", {}),
    "azure support": ("azure_support_workbook_derived.xlsx", {}),
    "banking77, 600 rows": ("banking77_train.csv", {"data.max_rows": 600}),
    "sms spam, 400 rows": ("sms_spam_collection.tsv", {"data.max_rows": 400}),
    "mental health FAQ": ("mental_health_faq.csv", {}),
}
# For comparisons at equal steps, on tasks with short answers: a run is about a minute of one core and goes to its last
# step; that is measured, whichever validation was the best.
COMMON: Mapping[str, Any] = {
    "train.early_stopping_patience": None,
    "train.keep_best": False,
    "train.save_steps": 100_000,
    "train.compile": "off",
    "data.max_rows": 400,
    "data.split.train": 0.8,
    "data.split.validation": 0.06,
    "data.split.test": 0.14,
    "generate.max_new_tokens": 16,
}
# The first steps fill caches and the allocator; what a step takes is the median of the others.
_FIRST_STEPS = 3


def last_loss(run: Mapping[str, Any]) -> float:
    """Validation loss after the last step, in nats per token."""
    return float(run["validation"][-1][1])


def measure(job: Mapping[str, Any], data: Path) -> Found:
    """Train as the job says and answer its test rows. Seconds are of all threads together, bytes peaks of this process.

    Args:
        job: task, seed, and every setting that is not at its default; without `answers`, no test row is answered.
        data: folder of the open files.
    """
    from tunesmith import api
    from tunesmith.config import load_config
    from tunesmith.train import Event, Plan

    name, reading = TASKS[job["task"]]
    # the time of the processor: a machine that does something else besides makes no step slower
    watch = Watch(clock=time.process_time)
    plans, validation, passes = list[Plan](), list[tuple[int, float]](), 0.0
    peaks = {"start": 0, "train": 0}  # when everything is loaded, and after the last step: pictures are drawn later

    def observe(event: Event) -> None:
        nonlocal passes
        if event.kind in peaks:
            peaks[event.kind] = peak_bytes()
        if event.kind == "start":
            watch.start()
        elif event.kind == "train":
            watch.step(int(event.values["tokens"] or 0))
            passes = float(event.values["epoch"] or 0.0)
        elif event.kind == "eval":
            validation.append((event.step, float(event.values["validation_loss"] or 0.0)))
            watch.start()  # validating is no part of a step

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run = Path(folder) / "run"
        file = SAMPLES / name if (SAMPLES / name).is_file() else data / name
        place = {"data.path": str(file), "output_dir": str(run), "seed": job["seed"]}
        config = load_config(overrides={**reading, **job["settings"], **place})
        api.train(config, announce=plans.append, observers=[observe])
        scores = tuned_scores(run) if job["answers"] else {}
    return {
        "validation": validation,
        "scores": scores,
        "rows": dict(plans[0].data.split),
        "steps": len(watch.step_seconds),
        "tokens": sum(watch.step_tokens),
        "trainable": plans[0].trainable,
        "parameters": plans[0].parameters,
        "passes": passes,
        "cpu_seconds": sum(watch.step_seconds),
        "step_cpu_seconds": median(watch.step_seconds[_FIRST_STEPS:]),
        "loaded_bytes": peaks["start"],
        "peak_bytes": peaks["train"],
    }


def measured_once(
    job: dict[str, Any], what: str, data: Path, ledger: Ledger, *, threads: int, told: Callable[[Found], str]
) -> Found:
    """What `measure` finds for a job in a process of its own, now or before; `told` says it on standard error.

    Raises:
        SystemExit: the run failed; `what` names it.
    """
    found = ledger.find(job)
    if found is not None:
        return found
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        words = [json.dumps(job), str(data)]
        found = measured_apart("bench.tuning", words, Path(folder), OMP_NUM_THREADS=str(threads))
    if "error" in found:
        raise SystemExit(f"{what}: {found['error']}")
    print(f"{what}: {told(found)}", file=sys.stderr, flush=True)
    return ledger.add(job, found)


def tuned_scores(run: Path) -> dict[str, float]:
    """Metrics of the run's own test rows, of the tuned model alone."""
    from tunesmith.api import open_session
    from tunesmith.api.held_out import ask_session, held_out_examples
    from tunesmith.evaluate import score
    from tunesmith.runs import Run

    session = open_session(str(run))
    examples = held_out_examples(Run.open(str(run)), session.config)
    measured = ask_session(session, examples, base=False, on_progress=lambda who, done, total: None)
    found = score(measured, examples, config=session.config, labels=session.labels)
    return {"rows": len(examples), **found.metrics}


def main(arguments: list[str]) -> None:
    job, data, output = json.loads(arguments[0]), Path(arguments[1]), Path(arguments[2])
    output.write_text(json.dumps(measure(job, data)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
