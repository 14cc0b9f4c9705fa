"""Metrics lines as series that can be drawn: columns, smoothing, thinning, averages. Knows nothing of figures.

A missing or non-finite value is NaN in a series: drawn as a gap, and never bridged by smoothing or thinning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tunesmith.runs.metrics import Line


@dataclass(frozen=True, slots=True)
class Series:
    """Values by optimizer step, in order."""

    steps: list[int]
    values: list[float]

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]


def column(lines: Sequence[Line], name: str) -> Series:
    """One named value of each line that has it or says that it was not finite."""
    kept = [line for line in lines if name in line]
    values = [math.nan if line[name] is None else float(line[name]) for line in kept]
    return Series([line["step"] for line in kept], values)


def columns_under(lines: Sequence[Line], prefix: str) -> dict[str, Series]:
    """The columns whose names begin with `prefix`, by the rest of their names, in order of appearance."""
    names = dict.fromkeys(name for line in lines for name in line if name.startswith(prefix))
    return {name.removeprefix(prefix): column(lines, name) for name in names}


def nonfinite_steps(lines: Sequence[Line], name: str) -> list[int]:
    """Steps at which `name` was NaN or infinite."""
    return [line["step"] for line in lines if name in line.get("nonfinite", ())]


def smooth(series: Series, span: float, *, logarithmic: bool = False) -> Series:
    """Exponential moving average with alpha = 2 / (span + 1), unbiased at its start as in Adam, anew after each gap.

    `logarithmic` averages the logarithms of values that are all above zero: on a log axis one spike does not then rule
    the many steps after it. Source: Kingma and Ba 2015 (arXiv 1412.6980), section 3.

    smooth([1, 1, nan, 5], any span) -> [1, 1, nan, 5]
    """
    keep = 1 - 2 / (span + 1)
    average = weight = 0.0
    smoothed: list[float] = []
    for value in series.values:
        if math.isfinite(value):
            average = keep * average + (1 - keep) * (math.log(value) if logarithmic else value)
            weight = keep * weight + (1 - keep)
            smoothed.append(math.exp(average / weight) if logarithmic else average / weight)
        else:
            average = weight = 0.0
            smoothed.append(math.nan)
    return Series(series.steps, smoothed)


def thin(series: Series, limit: int) -> Series:
    """About `limit` points: of each stretch its lowest, its highest and a gap if it has one, so no spike is lost."""
    count = len(series.steps)
    if count <= limit:
        return series
    width = math.ceil(3 * count / limit)
    kept: list[int] = []
    for start in range(0, count, width):
        stretch = range(start, min(start + width, count))
        finite = [index for index in stretch if math.isfinite(series.values[index])]
        gaps = [index for index in stretch if not math.isfinite(series.values[index])]
        ranked = sorted(finite, key=series.values.__getitem__)
        kept += sorted({*ranked[:1], *ranked[-1:], *gaps[:1]})
    return Series([series.steps[index] for index in kept], [series.values[index] for index in kept])


def mean_between(train: Sequence[Line], boundaries: Sequence[int]) -> Series:
    """Training loss up to each boundary step since the one before, weighted by tokens; NaN where there was none."""
    means: list[float] = []
    position = 0
    for boundary in boundaries:
        total = tokens = 0.0
        while position < len(train) and train[position]["step"] <= boundary:
            line = train[position]
            position += 1
            if "loss" in line:
                weight = line.get("tokens") or 1
                total += weight * (math.nan if line["loss"] is None else line["loss"])
                tokens += weight
        means.append(total / tokens if tokens else math.nan)
    return Series(list(boundaries), means)


def needs_log_scale(values: Sequence[float]) -> bool:
    """Whether the highest value would press the usual ones flat: more than 20 times the median, all above zero."""
    return len(values) > 2 and min(values) > 0 and max(values) > 20 * sorted(values)[len(values) // 2]


def smallest_distance(steps: Sequence[int]) -> int:
    """Between neighbours; 1 for fewer than two steps."""
    return max(1, min((after - before for before, after in pairwise(steps)), default=1))
