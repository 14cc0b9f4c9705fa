"""What both sides of a verification can do: the trained model in Python, and what was exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy answer: its tokens without the one that ended it, its text, and whether it ended by itself."""

    token_ids: tuple[int, ...]
    text: str
    ended: bool


class Runner(Protocol):
    """A model that computes."""

    @property
    def positions(self) -> int | None:
        """Positions that it can be asked about in a reasonable time; None for all there are."""
        ...

    def logits(self, ids: Sequence[int], at: Sequence[int] | None = None) -> NDArray[np.float32]:
        """(P, V) float32: what follows each of the positions `at`, or every one; up to a constant for each."""
        ...

    def answers(
        self, prompts: Sequence[Sequence[int]], *, limit: int, on_progress: Callable[[int, int], None]
    ) -> list[Answer]:
        """Greedy answers of at most `limit` tokens to prompts of token ids."""
        ...


def in_turn(
    prompts: Sequence[Sequence[int]],
    answer: Callable[[Sequence[int]], Answer],
    on_progress: Callable[[int, int], None],
) -> list[Answer]:
    """The answers of a runner that writes one after the other."""
    found = []
    for done, prompt in enumerate(prompts, start=1):
        found.append(answer(prompt))
        on_progress(done, len(prompts))
    return found
