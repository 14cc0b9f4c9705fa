"""Does a run that goes on from another forget less with replay, with elastic weight consolidation, with both?

Usage: python -m bench.continual --data FOLDER [--seeds 1 2 3] [--threads N]      see docs/continual.md

FOLDER holds the two open files. For each seed the built-in model learns the first task; four runs go on from there to
the second, and are measured on the test rows of both, before and after. The strength of the consolidation is chosen on
a seed of its own, which is not reported. Every run has a folder under build/bench/continual/: a finished one is not run
again and a stopped one is resumed, as long as the code is the same.
Writes bench/continual.json and the tables of docs/continual.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.continual_report import REPORT, chosen_strength, losses, rise
from bench.ledger import PACKAGE, WORK, code_digest
from tunesmith import api
from tunesmith.config import load_config

TUNING_SEED = 0
STRENGTHS = (1e4, 1e5, 1e6)
SHARE = 0.2
# task -> file, and what it is read with
TASKS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "old": (
        "nlu_home_domain_semicolon.csv",
        {
            "data.columns.question": "answer_from_user",
            "data.columns.answer": "scenario",
            "data.max_rows": "300",
            "train.epochs": "3",
        },
    ),
    "new": ("banking77_train.csv", {"data.max_rows": "200", "train.epochs": "2"}),
}
# All weights, and every run to its last step: what is compared does not depend on which validation was the best.
COMMON: Mapping[str, str] = {
    "method.name": "full",
    "train.learning_rate": "1e-3",
    "train.early_stopping_patience": "null",
    "train.keep_best": "false",
    "train.eval_steps": "1000",
    "train.compile": "off",
    "data.split.train": "0.75",
    "data.split.validation": "0.05",
    "data.split.test": "0.2",
    "generate.max_new_tokens": "12",
    "continual.fisher_rows": "100",
}


def arms(strength: float) -> dict[str, dict[str, float]]:
    """What is compared: settings of `continual` by name."""
    return {
        "none": {"replay_share": 0.0},
        "replay": {"replay_share": SHARE},
        "EWC": {"replay_share": 0.0, "ewc_lambda": strength},
        "both": {"replay_share": SHARE, "ewc_lambda": strength},
    }


def run(task: str, folder: Path, options: argparse.Namespace, *, seed: int, **more: float | str) -> None:
    """Train a task in `folder`, or what is left of it."""
    if (folder / "model" / "README.md").exists():  # the card is written last
        return
    started = time.monotonic()
    if (folder / "manifest.json").exists():
        api.train(api.run_config(str(folder)), resume=str(folder))
    else:
        name, settings = TASKS[task]
        place = {"data.path": str(options.data / name), "output_dir": str(folder), "seed": seed}
        api.train(load_config(overrides={**COMMON, **settings, **place, **more}))
    shutil.rmtree(folder / "checkpoints")  # several hundred megabytes
    print(f"{folder.relative_to(WORK)}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def measure(folder: Path, name: str, options: argparse.Namespace, *, seed: int, **settings: float) -> dict[str, Any]:
    """One run that goes on from the seed's first task: both tasks before and after, and what it took."""
    parent, child = folder / f"seed-{seed}" / "old", folder / f"seed-{seed}" / name
    run("old", parent, options, seed=seed)
    given = {f"continual.{key}": value for key, value in settings.items()}
    run("new", child, options, seed=seed, **{"continual.parent": str(parent)}, **given)
    table = json.loads((child / "eval" / "forgetting.json").read_text(encoding="utf-8"))
    manifest = json.loads((child / "manifest.json").read_text(encoding="utf-8"))
    old, new = ({key: task[key] for key in ("rows", "before", "after")} for task in table["tasks"])
    training = manifest["training"]
    return {
        **{"seed": seed, "arm": name, "settings": settings, "old": old, "new": new},
        **{"steps": training["step"], "tokens": training["tokens"], "seconds": round(training["seconds"])},
        "train_rows": manifest["data"]["split"]["train"],
        "kept_rows": json.loads((parent / "manifest.json").read_text(encoding="utf-8"))["replay"]["rows"],
    }


def tune(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each strength on the seed that is not reported, alone, without replay."""
    tuning = []
    for strength in STRENGTHS:
        tuning.append(measure(folder, f"EWC-{strength:g}", options, seed=TUNING_SEED, **arms(strength)["EWC"]))
        _tell(tuning[-1])
    return tuning


def _tell(run: Mapping[str, Any]) -> None:
    old, new = losses(run)
    line = f"seed {run['seed']} {run['arm']}: old loss {old:.2f} ({rise(run):+.2f}), new {new:.2f}"
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the open files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="those that are reported (1 2 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run (1)")
    options = parser.parse_args(arguments)
    if TUNING_SEED in options.seeds or len({*options.seeds}) < 2:
        parser.error(f"--seeds takes two or more, and not {TUNING_SEED}, on which the strength is chosen")
    options.data = options.data.absolute()
    torch.set_num_threads(options.threads)
    folder = WORK / "continual" / code_digest(*PACKAGE, "bench/continual.py")
    tuning = tune(folder, options)
    strength = chosen_strength(tuning)
    runs = []
    for seed in options.seeds:
        for name, settings in arms(strength).items():
            runs.append(measure(folder, name, options, seed=seed, **settings))
            _tell(runs[-1])
    content = {
        "format": 1,
        "command": " ".join(["python -m bench.continual --data FOLDER --seeds", *map(str, options.seeds)]),
        "date": time.strftime("%Y-%m-%d"),
        "threads": options.threads,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        "settings": {**COMMON, **{task: {"file": file, **own} for task, (file, own) in TASKS.items()}},
        "strength": strength,
        "tuning": tuning,
        "runs": runs,
    }
    REPORT.publish(content)


if __name__ == "__main__":
    main(sys.argv[1:])
