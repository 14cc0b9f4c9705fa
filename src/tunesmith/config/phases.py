"""Phases of the learning rate, as a user writes them, and what can be wrong with a list of them.

Rules about numbers are checked here and not by limits of the fields, so that all problems of a list are told together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer


class Phase(BaseModel):
    """A part of the run in which the rate goes from `start` to `end`. Written {name, until, shape, from, to, warmup}.

    until: share of the run at which it ends, 1.0 for the last. warmup: share of the phase in which the rate first
    rises from nothing to `start`, in a line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    until: float
    shape: Literal["linear", "cosine", "exponential", "constant"] = "linear"
    start: float = Field(alias="from")
    to: float | None = None
    warmup: float = 0.0

    @property
    def end(self) -> float:
        """The rate it ends with; a constant phase need not say it."""
        return self.start if self.to is None else self.to

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {
            **{"name": self.name, "until": self.until, "shape": self.shape},
            **{"from": self.start, "to": self.to, "warmup": self.warmup},
        }


def highest_rate(phases: Sequence[Phase]) -> float:
    """The peak of the phases, which is what a run of them has for `train.learning_rate`."""
    return max(max(phase.start, phase.end) for phase in phases)


def phase_problems(phases: Sequence[Phase]) -> list[str]:
    """Everything that is wrong with the list, each with what to write instead."""
    titles = [f"phase {number} ({phase.name})" for number, phase in enumerate(phases, start=1)]
    problems = [f"{title} {problem}" for title, phase in zip(titles, phases, strict=True) for problem in _wrong(phase)]
    for (before, title), (earlier, later) in zip(pairwise(titles), pairwise(phases), strict=True):
        if later.until <= earlier.until:
            problems.append(
                f"{title} ends at {later.until:g}, and {before} before it at {earlier.until:g}: phases follow each "
                "other, so each needs a later `until` than the one before"
            )
    if phases and phases[-1].until < 1:
        problems.append(f"{titles[-1]} is the last and ends at {phases[-1].until:g}: its `until` must be 1.0")
    names = [phase.name for phase in phases]
    problems += [
        f"{names.count(name)} phases are called {name!r}: give each its own name"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    return problems


def _wrong(phase: Phase) -> list[str]:
    """What is wrong with one phase by itself."""
    problems = []
    if not 0 < phase.until <= 1:
        problems.append(
            f"ends at {phase.until:g}: `until` is a share of the run above 0 and at most 1.0 (step / all steps)"
        )
    if not 0 <= phase.warmup < 1:
        problems.append(f"warms up for {phase.warmup:g}: `warmup` is a share of the phase from 0 to below 1")
    for word, rate in (("from", phase.start), ("to", phase.end)):
        if not 0 <= rate <= 1:
            problems.append(f"has `{word}` {rate:g}: a learning rate is from 0 to 1")
        elif rate == 0 and phase.shape == "exponential":
            problems.append(f"is exponential, which never reaches 0: give `{word}` a rate above 0, or take linear")
    if phase.shape == "constant" and phase.end != phase.start:
        problems.append(
            f"is constant but goes from {phase.start:g} to {phase.end:g}: leave out `to`, or take another shape"
        )
    if phase.shape != "constant" and phase.to is None:
        problems.append(f"is {phase.shape} and has no `to`: give the rate that it ends with, or take constant")
    return problems
