"""metrics.jsonl, one JSON line a step, and what it adds up to. Does not know where the numbers come from.

Three kinds of line, told apart by `kind`; `step` is the optimizer step, counted from 1 (0 is before training):

train  loss (nats per supervised token), learning_rate, grad_norm, tokens (of this step), tokens_per_second,
       epoch (passes done, fractional), seconds (of computing since the run began, carried over a resume);
       skipped or spike is true, and message says why, where a step was left out or its loss stands out
eval   validation_loss (nats per supervised token), seconds, and what else was measured; of several tasks
       validation_loss/TASK of each
event  event (its name) and message: something that happened on the way to the step after `step`

JSON has no NaN: a value that is not finite is null and its name is in the list `nonfinite`, to be drawn and alarmed.
A line counts once its newline is written; what follows the last newline was torn off by a crash.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import DataError
from tunesmith.runs.atomic import atomic_write, disk_errors, sync_folder

Line = dict[str, Any]
Kind = Literal["train", "eval", "event"]
KINDS = ("train", "eval", "event")
TASK_LOSS = "validation_loss/"  # and the task: the name of its validation loss


@dataclass(frozen=True, slots=True)
class MetricsLog:
    """The log of one run. One writer; any number of readers, also while it is written."""

    path: Path

    def append(self, line: Mapping[str, object]) -> None:
        """Add one line with a single write, readable by others at once. NaN and infinities become null and a flag.

        Raises:
            ValueError: no `step` that counts, or an unknown `kind`.
            ResourceError: the disk is full, read-only, over quota or closed to us; the log is as before.
        """
        step = line.get("step")
        if not isinstance(step, int) or step < 0 or line.get("kind") not in KINDS:
            raise ValueError(f"a line has a step from 0 and a kind of {KINDS}, found {step!r} and {line.get('kind')!r}")
        nonfinite = [name for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)]
        content = {name: None if name in nonfinite else value for name, value in line.items()}
        if nonfinite:
            content["nonfinite"] = nonfinite
        data = memoryview(json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        with disk_errors(self.path, needed_bytes=len(data)), self.path.open("a+b", buffering=0) as file:
            start = _end_of_last_line(file)
            file.truncate(start)  # a tail torn by a crash would spoil this line too
            try:
                while data:  # one write, unless the disk fills up within the line
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(start)
                raise

    def sync(self) -> None:
        """Make all lines survive a power cut. To be called before a checkpoint that counts on them is completed."""
        if self.path.exists():
            with disk_errors(self.path), self.path.open("r+b") as file:
                os.fsync(file.fileno())
                sync_folder(self.path.parent)  # the file may be new

    def read(self, kind: Kind | None = None) -> list[Line]:
        """All whole lines, or those of one kind, in order. A torn last line is left out; no file is no lines.

        Raises:
            DataError: a line in the middle is damaged.
        """
        return [line for _, line in self._parsed(kind)]

    def last_step(self) -> int:
        """The step of the last train line, 0 when there is none."""
        for number, raw in reversed(list(enumerate(self._raw_lines(), start=1))):
            line = self._parse(number, raw)
            if line["kind"] == "train":
                return int(line["step"])
        return 0

    def truncate_after(self, step: int, *, validated: bool = True) -> None:
        """Drop what came after the checkpoint of `step`, and a torn tail, atomically: what resuming needs.

        Args:
            validated: whether the checkpoint knows of a validation after `step`; if not, that is made again.
        """
        if self.path.exists():
            at_step = ("train", "eval") if validated else ("train",)
            kept = [
                raw
                for raw, line in self._parsed(None)
                if line["step"] < step or (line["step"] == step and line["kind"] in at_step)
            ]
            atomic_write(self.path, b"".join(raw + b"\n" for raw in kept))

    def _raw_lines(self) -> list[bytes]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return data.split(b"\n")[:-1]

    def _parsed(self, kind: Kind | None) -> list[tuple[bytes, Line]]:
        # Most lines are train lines: looking for the word first makes reading the few others fast.
        mark = f'"{kind}"'.encode() if kind else b""
        numbered = enumerate(self._raw_lines(), start=1)
        pairs = [(raw, self._parse(number, raw)) for number, raw in numbered if mark in raw]
        return [(raw, line) for raw, line in pairs if kind in {None, line["kind"]}]

    def _parse(self, number: int, raw: bytes) -> Line:
        try:
            line = json.loads(raw)
            if isinstance(line["step"], int) and line["kind"] in KINDS:
                return dict(line)
        except (ValueError, KeyError, TypeError) as error:
            cause = str(error)
        else:
            cause = "it has no step, or an unknown kind"
        fix = "delete that line; its step will be missing"
        raise DataError(f"{self.path}:{number} is damaged", cause=cause, fix=fix)


def summarize(lines: Sequence[Line]) -> dict[str, object]:
    """What a log adds up to: final and best losses, steps, time and tokens. Values that do not exist are None.

    `seconds` counts evaluations too, `tokens_per_second` does not; `nonfinite_steps` had a NaN or an infinity.
    """
    train = [line for line in lines if line["kind"] == "train"]
    evals = [line for line in lines if line["kind"] == "eval"]
    best = best_validation(evals)
    best_train = min((line["loss"] for line in train if line.get("loss") is not None), default=None)
    timed = [line for line in train if line.get("tokens") and line.get("tokens_per_second")]
    tokens = sum(line.get("tokens") or 0 for line in train)
    training_seconds = sum(line["tokens"] / line["tokens_per_second"] for line in timed)
    return {
        "steps": train[-1]["step"] if train else 0,
        "epochs": train[-1].get("epoch") if train else None,
        "final_train_loss": train[-1].get("loss") if train else None,
        "best_train_loss": best_train,
        "final_validation_loss": evals[-1].get("validation_loss") if evals else None,
        "best_validation_loss": best["validation_loss"] if best else None,
        "best_step": best["step"] if best else None,
        "tokens": tokens,
        "seconds": max((line["seconds"] for line in lines if line.get("seconds") is not None), default=None),
        "tokens_per_second": sum(line["tokens"] for line in timed) / training_seconds if timed else None,
        "nonfinite_steps": sorted({line["step"] for line in lines if line.get("nonfinite")}),
    }


def best_validation(lines: Sequence[Line]) -> Line | None:
    """The eval line with the lowest finite validation loss, the earliest of equals."""
    measured = [line for line in lines if line.get("validation_loss") is not None]
    return min(measured, key=lambda line: (line["validation_loss"], line["step"]), default=None)


def _end_of_last_line(file: FileIO) -> int:
    """Offset in bytes after the last newline."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
