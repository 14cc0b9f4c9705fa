"""bench/methods.json -> the table and the picture in docs/methods.md: `python -m bench.methods_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from bench.pages import Report, read_results, table
from bench.tuning import last_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"full": "#D55E00", "soft prompt": "#7A6A9B", "adapter": "#0072B2"}
_NAME_HEIGHT = 0.15  # of the picture's names, in nats
_MARKERS = {"full": "s", "soft prompt": "^", "adapter": "o"}

Run = Mapping[str, Any]


def tables(content: Mapping[str, Any]) -> str:
    """All that stands between the markers."""
    first = content["runs"][0]
    seeds = {run["seed"] for run in content["runs"]}
    base = min(run["parameters"] for run in content["runs"])  # those of an adapter are counted with it
    rows = [
        [
            name,
            f"{runs[0]['trainable']:,}",
            f"{runs[0]['trainable'] / base:.2%}",
            _range([last_loss(run) for run in runs], 3),
            _range([run["scores"]["token_f1"] for run in runs], 2),
            f"{milliseconds(runs):.0f}",
            f"{added(runs):.0f}",
            f"{median(run['peak_bytes'] for run in runs) / 2**20:.0f}",
        ]
        for name, runs in grouped(content["runs"]).items()
    ]
    columns = ["method", "trained", "of all", "validation loss", "token F1", "ms a step", "MiB added", "peak MiB"]
    return "\n".join(
        [
            f"Measured {content['date']} with `{content['command']}`, {content['threads']} thread, torch "
            f"{content['versions']['torch']}: the built-in model ({base / 1e6:.0f} M parameters) "
            f"on `{content['task']['file']}`, {first['steps']} steps of "
            f"{content['settings']['train.batch_size']} rows, each method at its own default rate, {len(seeds)} seeds "
            f"(mean, lowest to highest); {first['rows']['validation']} rows for the loss in nats per token, "
            f"{first['rows']['test']} for the answers. "
            "Milliseconds of the processor. Memory of a process of its own: what the steps added to the loaded model, "
            "and the peak with everything.",
            "",
            "![what each method learns and costs](methods.png)",
            "",
            *table(columns, rows),
        ]
    )


def milliseconds(runs: Sequence[Run]) -> float:
    """Processor time of a step, the median over seeds."""
    return 1000 * median([float(run["step_cpu_seconds"]) for run in runs])


def added(runs: Sequence[Run]) -> float:
    """MiB that the steps added to the peak of the loaded model, the median over seeds."""
    return median([float(run["peak_bytes"] - run["loaded_bytes"]) for run in runs]) / 2**20


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """By method, in the order in which they were measured."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run["method"], []).append(run)
    return found


def _range(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def picture(content: Mapping[str, Any]) -> bytes:
    """A PNG: loss by number of trained parameters, and time and memory of a step."""
    from tunesmith.config import METHODS
    from tunesmith.runs.plots import INK, render

    by_method = grouped(content["runs"])

    def kind(name: str) -> str:
        return "soft prompt" if METHODS[name].is_soft_prompt else "adapter" if METHODS[name].is_adapter else "full"

    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
        points: list[tuple[float, float, str]] = []
        for name, runs in by_method.items():
            losses = [last_loss(run) for run in runs]
            x, y = runs[0]["trainable"], mean(losses)
            colour, marker = _COLOURS[kind(name)], _MARKERS[kind(name)]
            left.plot([x, x], [min(losses), max(losses)], color=colour, linewidth=1.2, alpha=0.6)
            left.plot([x], [y], color=colour, marker=marker, markersize=7)
            points.append((y, x, name))
        named: list[tuple[float, float]] = []
        for y, x, name in sorted(points):  # names of points that lie on each other stand above each other
            at = max([y, *(below + _NAME_HEIGHT for near, below in named if near / 3 < x < near * 3)])
            named.append((x, at))
            left.text(x * 1.35, at, name, va="center", fontsize=9.5, color=INK)
        left.set_xscale("log")
        left.margins(x=0.18, y=0.1)
        left.set_xlabel("trained parameters")
        left.set_ylabel("validation loss, mean and range")
        names = list(by_method)[::-1]
        colours = [_COLOURS[kind(name)] for name in names]
        middle.barh(names, [milliseconds(by_method[name]) for name in names], color=colours)
        middle.set_xlabel("processor ms a step")
        right.barh(names, [added(by_method[name]) for name in names], color=colours)
        right.set_xlabel("MiB that steps add")
        right.set_yticks([])

    return render("Methods: what they learn, and what it costs", draw, size=(12, 4.8))


REPORT = Report("methods", "python -m bench.methods --data FOLDER", tables, picture)

if __name__ == "__main__":
    REPORT.write(read_results(REPORT.path))
