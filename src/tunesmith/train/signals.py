"""SIGINT and SIGTERM become a request that the loop answers at the next step boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """`signal_number` is None until a signal asks the run to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal has asked this process."""
        return self.signal_number is not None


class PutOff(Exception):
    """A validation was left before its end because a signal asks the run to stop; the resumed run makes it anew."""


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM once; a second one raises KeyboardInterrupt, a third acts as usual.

    Outside the main thread (a notebook's worker, say) signals cannot be caught and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        is_second = request.signal_number is not None
        request.signal_number = number
        if is_second:
            restore()
            raise KeyboardInterrupt

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
