"""training_visuals/: three figures and three files that say what happened. Reads the run directory and nothing else."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.runs.atomic import atomic_write
from tunesmith.runs.curves import (
    Series,
    column,
    columns_under,
    mean_between,
    needs_log_scale,
    nonfinite_steps,
    smallest_distance,
    smooth,
    thin,
)
from tunesmith.runs.kept import without_nonfinite
from tunesmith.runs.metrics import TASK_LOSS, Line, MetricsLog, best_validation, summarize
from tunesmith.runs.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common kind of colour blindness (jfly.uni-koeln.de/color).
TRAIN, _VALIDATION, BEST, OTHER, ALARM = "#0072B2", "#E69F00", "#009E73", "#7A6A9B", "#C1121F"
INK, _FAINT = "#222222", "#6B6B6B"
_TASKS = ("#CC79A7", "#56B4E9", "#D55E00", "#7A6A00", "#4B3B8F")
_TASK_STYLES = ("-", "--", ":")
_NAMED_TASKS = 8
_MOST_POINTS = 3000
_MOST_DOTS = 60
_DPI = 150
_STYLE = {
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9A9A9A",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.8,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "legend.fontsize": 10,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True)
class _Story:
    """What the figures draw."""

    title: str
    subtitle: str
    train: list[Line]
    evals: list[Line]

    @property
    def bad_loss_steps(self) -> list[int]:
        """Steps at which a loss was NaN or infinite."""
        steps = {*nonfinite_steps(self.train, "loss"), *nonfinite_steps(self.evals, "validation_loss")}
        return sorted(steps)


def plot_run(run: Run, *, status: str | None = None) -> list[Path]:
    """Write the figures and files of training_visuals/ from metrics.jsonl and config.yaml; also in mid-run.

    Args:
        status: what the run is about to be, when its manifest does not say so yet.

    Returns:
        The six paths written.

    Raises:
        DataError: the log is damaged in its middle.
        SettingsError: config.yaml or the manifest cannot be read.
        ResourceError: they cannot be written.
    """
    lines = MetricsLog(run.metrics_path).read()
    summary = summarize(lines)
    story = _Story(
        title=run.name,
        subtitle=_subtitle(run, summary),
        train=[line for line in lines if line["kind"] == "train"],
        evals=[line for line in lines if line["kind"] == "eval"],
    )
    files: dict[str, str | bytes] = {
        "training_curves.png": render(story.title, partial(_draw_curves, story=story)),
        "loss_comparison.png": render(story.title, partial(_draw_comparison, story=story)),
        "lr_schedule.png": render(story.title, partial(_draw_schedule, story=story)),
        "training_metrics.json": _to_json({"run": run.name, "status": status or run.status, **summary}),
        "training_metrics.csv": _to_csv(lines),
        "training_config.json": _to_json(run.settings),
    }
    for name, content in files.items():
        atomic_write(run.visuals_dir / name, content)
    return [run.visuals_dir / name for name in files]


def _subtitle(run: Run, summary: dict[str, object]) -> str:
    settings = run.settings
    model, method = settings.get("model"), settings.get("method")
    parts = [
        str(model["path"])[-40:] if isinstance(model, dict) and "path" in model else "",
        str(method["name"]) if isinstance(method, dict) and "name" in method else "",
        "1 step" if summary["steps"] == 1 else f"{summary['steps']:,} steps",
        f"{summary['epochs']:.3g} epochs" if isinstance(summary["epochs"], (int, float)) else "",
        f"{summary['tokens']:,} tokens" if summary["tokens"] else "",
    ]
    return "  ·  ".join(part for part in parts if part)


def _to_json(content: object) -> str:
    return json.dumps(without_nonfinite(content), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _to_csv(lines: Sequence[Line]) -> str:
    """Every line, with the union of all columns in order of appearance; `nonfinite` names are joined by spaces."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({**line, "nonfinite": " ".join(line["nonfinite"])} if "nonfinite" in line else line)
    return text.getvalue()


def render(title: str, draw: Callable[[Figure], None], *, size: tuple[float, float] = (10, 7)) -> bytes:
    """A PNG, by matplotlib's object API: no window, no global figure, whatever style the user has set."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    buffer = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a run's name may be in any script
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06))
        figure.suptitle(title, x=0.012, ha="left", fontsize=16, fontweight="bold", color=INK, parse_math=False)
        draw(figure)
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _draw_curves(figure: Figure, story: _Story) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    panels = [("grad_norm", "gradient norm"), ("tokens_per_second", "tokens / s")]
    panels = [(name, label) for name, label in panels if column(story.train, name).steps]
    heights = [3.2, *([1] * len(panels))]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    _draw_loss(axes[0], story)
    for ax, (name, label) in zip(axes[1:], panels, strict=True):
        series = column(story.train, name)
        _plot(ax, series, color=OTHER, linewidth=1.1, marker="o" if len(series.steps) == 1 else None)
        ax.set_ylabel(label)
        _mark_nonfinite(ax, nonfinite_steps(story.train, name), label)
        ax.margins(y=0.15)
        if needs_log_scale(series.finite):
            _use_log_scale(ax)
        else:
            ax.set_ylim(bottom=0)
            ax.yaxis.set_major_locator(MaxNLocator(nbins=3 if series.finite else 1))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    _finish(figure, axes[0], axes[-1], story)


def _draw_loss(ax: Axes, story: _Story) -> None:
    loss, validation = column(story.train, "loss"), column(story.evals, "validation_loss")
    of_tasks = [value for series in columns_under(story.evals, TASK_LOSS).values() for value in series.finite]
    logarithmic = needs_log_scale(loss.finite + validation.finite + of_tasks)
    if logarithmic:
        _use_log_scale(ax)
    _plot_train_loss(ax, loss, logarithmic=logarithmic)
    dots = "o" if len(validation.steps) <= _MOST_DOTS else None
    _plot(ax, validation, color=_VALIDATION, linewidth=2, marker=dots, markersize=5.5, label="validation")
    _plot_tasks(ax, story.evals)
    _mark_best(ax, story.evals)
    ax.set_ylabel("loss (nats per token)")
    if not loss.finite + validation.finite:
        ax.set_yticks([])
    _mark_nonfinite(ax, story.bad_loss_steps, "loss")
    _legend(ax)


def _plot_tasks(ax: Axes, evals: Sequence[Line]) -> None:
    """Validation loss of each task, thin; of many, the first are named."""
    for index, (task, series) in enumerate(columns_under(evals, TASK_LOSS).items()):
        style = _TASK_STYLES[index // len(_TASKS) % len(_TASK_STYLES)]
        dots = "." if len(series.steps) <= _MOST_DOTS else None
        label = f"validation: {task[:30]}" if index < _NAMED_TASKS else None
        _plot(ax, series, color=_TASKS[index % len(_TASKS)], linewidth=1.3, linestyle=style, marker=dots, label=label)


def _plot_train_loss(ax: Axes, loss: Series, *, logarithmic: bool) -> None:
    """Raw light and smoothed bold, on the axis's own scale; a few points are drawn as they are."""
    if len(loss.steps) < 10:
        _plot(ax, loss, color=TRAIN, linewidth=2, marker="o", markersize=5, label="training")
        return
    span = min(max(len(loss.steps) / 15, 3), 1000)
    _plot(ax, loss, color=TRAIN, linewidth=0.9, alpha=0.3, label="training, each step")
    _plot(ax, smooth(loss, span, logarithmic=logarithmic), color=TRAIN, linewidth=2.2, label="training, smoothed")


def _draw_comparison(figure: Figure, story: _Story) -> None:
    validation = column(story.evals, "validation_loss")
    if not validation.steps:
        ax = figure.subplots()
        _draw_loss(ax, story)
        ax.text(0.5, 0.9, "no validation in this run", transform=ax.transAxes, ha="center", fontsize=14, color=_FAINT)
        _finish(figure, ax, ax, story)
        return
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.2])
    train = mean_between(story.train, validation.steps)
    upper.fill_between(validation.steps, train.values, validation.values, color=_VALIDATION, alpha=0.13, linewidth=0)
    dots = "o" if len(validation.steps) <= _MOST_DOTS else None
    _plot(upper, train, color=TRAIN, linewidth=2, marker=dots, label="training, mean since the previous validation")
    _plot(upper, validation, color=_VALIDATION, linewidth=2, marker=dots, label="validation")
    _mark_best(upper, story.evals)
    if needs_log_scale(train.finite + validation.finite):
        _use_log_scale(upper)
    upper.set_ylabel("loss (nats per token)")
    _mark_nonfinite(upper, story.bad_loss_steps, "loss")
    _legend(upper)
    gaps = [own - other for own, other in zip(validation.values, train.values, strict=True)]
    spread = validation.steps[-1] - validation.steps[0]
    width = min(0.55 * smallest_distance(validation.steps), max(0.06 * spread, 0.1))
    lower.bar(validation.steps, gaps, width=width, color=OTHER, alpha=0.75)
    lower.axhline(0, color="#9A9A9A", linewidth=0.9)
    lower.set_ylabel("gap\n(validation - training)")
    _finish(figure, upper, lower, story)


def _draw_schedule(figure: Figure, story: _Story) -> None:
    from matplotlib.ticker import FuncFormatter

    rate = column(story.train, "learning_rate")
    ax = figure.subplots()
    _plot(ax, rate, color=TRAIN, linewidth=2.4, marker="o" if len(rate.steps) == 1 else None)
    ax.set_ylabel("learning rate")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_rate(value)))
    ax.margins(y=0.12)
    ax.set_ylim(bottom=0)
    if not rate.finite:
        ax.set_yticks([])
    else:
        peak = max(rate.finite)
        step = rate.steps[rate.values.index(peak)]
        ax.plot(step, peak, marker="o", markersize=7, color=BEST, zorder=4)
        text = f"peak {short_rate(peak)} at step {step:,}, last {short_rate(rate.finite[-1])}"
        ax.annotate(text, (step, peak), (8, 7), textcoords="offset points", color=INK)
    _finish(figure, ax, ax, story)


def short_rate(value: float) -> str:
    """A learning rate in few characters: short_rate(0.0002) -> "2e-4"."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def _plot(ax: Axes, series: Series, **look: object) -> None:
    if not series.finite:
        return
    thinned = thin(series, _MOST_POINTS)
    ax.plot(thinned.steps, thinned.values, **look)  # type: ignore[arg-type]


def _mark_best(ax: Axes, evals: Sequence[Line]) -> None:
    best = best_validation(evals)
    if best is None:
        return
    loss, step = best["validation_loss"], best["step"]
    label = f"best: {loss:.4g} at step {step:,}"
    ax.plot(step, loss, "*", markersize=17, color=BEST, markeredgecolor="white", zorder=5, label=label)


def _mark_nonfinite(ax: Axes, steps: Sequence[int], what: str) -> None:
    """Red crosses on the floor of the panel, a line at the first, and the alarm in words."""
    if not steps:
        return
    floor = ax.get_xaxis_transform()
    shown = steps[:: math.ceil(len(steps) / _MOST_POINTS)]
    crosses = ax.plot(shown, [0.03] * len(shown), "x", transform=floor, color=ALARM, zorder=6, clip_on=False)
    crosses[0].set(markersize=8, markeredgewidth=2)
    ax.axvline(steps[0], color=ALARM, linewidth=1.2, linestyle="--", zorder=3)
    count = "1 step" if len(steps) == 1 else f"{len(steps):,} steps, first"
    alarm = f"{what} not finite at {count} {steps[0]:,}"
    ax.set_title(alarm, loc="right", color=ALARM, fontsize=11, fontweight="bold")


def _use_log_scale(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper right")


def _between(first: tuple[int, float], last: tuple[int, float]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The line through two points, each (step, epoch), and its inverse. A run on a base may begin within an epoch."""
    (start, before), (end, after) = first, last
    ratio = (after - before) / (end - start)
    return (lambda step: before + (step - start) * ratio), (lambda epoch: start + (epoch - before) / ratio)


def _finish(figure: Figure, top: Axes, bottom: Axes, story: _Story) -> None:
    """Subtitle, the axis of steps, and below it the epochs."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    top.set_title(story.subtitle, loc="left", fontsize=10.5, color=_FAINT, parse_math=False)
    bottom.set_xlabel("optimizer step")
    bottom.margins(x=0.02)
    bottom.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    steps = [line["step"] for line in (*story.train, *story.evals)]
    if not steps:
        top.text(0.5, 0.5, "nothing logged yet", transform=top.transAxes, ha="center", fontsize=14, color=_FAINT)
    if len(set(steps)) <= 1:
        bottom.set_xlim(max(steps, default=1) - 1, max(steps, default=1) + 1)
    figure.align_ylabels()
    passes = [(line["step"], line["epoch"]) for line in story.train if line.get("epoch")]
    if len(passes) > 1 and passes[-1][1] > passes[0][1]:
        to_epoch, to_step = _between(passes[0], passes[-1])
        epochs = bottom.secondary_xaxis("bottom", functions=(to_epoch, to_step))
        epochs.spines["bottom"].set_position(("outward", 40))
        epochs.spines["bottom"].set_visible(False)
        epochs.tick_params(length=0)
        epochs.set_xlabel("epoch")
