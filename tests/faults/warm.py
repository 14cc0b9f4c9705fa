"""A process that has imported everything and forks a child for each command line it is told on standard input.

A fault test starts hundreds of runs; importing torch in each would take longer than all the rest. The parent only
forks, so a child is as good as a fresh process. In: one line of JSON with arguments, folder and output; out:
{"pid": ...}. In: an empty line; out, when the child has ended: {"code": ...} (negative: the signal that killed it).
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    import matplotlib.figure
    import peft
    import torch
    import transformers.models.llama.modeling_llama

    import tunesmith.api
    import tunesmith.cli.progress
    import tunesmith.cli.report

    _ = matplotlib.figure, peft, transformers.models.llama.modeling_llama, tunesmith.api
    torch.set_num_threads(1)
    # ignored where a shell began the tests in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answer({"ready": True})
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            os._exit(run(json.loads(line)))
        answer({"pid": child})
        sys.stdin.readline()  # until then an ended child stays a zombie, whose number nobody else gets
        answer({"code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


def answer(content: dict[str, object]) -> None:
    print(json.dumps(content), flush=True)


def run(request: dict[str, Any]) -> int:
    """What the child does: the command line in a folder, its output in a file."""
    from tunesmith.cli import main as command

    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (0, 1, 2):
        os.dup2(output if stream else os.open(os.devnull, os.O_RDONLY), stream)
    if request.get("hook"):
        plant(**request["hook"])
    if request.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    try:
        code = command(request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, repr(error).encode())
        return 99
    return code


def plant(module: str, name: str, call: int, signals: list[int] | None = None, fill: str | None = None) -> None:
    """Before the `call`-th call of a function, this process gets `signals`, or a disk is filled by the file `fill`."""
    holder = importlib.import_module(module)
    real = getattr(holder, name)
    calls = 0

    def hooked(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            for number in signals or ():
                signal.raise_signal(number)
            if fill:
                fill_up(Path(fill))
        return real(*arguments, **options)

    setattr(holder, name, hooked)


def fill_up(path: Path) -> None:
    """Write until the disk is full."""
    for size in (65536, 4096, 512):
        with path.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


if __name__ == "__main__":
    main()
