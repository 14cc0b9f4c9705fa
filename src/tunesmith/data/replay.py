"""Old rows for a run that goes on from another: an even sample of all there were, and which of them each step sees.

Knows no file: whoever owns the run directory writes the text of a buffer and reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.order import StepPlan
from tunesmith.types import Example, Message


@dataclass(frozen=True, slots=True)
class KeptRow:
    """An example, and the run that was trained on it first."""

    run: str
    example: Example


@dataclass(frozen=True, slots=True)
class ReplayBuffer:
    """At most `capacity` of the `seen` training rows of a run and of those it goes on from, each as likely as any."""

    capacity: int
    seen: int = 0
    rows: tuple[KeptRow, ...] = ()

    def after(self, examples: Iterable[Example], *, run: str, seed: int) -> ReplayBuffer:
        """The buffer after more rows went by, which is that of one long stream.

        Algorithm R (Vitter 1985, "Random sampling with a reservoir", ACM TOMS 11(1)): row number n of the stream comes
        in with probability capacity / n, in the place of any row.
        """
        draw = np.random.default_rng([seed, self.seen])
        rows, seen = list(self.rows), self.seen
        for example in examples:
            seen += 1
            place = len(rows) if len(rows) < self.capacity else int(draw.integers(seen))
            if place < self.capacity:
                rows[place : place + 1] = [KeptRow(run, example)]
        return ReplayBuffer(self.capacity, seen, tuple(rows))

    def of_capacity(self, capacity: int, *, seed: int) -> ReplayBuffer:
        """The same sample for fewer rows, or for more where nothing has been dropped yet.

        Raises:
            ValueError: it would have to hold rows that are gone.
        """
        if capacity > self.capacity and self.seen > len(self.rows):
            raise ValueError(f"{self.seen - len(self.rows)} of {self.seen} rows are gone")
        if capacity >= len(self.rows):
            return ReplayBuffer(capacity, self.seen, self.rows)
        kept = np.random.default_rng([seed, self.seen, capacity]).choice(len(self.rows), capacity, replace=False)
        return ReplayBuffer(capacity, self.seen, tuple(self.rows[index] for index in sorted(kept)))

    def to_text(self) -> str:
        """A JSON line for each row: run, row, sheet, and messages or text. It can be read as a training file too."""
        return "".join(json.dumps(_to_json(kept), ensure_ascii=False) + "\n" for kept in self.rows)

    @classmethod
    def from_text(cls, text: str, *, capacity: int, seen: int) -> ReplayBuffer:
        """Read `to_text()` back.

        Raises:
            ValueError, KeyError, TypeError: it is not that.
        """
        # not splitlines(): a text may hold other characters that it takes for the end of a line
        return cls(capacity, seen, tuple(_from_json(line) for line in text.split("\n") if line))

    @property
    def facts(self) -> dict[str, object]:
        """What the manifest of the run says of it."""
        digest = hashlib.sha256(self.to_text().encode()).hexdigest()
        return {"capacity": self.capacity, "seen": self.seen, "rows": len(self.rows), "sha256": digest}


def _to_json(kept: KeptRow) -> dict[str, object]:
    example = kept.example
    place = {"run": kept.run, "row": example.row, "sheet": example.sheet}
    if example.text is not None:
        return {**place, "text": example.text}
    return {**place, "messages": [asdict(message) for message in example.messages]}


def _from_json(line: str) -> KeptRow:
    content = json.loads(line)
    messages = tuple(Message(**message) for message in content.get("messages", ()))
    return KeptRow(content["run"], Example(messages, content.get("text"), content["row"], content["sheet"]))


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Each step sees the new rows it would see anyway, and old ones on top: `share` of all rows so far.

    The old rows, `old` of them, come after the new ones in the sequence that is indexed. They are gone through in a
    random order, then in another one. A pure function of the step, as the plan of the new rows is.
    """

    new: StepPlan
    old: int
    share: float

    @property
    def total_steps(self) -> int:
        return self.new.total_steps

    @property
    def seed(self) -> int:
        return self.new.seed

    @property
    def rows_per_step(self) -> int:
        """The most there are in a step."""
        return self.new.rows_per_step + int(np.ceil(self.new.rows_per_step * self.share / (1 - self.share)))

    def epoch_at(self, step: int) -> float:
        """Passes over the new rows completed after `step` steps."""
        return self.new.epoch_at(step)

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """Indices of the rows of step `step`, counted from 0: new ones, then old ones from `new.rows` on."""
        positions = range(self._old_before(step), self._old_before(step + 1))
        order = [_order(self.new.seed, self.old, position // self.old)[position % self.old] for position in positions]
        return np.concatenate([self.new.rows_of(step), self.new.rows + np.array(order, dtype=np.int64)])

    def _old_before(self, step: int) -> int:
        """Old rows of all steps before `step`."""
        new = round(self.new.epoch_at(step) * self.new.rows)
        return int(new * self.share / (1 - self.share) + 1e-9)


RowPlan = StepPlan | ReplayPlan


@lru_cache(maxsize=4)
def _order(seed: int, rows: int, number: int) -> NDArray[np.int64]:
    """(rows,) the `number`-th order of the old rows."""
    return np.random.default_rng([seed, number, rows]).permutation(rows)
