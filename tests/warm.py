"""A process that has imported everything and forks the children of a command line: one, or N that torchrun would start.

Tests of faults and of several processes start hundreds of runs; importing torch in each would take longer than all the
rest. The parent only forks, so a child is as good as a fresh process.

In: {arguments, folder, output, world, faults, file_bytes} as a line of JSON. Out: {"pids": [...]}. In: an empty line;
until then an ended child stays a zombie, whose number nobody else gets. Out: {"codes": [...]}, an exit code for each
rank, negative for the signal that killed it. The output of rank r is in the file `output`.r.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

_LONGEST_SECONDS = 180
_ERRORS = {"memory": MemoryError(), "disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))}


def main() -> None:
    """Serve until standard input ends."""
    import faults.fault_defects
    import matplotlib.figure
    import peft
    import torch
    import torch.distributed.fsdp
    import transformers.models.llama.modeling_llama
    from shortcuts import draw_only, stay_in_memory

    import tunesmith.api
    import tunesmith.cli.app
    import tunesmith.cli.progress
    import tunesmith.cli.report
    import tunesmith.train
    from tunesmith.runs import plots

    plots.render, os.fsync = draw_only, stay_in_memory
    _ = faults.fault_defects, matplotlib.figure, peft, transformers.models.llama.modeling_llama, tunesmith.api
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # else every child would look through all that was imported
    # ignored where a shell began the tests in its background, or under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    answer({"codes": []})
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        children = [start(request, rank, port) for rank in range(request["world"])]
        answer({"pids": children})
        sys.stdin.readline()
        answer({"codes": [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]})


def answer(content: dict[str, object]) -> None:
    print(json.dumps(content), flush=True)


def start(request: dict[str, Any], rank: int, port: int) -> int:
    """Fork the child of a rank; returns its number."""
    child = os.fork()
    if child:
        return child
    if request["world"] > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request["world"], "MASTER_PORT": port}
        os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
        signal.alarm(_LONGEST_SECONDS)  # ends a child that waits for another one for ever
    try:
        code = run(request, rank)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, repr(error).encode())
        code = 99
    os._exit(code)


def run(request: dict[str, Any], rank: int) -> int:
    """The command line, in a folder, its output in a file."""
    from tunesmith.cli import main as command

    os.chdir(request["folder"])
    output = os.open(f"{request['output']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (0, 1, 2):
        os.dup2(output if stream else os.open(os.devnull, os.O_RDONLY), stream)
    for fault in request["faults"]:
        if fault.pop("rank", 0) == rank:
            plant(**fault)
    if request["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    return command(request["arguments"])


def plant(
    module: str,
    name: str,
    call: int = 0,
    *,
    becomes: str | None = None,
    signals: Sequence[int] = (),
    fill: str | None = None,
    raises: str | None = None,
    sets: Mapping[str, object] | None = None,
    nan: bool = False,
) -> None:
    """At the `call`-th call of a function, or at every one where it `becomes` another, of faults/fault_defects.py.

    Before it this process gets `signals`, or a disk is filled by the file `fill`; instead of it an error of _ERRORS is
    raised; or it is given other arguments, by their places, as `sets` has them; or what it returns is made NaN.
    """
    *path, name = name.split(".")
    holder = reduce(getattr, path, importlib.import_module(module))
    if becomes:
        setattr(holder, name, getattr(importlib.import_module("faults.fault_defects"), becomes))
        return
    real = getattr(holder, name)
    calls = 0

    def hooked(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return real(*arguments, **options)
        for number in signals:
            signal.raise_signal(number)
        if fill:
            fill_up(Path(fill))
        if raises:
            raise _ERRORS[raises]
        given = [(sets or {}).get(str(place), value) for place, value in enumerate(arguments)]
        result = real(*given, **options)
        return result * math.nan if nan else result

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
