"""Every error a user can meet, in one tree, and what each says of a name that is not known. Imports nothing of ours.

TunesmithError                 exit 1   an internal fault, or any of:
├── SettingsError              exit 2   a setting, a flag or a name is wrong (all problems together)
├── DataError                  exit 3   the data cannot be used as they are
├── TrainingError              exit 3   the run produced something unusable (NaN, divergence)
├── ResourceError              exit 4   a model, device, disk or package that is not there
├── Stopped                    exit 5   stopped early, resumable (129 / 130 / 143 when a signal asked for it)
└── GateFailed                 exit 100 a quality gate said no
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunesmithError(Exception):
    """What happened, why, and what to change. Shown to the user without a traceback.

    Args:
        message: one sentence: what was found and what was allowed.
        cause: where it comes from (file, row, column, the library's own words), if that adds something.
        fix: what the user should change or run.

    `is_told`: another process of the same run says it, so this one need not.
    """

    exit_code = 1
    is_told = False

    def __init__(self, message: str, *, cause: str | None = None, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.message]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class SettingsError(TunesmithError):
    """A setting, flag or name is wrong. `problems` holds each one when there are several."""

    exit_code = 2

    def __init__(
        self, message: str, *, cause: str | None = None, fix: str | None = None, problems: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, cause=cause, fix=fix)
        self.problems = problems

    def __str__(self) -> str:
        if not self.problems:
            return super().__str__()
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        return "\n".join([*lines, f"  fix:   {self.fix}"] if self.fix else lines)


class DataError(TunesmithError):
    """The data cannot be used: missing file, unreadable bytes, wrong column, nothing trainable left."""

    exit_code = 3


class TrainingError(TunesmithError):
    """Training produced a value that must not be saved: a NaN or infinite loss, or a diverging run."""

    exit_code = 3


class ResourceError(TunesmithError):
    """Something the run needs is not here: a model, a device, disk space, an optional package."""

    exit_code = 4


class Stopped(TunesmithError):
    """Training stopped before its end and can be resumed. A signal sets its own exit code (128 + number)."""

    exit_code = 5

    def __init__(self, message: str, *, fix: str | None = None, signal_number: int | None = None) -> None:
        super().__init__(message, fix=fix)
        if signal_number is not None:
            self.exit_code = 128 + signal_number


class GateFailed(TunesmithError):
    """A quality gate (a required score, a verified export) was not met."""

    exit_code = 100


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends what Ctrl-C ends, and also what goes on after a Ctrl-C, such as a chat."""


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """', did you mean ...?' where a known name is near, whatever its case; else nothing.

    Args:
        cutoff: how near, 1 being the same name (difflib).

    >>> did_you_mean("Lroa", ["full", "lora"]), did_you_mean("x", ["full", "lora"])
    (", did you mean 'lora'?", '')
    """
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return f", did you mean {by_lower[close[0]]!r}?" if close else ""
