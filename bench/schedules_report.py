"""bench/schedules.json -> the tables and the picture in docs/schedules.md: `python -m bench.schedules_report`.

Seeds are what is resampled: intervals and p-values are those of `evaluate.paired`, a row for each seed, both schedules
with the same rows, split, order and first values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.pages import Report, read_results, table
from bench.tuning import last_loss
from tunesmith.evaluate import CONFIDENCE, Difference, difference, interval, mean_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATE = "three phases"
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#7A6A9B")
_MARKERS = ("o", "s", "^", "D")

Run = Mapping[str, Any]
Curve = Sequence[tuple[int, float]]


def chosen_peaks(tuning: Sequence[Run]) -> dict[str, dict[str, float]]:
    """task -> schedule -> the peak with the lowest last validation loss."""
    peaks: dict[str, dict[str, float]] = {}
    for run in sorted(tuning, key=last_loss, reverse=True):  # the lowest comes last and stays
        peaks.setdefault(run["task"], {})[run["schedule"]] = run["peak"]
    return peaks


def steps_to(curve: Curve, loss: float) -> float:
    """The step at which a curve first is at or below `loss`, on straight lines between its validations.

    Raises:
        ValueError: it never is.
    """
    first, at_first = curve[0]
    if at_first <= loss:
        return float(first)
    for (before, high), (after, low) in pairwise(curve):
        if low <= loss:
            return before + (after - before) * (high - loss) / (high - low)
    raise ValueError(f"the loss never falls to {loss}")


def steps_to_same(one: Run, other: Run) -> tuple[float, float]:
    """Steps of each to the lowest loss that both reach."""
    target = max(min(loss for _, loss in run["validation"]) for run in (one, other))
    return steps_to(one["validation"], target), steps_to(other["validation"], target)


def compared(before: Sequence[float], after: Sequence[float]) -> Difference:
    """A value for each seed."""
    return difference(mean_of(np.array(before)), mean_of(np.array(after)))


def is_told_apart(found: Difference) -> bool:
    """The criterion of `evaluate.paired` without its least number of rows, which is for test rows, not for seeds."""
    return (found.low > 0 or found.high < 0) and found.p_value < 1 - CONFIDENCE


def tables(content: Mapping[str, Any]) -> str:
    """All that stands between the markers."""
    runs = content["runs"]
    seeds = sorted({run["seed"] for run in runs})
    first = runs[0]
    lines = [
        f"Measured {content['date']} with `{content['command']}`, {content['threads']} thread, torch "
        f"{content['versions']['torch']}: {len(seeds)} seeds, LoRA, {first['steps']} steps of "
        f"{content['settings']['train.batch_size']} rows, {first['rows']['train']} training rows, "
        f"{first['rows']['validation']} for validation, {first['rows']['test']} for the answers. Mean over seeds with "
        "its 95 % interval; losses in nats per token.",
        "",
        "![validation loss by step](schedules.png)",
    ]
    for task, file in content["tasks"].items():
        lines += ["", f"**{task}** (`{file}`)", "", *_of_task(content, task)]
    return "\n".join([*lines, "", *_verdict(content), "", *_tuning(content)])


def _of_task(content: Mapping[str, Any], task: str) -> list[str]:
    by_schedule = _by_schedule(content["runs"], task)
    own = [
        [
            name,
            f"{content['peaks'][task][name]:g}",
            _interval([last_loss(run) for run in runs]),
            _interval([run["scores"]["token_f1"] for run in runs]),
            _interval([run["scores"]["exact_match"] for run in runs]),
        ]
        for name, runs in by_schedule.items()
    ]
    against = [
        [
            f"against {name}",
            _difference(compared([last_loss(run) for run in runs], [last_loss(run) for run in mine])),
            _difference(compared(*([run["scores"]["token_f1"] for run in side] for side in (runs, mine)))),
            _steps(saved(runs, mine)),
        ]
        for mine in [by_schedule[CANDIDATE]]
        for name, runs in by_schedule.items()
        if name != CANDIDATE
    ]
    return [
        *table(["schedule", "peak", "last validation loss", "token F1", "exact match"], own),
        "",
        *table([f"{CANDIDATE} ...", "last loss", "token F1", "steps to the same loss"], against),
    ]


def saved(others: Sequence[Run], mine: Sequence[Run]) -> Difference:
    """Steps to the same loss: those of other runs, and of mine on the same seeds."""
    pairs = [steps_to_same(other, run) for other, run in zip(others, mine, strict=True)]
    return compared([other for other, _ in pairs], [own for _, own in pairs])


def _verdict(content: Mapping[str, Any]) -> list[str]:
    fewer, more = list[str](), list[str]()
    shares = []
    for task in content["tasks"]:
        by_schedule = _by_schedule(content["runs"], task)
        for name, runs in by_schedule.items():
            if name == CANDIDATE:
                continue
            found = saved(runs, by_schedule[CANDIDATE])
            shares.append(-found.change / found.before)
            if is_told_apart(found):
                (fewer if found.change < 0 else more).append(f"{name} on {task}")
    return [
        "**The guide claims 20 to 30 % less training time.** A step takes as long with every schedule, so steps are "
        f"time. Of the {len(shares)} comparisons above, three phases need fewer steps in {len(fewer)}{_listed(fewer)}, "
        f"more in {len(more)}{_listed(more)}, and are not told apart in {len(shares) - len(fewer) - len(more)}. The "
        f"mean of the steps saved is between {min(shares):.0%} and {max(shares):.0%}.",
    ]


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _tuning(content: Mapping[str, Any]) -> list[str]:
    peaks = sorted({run["peak"] for run in content["tuning"]})
    found = {(run["task"], run["schedule"], run["peak"]): last_loss(run) for run in content["tuning"]}
    names = dict.fromkeys((task, schedule) for task, schedule, _ in found)
    rows = [[f"{task}, {name}", *(f"{found[task, name, peak]:.3f}" for peak in peaks)] for task, name in names]
    return [
        f"The peak of each has the lowest last validation loss on seed {content['tuning'][0]['seed']}, which is not "
        "among the above:",
        "",
        *table(["", *(f"{peak:g}" for peak in peaks)], rows),
    ]


def _by_schedule(runs: Sequence[Run], task: str) -> dict[str, list[Run]]:
    """In the order of seeds."""
    found: dict[str, list[Run]] = {}
    for run in sorted((run for run in runs if run["task"] == task), key=lambda run: run["seed"]):
        found.setdefault(run["schedule"], []).append(run)
    return found


def _interval(values: Sequence[float]) -> str:
    found = interval(mean_of(np.array(values)))
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _difference(found: Difference) -> str:
    text = f"{found.change:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p {found.p_value:.2f}"
    return f"**{text}**" if is_told_apart(found) else text


def _steps(found: Difference) -> str:
    share, low, high = (value / found.before for value in (found.change, found.low, found.high))
    text = f"{found.after:.0f} for {found.before:.0f}: {share:+.0%} [{low:+.0%}, {high:+.0%}], p {found.p_value:.2f}"
    return f"**{text}**" if is_told_apart(found) else text


def picture(content: Mapping[str, Any]) -> bytes:
    """A PNG: mean validation loss by step, a panel for each task."""
    from tunesmith.runs.plots import INK, render

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(content["tasks"]), squeeze=False)[0]
        for ax, task in zip(panels, content["tasks"], strict=True):
            by_schedule = _by_schedule(content["runs"], task)
            for (name, runs), colour, marker in zip(by_schedule.items(), _COLOURS, _MARKERS, strict=True):
                steps = [step for step, _ in runs[0]["validation"]]
                losses = [mean(run["validation"][place][1] for run in runs) for place in range(len(steps))]
                label = f"{name}, peak {content['peaks'][task][name]:g}"
                ax.plot(steps, losses, color=colour, marker=marker, markersize=4.5, linewidth=1.8, label=label)
            ax.set_title(task, loc="left", fontsize=11.5, color=INK)
            ax.set_xlabel("optimizer step")
            ax.legend()
        panels[0].set_ylabel("validation loss (nats per token), mean over seeds")

    return render("Equal steps, four schedules", draw, size=(11, 4.8))


REPORT = Report("schedules", "python -m bench.schedules --data FOLDER", tables, picture)

if __name__ == "__main__":
    REPORT.write(read_results(REPORT.path))
