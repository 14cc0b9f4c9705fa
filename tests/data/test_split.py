"""The split as a property: a partition by whole groups, of the right sizes, drawn with the seed and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tunesmith.data.clean import question_key
from tunesmith.data.split import SIDES, Split, split
from tunesmith.types import Example, Message

SHARES = st.sampled_from([(0.8, 0.1, 0.1), (0.9, 0.1, 0.0), (1.0, 0.0, 0.0), (0.5, 0.25, 0.25), (0.1, 0.0, 0.9)])
GROUPS = st.lists(st.integers(0, 30), min_size=1, max_size=120)


def examples_of(groups: list[int]) -> list[Example]:
    """One example for each number; the same number asks the same, in another way of typing."""
    return [
        Example(messages=(Message("user", f"{'  ' * (row % 3)}Question {group}{'?' * (row % 2)}"),), row=row)
        for row, group in enumerate(groups)
    ]


def divide(examples: list[Example], shares: tuple[float, float, float], seed: int = 0) -> Split:
    train, validation, test = shares
    return split(examples, train=train, validation=validation, test=test, seed=seed)


def sides_of(result: Split) -> dict[str, list[Example]]:
    return {side: getattr(result, side) for side in SIDES}


@given(GROUPS, SHARES, st.integers(0, 2**32 - 1))
def test_split_is_a_partition_by_whole_groups(groups: list[int], shares: tuple[float, float, float], seed: int) -> None:
    examples = examples_of(groups)
    sides = sides_of(divide(examples, shares, seed))
    assert sorted(example.row for side in sides.values() for example in side) == list(range(len(groups)))
    keys = {side: {question_key(example) for example in members} for side, members in sides.items()}
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]
    for members in sides.values():
        assert [example.row for example in members] == sorted(example.row for example in members)


@given(st.lists(st.integers(0, 30), min_size=60, max_size=150), SHARES, st.integers(0, 100))
def test_sizes_come_within_one_group_of_their_target(
    groups: list[int], shares: tuple[float, float, float], seed: int
) -> None:
    largest = max(Counter(groups).values())
    targets = [len(groups) * share for share in shares]
    assume(all(target == 0 or target >= largest for target in targets))  # below that, one group may be too much
    for members, target in zip(sides_of(divide(examples_of(groups), shares, seed)).values(), targets, strict=True):
        assert abs(len(members) - target) < largest if target else not members


@given(st.lists(st.integers(0, 1000), min_size=100, max_size=150, unique=True), SHARES)
def test_sizes_are_exact_where_every_question_is_asked_once(
    groups: list[int], shares: tuple[float, float, float]
) -> None:
    for members, share in zip(sides_of(divide(examples_of(groups), shares)).values(), shares, strict=True):
        assert abs(len(members) - len(groups) * share) < 1


@given(st.integers(1, 8), SHARES, st.integers(0, 50))
def test_every_side_with_a_share_gets_a_group_when_there_are_three(
    count: int, shares: tuple[float, float, float], seed: int
) -> None:
    sides = sides_of(divide(examples_of(list(range(count))), shares, seed))
    assert sides["train"]
    if count >= 3:
        assert all(bool(members) == (share > 0) for members, share in zip(sides.values(), shares, strict=True))


@given(GROUPS, st.integers(0, 20), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(groups: list[int], seed: int, rng: object) -> None:
    examples = examples_of(groups)
    shuffled = list(examples)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    for side in SIDES:
        before = {question_key(example) for example in getattr(divide(examples, (0.8, 0.1, 0.1), seed), side)}
        after = {question_key(example) for example in getattr(divide(shuffled, (0.8, 0.1, 0.1), seed), side)}
        assert before == after


def test_the_seed_decides() -> None:
    examples = examples_of(list(range(100)))
    splits = [divide(examples, (0.8, 0.1, 0.1), seed) for seed in (1, 1, 2)]
    assert splits[0] == splits[1]
    assert splits[0].test != splits[2].test


PROGRAM = """
from tunesmith.data.split import split
from tunesmith.types import Example, Message
rows = [Example(messages=(Message("user", f"Question {n}"),), row=n) for n in range(60)]
print([e.row for e in split(rows, train=0.8, validation=0.1, test=0.1, seed=7).test])
"""


def test_the_hash_seed_of_python_does_not_matter() -> None:
    source = str(Path(__file__).resolve().parents[2] / "src")
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1
    assert outputs != {""}


def test_every_row_is_as_likely_to_be_tested() -> None:
    """Chi-square over 300 seeds: 30 rows, 3 tested each time, 30 expected a row; 58.3 is the 0.1% point for 29."""
    examples = examples_of(list(range(30)))
    counts = Counter(example.row for seed in range(300) for example in divide(examples, (0.8, 0.1, 0.1), seed).test)
    assert sum((counts[row] - 30) ** 2 / 30 for row in range(30)) < 58.3


@pytest.mark.parametrize("count", [3, 99, 100, 1234])
def test_a_document_is_divided_in_runs(count: int) -> None:
    """Paragraphs move in runs, so most have their neighbour beside them; equal ones may stand on two sides."""
    examples = [Example(text="Ay." if row % 5 == 0 else f"Paragraph {row}", row=row) for row in range(count)]
    result = split(examples, train=0.8, validation=0.1, test=0.1, seed=3, continuous=True)
    sides = sides_of(result)
    assert sorted(example.row for members in sides.values() for example in members) == list(range(count))
    assert all(sides.values())
    run = -(-count // 100)
    for members in sides.values():
        breaks = sum(later.row != earlier.row + 1 for earlier, later in pairwise(members))
        assert breaks <= len(members) / run
    assert abs(len(result.test) - count / 10) <= max(run, 1)


def test_no_example_gives_three_empty_sides() -> None:
    assert divide([], (0.8, 0.1, 0.1)) == Split([], [], [])
