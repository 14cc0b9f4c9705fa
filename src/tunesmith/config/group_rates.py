"""train.learning_rates: how a group's rate is written. Knows no parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tunesmith.config.methods import is_pattern

_TIMES = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*x\s*")


def rate_factor(written: float | str, peak: float) -> float:
    """What the rate of the schedule is multiplied by for a group, `peak` being the highest of the schedule.

    >>> rate_factor("16x", 2e-4), rate_factor(1e-4, 2e-4)
    (16.0, 0.5)
    """
    times = _TIMES.fullmatch(written) if isinstance(written, str) else None
    return float(times[1]) if times else float(written) / peak


def rate_problems(rates: Mapping[str, float | str]) -> list[str]:
    """What of a mapping from groups to rates cannot be meant."""
    problems = []
    for group, written in rates.items():
        if isinstance(written, str):
            if not _TIMES.fullmatch(written):
                problems.append(f"{group}: {written!r} is no rate: write 1e-4, or 16x for 16 times the learning rate")
        elif not 0 <= written <= 1:
            problems.append(f"{group}: {written:g} is no rate: write 0 to 1, or {written:g}x times the learning rate")
        try:
            re.compile(group if is_pattern(group) else "")
        except re.error as error:
            problems.append(f"{group!r} is no regular expression: {error}")
    return problems
