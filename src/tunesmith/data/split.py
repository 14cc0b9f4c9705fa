"""Examples -> training, validation and test sides. The same question never stands on two sides.

Where rows have labels, each label is divided in the same shares, and one row of it at least is trained on.

A pure function of the examples' texts, the shares and the seed: neither the order of the rows nor Python's hash seed
matters, except that pieces of one document are kept in runs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.data.clean import question_key
from tunesmith.types import Example

SIDES = ("train", "validation", "test")
_RUNS_PER_DOCUMENT = 100  # consecutive pieces move together, so that the text of a side mostly reads on


@dataclass(frozen=True, slots=True)
class Split:
    """The three sides, each in the order of the source."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


def split(
    examples: Sequence[Example],
    *,
    train: float,
    validation: float,
    test: float,
    seed: int,
    continuous: bool = False,
    by_answer: bool = False,
) -> Split:
    """Divide by whole groups: examples that ask the same (`clean.question_key`), or runs of one document.

    Shares need not sum to 1; only their ratio counts. Sizes come within one group of their target. From three groups on
    every side with a share gets one at least; from fewer, training does. With `by_answer` every answer (a label) is
    divided in these shares.
    """
    shares = dict(zip(SIDES, (train, validation, test), strict=True))
    keys = _run_keys(len(examples)) if continuous else [question_key(example) for example in examples]
    answers = [example.answer for example in examples] if by_answer else None
    sides = _assign(keys, shares, seed, answers)
    return Split(
        *([example for key, example in zip(keys, examples, strict=True) if sides[key] == side] for side in SIDES)
    )


def _run_keys(count: int) -> list[str]:
    length = -(-count // _RUNS_PER_DOCUMENT)
    return [f"run {index // length}" for index in range(count)]


def _assign(
    keys: Sequence[str], shares: Mapping[str, float], seed: int, answers: Sequence[str] | None
) -> dict[str, str]:
    """Side of each group. Groups come in an order drawn with the seed; each goes where most rows are wanting.

    A side overshoots its target by less than the group that it gets, and falls short by less than that too: when a
    side is given a group, no other side wants more. Answers, if they are given, come one after the other, also in an
    order drawn with the seed; what one leaves wanting, the next one makes up for.
    """
    sizes = Counter(keys)
    weight = sum(shares.values())
    wanting = {side: 0.0 for side, share in shares.items() if share > 0}
    assigned: dict[str, str] = {}
    for stratum in _strata(keys, answers, seed):
        rows = sum(sizes[key] for key in stratum)
        wanting = {side: want + rows * shares[side] / weight for side, want in wanting.items()}
        for number, key in enumerate(stratum):
            is_first = answers is not None and number == 0 and "train" in wanting
            side = "train" if is_first else max(wanting, key=wanting.__getitem__)
            assigned[key] = side
            wanting[side] -= sizes[key]
    needed = tuple(wanting) if len(sizes) >= len(SIDES) else SIDES[:1]
    _fill_empty_sides(assigned, sizes, needed)
    return assigned


def _strata(keys: Sequence[str], answers: Sequence[str] | None, seed: int) -> list[list[str]]:
    """Groups of each answer, or all groups together, in the order that the seed draws."""
    answer_of: dict[str, str] = {}
    for key, answer in zip(keys, answers or [""] * len(keys), strict=True):
        answer_of[key] = min(answer, answer_of.get(key, answer))  # whatever the order of the rows
    strata: dict[str, list[str]] = {}
    for key, answer in answer_of.items():
        strata.setdefault(answer, []).append(key)
    ordered = sorted(strata, key=lambda answer: (_draw(answer, seed), answer))
    return [sorted(strata[answer], key=lambda key: (_draw(key, seed), key)) for answer in ordered]


def _fill_empty_sides(assigned: dict[str, str], sizes: Mapping[str, int], sides: Sequence[str]) -> None:
    """Give each of these sides that has no group the smallest group of the side that has most."""
    for side in sides:
        if side in assigned.values() or not assigned:
            continue
        members = {other: [key for key, at in assigned.items() if at == other] for other in SIDES}
        richest = max(SIDES, key=lambda other: len(members[other]))
        assigned[min(members[richest], key=lambda key: sizes[key])] = side


def _draw(key: str, seed: int) -> bytes:
    content = key.encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(content, key=seed.to_bytes(8, "big"), digest_size=16).digest()
