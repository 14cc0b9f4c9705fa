"""bench/continual.json -> the tables in docs/continual.md: `python -m bench.continual_report`.

Means over seeds with 95 % intervals of Student's t. Arms are compared within a seed: they go on from the same model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from bench.pages import Report, read_results

# 97.5 % quantile of Student's t by degrees of freedom
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

Run = Mapping[str, Any]


def losses(run: Run) -> tuple[float, float]:
    """Nats per token of the old and of the new task's test rows after the run."""
    return math.log(run["old"]["after"]["perplexity"]), math.log(run["new"]["after"]["perplexity"])


def chosen_strength(tuning: Sequence[Run]) -> float:
    """The strength with the lowest sum of old and new loss."""
    return float(min(tuning, key=lambda run: sum(losses(run)))["settings"]["ewc_lambda"])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval.

    Raises:
        ValueError: fewer than two values, or more than ten.
    """
    if len(values) - 1 not in _T:
        raise ValueError(f"2 to 10 seeds are needed, found {len(values)}")
    return mean(values), _T[len(values) - 1] * stdev(values) / math.sqrt(len(values))


def tables(content: Mapping[str, Any]) -> str:
    """All that stands between the markers."""
    runs = content["runs"]
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run["arm"], []).append(run)
    seeds = sorted({run["seed"] for run in runs})
    first = runs[0]
    return "\n".join(
        [
            f"Measured {content['date']} with `{content['command']}`, {content['threads']} thread, "
            f"torch {content['versions']['torch']}: {len(seeds)} seeds, each with rows, split and order of its own; "
            f"{first['kept_rows']} old training rows kept, {first['train_rows']} new ones, {first['steps']} steps, "
            f"{first['old']['rows']} old and {first['new']['rows']} new test rows. Mean and 95 % interval "
            "(Student's t); losses in nats per token, exact match out of 100.",
            "",
            "| | old loss, before | after | rise | old exact match, before | after | new loss | new exact match | s |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(_arm_line(name, arm) for name, arm in by_arm.items()),
            "",
            "Against plain tuning of the same seed: how much less the old loss rose, how much more of the old exact",
            "match was kept, and how much the new loss is higher. An interval without 0 is a difference at 95 %.",
            "",
            "| | rise of the old loss | old exact match | new loss |",
            "| --- | ---: | ---: | ---: |",
            *(_difference_line(name, arm, by_arm["none"]) for name, arm in by_arm.items() if name != "none"),
            "",
            f"The strength, {content['strength']:g}, has the lowest sum of both losses on seed "
            f"{content['tuning'][0]['seed']}, which is not among the above:",
            "",
            "| strength | old loss, before | after | new loss | old exact match | new exact match |",
            "| ---: | ---: | ---: | ---: | ---: | ---: |",
            *map(_tuning_line, content["tuning"]),
        ]
    )


def rise(run: Run) -> float:
    """What the loss of the old task rose by."""
    return math.log(run["old"]["after"]["perplexity"] / run["old"]["before"]["perplexity"])


def _exact(run: Run, task: str, when: str) -> float:
    scores = run[task][when]
    return 100.0 * float(scores["accuracy"] if "accuracy" in scores else scores["exact_match"])


def _arm_line(name: str, runs: Sequence[Run]) -> str:
    columns = [
        ([math.log(run["old"]["before"]["perplexity"]) for run in runs], 2),
        ([losses(run)[0] for run in runs], 2),
        ([rise(run) for run in runs], 2),
        ([_exact(run, "old", "before") for run in runs], 0),
        ([_exact(run, "old", "after") for run in runs], 0),
        ([losses(run)[1] for run in runs], 2),
        ([_exact(run, "new", "after") for run in runs], 0),
    ]
    cells = [_cell(values, digits) for values, digits in columns]
    seconds = f"{mean(run['seconds'] for run in runs):.0f}"
    return f"| {' | '.join([name, *cells, seconds])} |"


def _difference_line(name: str, runs: Sequence[Run], plain: Sequence[Run]) -> str:
    pairs = list(zip(runs, plain, strict=True))
    columns = [
        ([rise(run) - rise(other) for run, other in pairs], 2),
        ([_exact(run, "old", "after") - _exact(other, "old", "after") for run, other in pairs], 0),
        ([losses(run)[1] - losses(other)[1] for run, other in pairs], 2),
    ]
    return f"| {' | '.join([name, *(_cell(values, digits, sign='+') for values, digits in columns)])} |"


def _tuning_line(run: Run) -> str:
    old, new = losses(run)
    before = math.log(run["old"]["before"]["perplexity"])
    exact = [f"{_exact(run, task, 'after'):.0f}" for task in ("old", "new")]
    return f"| {run['settings']['ewc_lambda']:g} | {before:.2f} | {old:.2f} | {new:.2f} | {' | '.join(exact)} |"


def _cell(values: Sequence[float], digits: int, *, sign: str = "") -> str:
    middle, half = interval(values)
    return f"{middle:{sign}.{digits}f} ± {half:.{digits}f}"


REPORT = Report("continual", "python -m bench.continual --data FOLDER", tables)

if __name__ == "__main__":
    REPORT.write(read_results(REPORT.path))
