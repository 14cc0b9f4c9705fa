"""Open an .xls or .ods workbook in a process of its own first: its parser may end the process that it runs in.

The guard of .xlsx measures XML before the parser sees it. Here the parser itself is the measure: it allocates every
cell between the first and the last used one, and aborts when it cannot. This file is the child as well (`python
trial.py`, the workbook on standard input); it answers with the cells of the largest sheet.
"""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from contextlib import suppress

import python_calamine as calamine

MEMORY_BYTES = 2 * 2**30  # of the child, where the system keeps such limits (macOS does not)
TIMEOUT_SECONDS = 60


def largest_sheet(content: bytes) -> int:
    """Cells of the largest sheet, empty ones between the first and the last used included; 0 of a damaged workbook.

    Raises:
        calamine.CalamineError: the parser took too much memory or time, or ended the child.
    """
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise calamine.CalamineError(f"reading it took more than {TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise calamine.CalamineError(f"reading it failed or took more than {MEMORY_BYTES >> 30} GiB")
    return int(done.stdout)


def _limit_memory() -> None:
    with suppress(ValueError, OSError):  # macOS takes no such limit; elsewhere there may be a lower one already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main() -> None:
    """The child."""
    _limit_memory()
    largest = 0
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(sys.stdin.buffer.read()))
        for name in book.sheet_names:
            sheet = book.get_sheet_by_name(name)
            if sheet.start is not None and sheet.end is not None:
                (top, left), (bottom, right) = sheet.start, sheet.end
                largest = max(largest, (bottom - top + 1) * (right - left + 1))
    except calamine.CalamineError:
        pass  # the parent meets the same error and tells it
    sys.stdout.write(str(largest))


if __name__ == "__main__":
    main()
