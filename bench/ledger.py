"""Finished measurements, a line each in a file: a stopped benchmark goes on where it was. Imports nothing heavy.

The program that starts measurements must stay small: Linux counts its memory into the peak of a child (`worker.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "bench"
# what every measurement depends on
PACKAGE = ("src/tunesmith/**/*.py", "src/tunesmith/**/*.cpp", "src/tunesmith/**/*.h")

Found = dict[str, Any]


class Ledger:
    """What was found for each job, a plain mapping, by one version of the code."""

    def __init__(self, path: Path, code: str) -> None:
        self.path, self.code = path, code
        path.parent.mkdir(parents=True, exist_ok=True)
        self._found: dict[str, Found] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                entry = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if entry["code"] == code:
                self._found[_key(entry["job"])] = entry["found"]

    def find(self, job: Mapping[str, Any]) -> Found | None:
        """What was found for the job; None when it is still to be measured."""
        return self._found.get(_key(job))

    def add(self, job: Mapping[str, Any], found: Found) -> Found:
        """Write it down, and return it."""
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"code": self.code, "job": job, "found": found}) + "\n")
        self._found[_key(job)] = found
        return found


def _key(job: Mapping[str, Any]) -> str:
    return json.dumps(job, sort_keys=True)


def measured_apart(module: str, words: list[str], folder: Path, **environment: str) -> Found:
    """What `python -m MODULE WORDS OUTPUT` writes to OUTPUT, a file in `folder`; {"error": ...} when it fails."""
    output = folder / "output.json"
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, *words, str(output)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "cache"),  # datasets keeps copies of what it was given
            "TOKENIZERS_PARALLELISM": "false",
            **environment,
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode or not output.is_file():
        last = (done.stderr.strip().splitlines() or [f"ended with exit status {done.returncode}"])[-1]
        return {"error": last}
    found: Found = json.loads(output.read_text(encoding="utf-8"))
    return found


def code_digest(*patterns: str) -> str:
    """Of the files of the repository that a measurement depends on, of the environment and its number of threads."""
    digest = hashlib.sha256(f"{sys.prefix} {os.environ.get('OMP_NUM_THREADS')}".encode())
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
