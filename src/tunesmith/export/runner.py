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

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """(T, V) float32: for each position what follows it."""
        ...

    def answers(
        self, prompts: Sequence[Sequence[int]], *, limit: int, on_progress: Callable[[int, int], None]
    ) -> list[Answer]:
        """Greedy answers of at most `limit` tokens to prompts of token ids."""
        ...
