"""Standard input, output and error as they are found: closed from the start, left by their reader, short of letters.

Knows nothing of what is written. Data that cannot be delivered end a command; messages that cannot, do not.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def open_streams() -> None:
    """All three can be used afterwards.

    One that is closed from the start (`>&-`) leads nowhere: left closed, its number would go to the first file opened.
    What the encoding of standard output cannot write is written as \\uXXXX, as on standard error, not refused.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def give_up(stream: TextIO) -> None:
    """Nothing more can be written there: from now on it leads nowhere, else Python complains while it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def live(stream: TextIO) -> bool:
    """Whether colour and movement may be written to it: never in a pipe, with NO_COLOR (no-color.org) or TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def unread() -> Iterator[None]:
    """Inside, standard error that takes no more messages is no error: what is being made has to be finished.

    Its reader is gone (`2>&1 | head`), its terminal is, or the disk that a log is written to is full.
    """
    try:
        yield
    except OSError:
        give_up(sys.stderr)
