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


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM once; a second one acts as usual, so nobody is ever locked in.

    Outside the main thread (a notebook's worker, say) signals cannot be caught and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        for caught, handler in previous.items():
            signal.signal(caught, handler)

    for number in previous:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
