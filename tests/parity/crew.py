"""A process that has imported everything and forks N children that train together, as torchrun would start them.

In: {arguments, folder, output, world, rank, faults} as a line of JSON. Out: {"codes": [...]}, an exit code for each
rank, negative for the signal that killed it. The output of rank r is in the file `output`.r.
"""

from __future__ import annotations

import errno
import importlib
import json
import math
import os
import signal
import socket
import sys
from typing import Any

_LONGEST_SECONDS = 180


def main() -> None:
    """Serve until standard input ends."""
    import matplotlib.figure
    import peft
    import torch
    import torch.distributed.fsdp
    import transformers.models.llama.modeling_llama

    import tunesmith.api
    import tunesmith.cli.progress
    import tunesmith.cli.report
    import tunesmith.train

    _ = matplotlib.figure, peft, transformers.models.llama.modeling_llama, tunesmith.api
    torch.set_num_threads(1)
    print(json.dumps({"codes": []}), flush=True)
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        children = [start(request, rank, port) for rank in range(request["world"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps({"codes": codes}), flush=True)


def start(request: dict[str, Any], rank: int, port: int) -> int:
    """Fork the child of a rank; returns its number."""
    child = os.fork()
    if child:
        return child
    if request["world"] > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request["world"], "MASTER_PORT": port}
        os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
    code = 99
    signal.alarm(_LONGEST_SECONDS)  # ends a child that waits for another one for ever
    try:
        code = run(request, rank)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(request: dict[str, Any], rank: int) -> int:
    """The command line, in a folder, its output in a file."""
    from tunesmith.cli import main as command

    os.chdir(request["folder"])
    output = os.open(f"{request['output']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (0, 1, 2):
        os.dup2(output if stream else os.open(os.devnull, os.O_RDONLY), stream)
    for fault in request["faults"]:
        if fault["rank"] == rank:
            plant(fault["what"], *fault["where"].split(":"), call=fault["call"])
    return command(request["arguments"])


def plant(what: str, module: str, name: str, *, call: int) -> None:
    """At the `call`-th call of a function: a signal's number, "memory", "disk" or "nan" (the result is)."""
    holder = importlib.import_module(module)
    real = getattr(holder, name)
    calls = 0

    def hooked(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and what.isdigit():
            signal.raise_signal(int(what))
        if calls == call and what == "memory":
            raise MemoryError
        if calls == call and what == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        result = real(*arguments, **options)
        return result * math.nan if calls == call and what == "nan" else result

    setattr(holder, name, hooked)


if __name__ == "__main__":
    main()
