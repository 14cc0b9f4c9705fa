"""What stands in the place of a function in the processes of tests/warm.py: test_planted_runs.py says of which."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.runs.atomic import disk_errors
from tunesmith.train.checkpoint import Checkpoints
from tunesmith.train.signals import StopRequest

_write = Checkpoints._write


def does_nothing(*arguments: object, **options: object) -> None:
    pass


@contextmanager
def in_place(path: Path) -> Iterator[Path]:
    """A folder that is filled under its final name."""
    with disk_errors(path):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        yield path


def oldest_first(checkpoints: Checkpoints, *arguments: Any) -> Path:
    """Old checkpoints go before the new one is written."""
    for folder in checkpoints.list():
        shutil.rmtree(folder)
    return _write(checkpoints, *arguments)


@contextmanager
def never_stops() -> Iterator[StopRequest]:
    """Signals end the process wherever it is, as they do without a handler of the run."""
    yield StopRequest()


@contextmanager
def stops_in_its_own_time() -> Iterator[StopRequest]:
    """Signals are heard, and a second one changes nothing."""
    request = StopRequest()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: setattr(request, "signal_number", number))
    yield request
