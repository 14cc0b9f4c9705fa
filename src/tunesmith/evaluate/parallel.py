"""Several calls that wait for somebody else, at once. Knows nothing of servers and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_any_order(call: Callable[[T], R], items: Sequence[T], at_once: int) -> Iterator[tuple[T, R]]:
    """Each item with what the call gave for it, as soon as it did; at most `at_once` calls run at a time.

    After an error no call is begun; those that run are waited for and given out, and then it is raised.
    """
    waiting: Iterator[T] = iter(items)
    lock = threading.Lock()
    ends: SimpleQueue[tuple[T, R] | BaseException | None] = SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            while not stopped.is_set():
                with lock:
                    item = next(waiting, _NOTHING)
                if item is _NOTHING:
                    break
                ends.put((item, call(item)))  # type: ignore[arg-type]
        except BaseException as error:  # whatever it is, it is raised where the results are taken
            stopped.set()
            ends.put(error)
        ends.put(None)

    # Daemons: who stops the program does not wait for a server. A pool's threads would be joined at its end.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(items)))]
    for thread in threads:
        thread.start()
    first: BaseException | None = None
    running = len(threads)
    try:
        while running:
            end = ends.get()
            if end is None:
                running -= 1
            elif isinstance(end, BaseException):
                first = first or end
            else:
                yield end
    finally:
        stopped.set()
    if first is not None:
        raise first


_NOTHING = object()
