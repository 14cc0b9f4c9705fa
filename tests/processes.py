"""Processes that tests start: what they inherit, and a crew of warm ones for command lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tunesmith


def environment(**changes: str) -> dict[str, str]:
    """This process's, from which the package under test is imported, installed or not, and computes on one thread."""
    source = str(Path(tunesmith.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


@dataclass
class Crew:
    """Runs command lines in children of one warm process (warm.py), on any number of them."""

    process: subprocess.Popen[str]
    output: Path

    def run(
        self,
        folder: Path,
        *arguments: str,
        world: int = 1,
        faults: Sequence[Mapping[str, object]] = (),
        file_bytes: int | None = None,
        meanwhile: Callable[[int], None] = lambda pid: None,
    ) -> list[int]:
        """Exit code of each process, negative for the signal that killed it.

        faults: what warm.plant is told, and the rank that it happens to. file_bytes: no file may grow larger.
        meanwhile: called with the number of the first process as soon as it was started.
        """
        request = {
            **{"folder": str(folder), "output": str(self.output), "arguments": arguments},
            **{"world": world, "faults": faults, "file_bytes": file_bytes},
        }
        meanwhile(self._ask(json.dumps(request))["pids"][0])
        codes: list[int] = self._ask("")["codes"]
        return codes

    def said(self, rank: int) -> str:
        """What the process of a rank wrote to its terminal in the last run."""
        return Path(f"{self.output}.{rank}").read_text(errors="replace")

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()


@contextmanager
def crew_at_work(output: Path) -> Iterator[Crew]:
    """A crew that writes what its processes say to files beside `output`."""
    program = [sys.executable, str(Path(__file__).with_name("warm.py"))]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
    with process:
        crew = Crew(process, output)
        assert crew.answer() == {"codes": []}
        yield crew
        assert process.stdin is not None
        process.stdin.close()
