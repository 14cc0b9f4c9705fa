"""SIGINT, SIGTERM and SIGHUP become a request that the loop answers at the next step boundary."""

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
    """Catch SIGINT, SIGTERM and SIGHUP. The second SIGINT or SIGTERM raises KeyboardInterrupt, a third acts as usual.

    SIGHUP is sent when the terminal is gone, as where a connection broke, by the kernel and again by the shell. Where
    it is ignored already (nohup), it stays so. Outside the main thread (a notebook's worker, say) signals cannot be
    caught and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if previous[signal.SIGHUP] == signal.SIG_IGN:
        del previous[signal.SIGHUP]

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and request.is_asked:
            return
        is_second = request.is_asked
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
