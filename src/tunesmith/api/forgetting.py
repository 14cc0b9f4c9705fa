"""The forgetting table: the tasks of all parents and the new one, before and after a run that went on from another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.api.held_out import ask_session, held_out_examples
from tunesmith.api.session import Session, open_session
from tunesmith.config import RunConfig, load_config
from tunesmith.errors import DataError, SettingsError
from tunesmith.evaluate import Evaluation, is_share, metric_title, score, summarise
from tunesmith.runs import Run, atomic_write
from tunesmith.types import Example, Progress

FORGETTING = "forgetting.json"
SCHEMA_VERSION = 1


def write_forgetting(run: Run, config: RunConfig, *, on_progress: Progress) -> None:
    """Measure a finished run and its parent on the test rows of every task so far; write eval/forgetting.json, once.

    A task whose test rows cannot be had any more is in the file with the reason. Without a parent nothing is done.
    """
    path = run.eval_dir / FORGETTING
    if config.continual.parent is None or path.exists():
        return
    parent = Run.open(config.continual.parent)
    tasks, problems = _tasks(run, config)
    before = _measured(parent, tasks, config, on_progress)
    after = _measured(run, tasks, config, on_progress)
    measured = list(dict.fromkeys(metric for found in after.values() for metric in found.scores))
    content = {
        "schema_version": SCHEMA_VERSION,
        "run": run.name,
        "parent": parent.name,
        "settings": config.continual.model_dump(exclude={"parent"}),
        "titles": {metric: metric_title(metric) for metric in measured},
        "shares": [metric for metric in measured if is_share(metric)],
        "tasks": [_line(task, before[task], after[task], is_new=task == run) for task in tasks],
        "not_measured": problems,
    }
    run.eval_dir.mkdir(exist_ok=True)
    atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _tasks(run: Run, config: RunConfig) -> tuple[dict[Run, list[Example]], dict[str, str]]:
    """Test rows of the run and of those before it, the oldest first; and why those of others are missing."""
    line = [(run, config)]
    problems: dict[str, str] = {}
    while parent := line[-1][1].continual.parent:
        try:
            earlier = Run.open(parent)
            line.append((earlier, load_config(stored=earlier.config_path)))
        except SettingsError as error:
            problems[parent] = error.message
            break
    tasks = {}
    for one, settings in reversed(line):
        limited = settings.replaced("eval.max_rows", config.eval.max_rows, config.origin("eval.max_rows"))
        try:
            tasks[one] = held_out_examples(one, limited)
        except (DataError, SettingsError) as error:
            problems[one.name] = error.message
    return tasks, problems


def _measured(
    run: Run, tasks: Mapping[Run, list[Example]], config: RunConfig, on_progress: Progress
) -> dict[Run, Evaluation]:
    """A run on each task, asked in the way of `config`; of labels, it chooses among those of the task."""
    opened = open_session(str(run.path))
    # the tasks of other runs may be of another kind, which the scores named for this one need not suit
    automatic = config.eval.model_copy(update={"metrics": ["auto"], "checks": {}, "judge": None})
    asked = {"generate": config.generate, "eval": automatic, "seed": config.seed}
    changed = opened.config.model_copy(update=asked)
    found = {}
    for task, examples in tasks.items():

        def tell(_: str, done: int, total: int, name: str = task.name) -> None:
            on_progress(f"{run.name} to the questions of {name}", done, total)

        labels = task.manifest["data"].get("labels")
        session = Session(opened.loaded, opened.template, changed, labels=labels)
        measured = ask_session(session, examples, base=False, on_progress=tell)
        found[task] = score(measured, examples, config=changed, labels=labels)
    return found


def _line(task: Run, before: Evaluation, after: Evaluation, *, is_new: bool) -> dict[str, Any]:
    """One task: its rows, and each metric before and after."""
    summary = summarise(before, after)
    return {
        "task": task.name,
        "is_new": is_new,
        "rows": summary["rows"],
        "before": summary["base"],
        "after": summary["tuned"],
        "change": summary["change"],
        "generation": summary["settings"],
    }
