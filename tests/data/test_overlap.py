"""Rows that are in two sets at once, against a comparison of every pair."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data import Overlap, overlaps
from tunesmith.types import Example, Message


def pair(question: str, answer: str = "An answer.", row: int = 0) -> Example:
    return Example((Message("user", question), Message("assistant", answer)), row=row)


TRAIN = [
    pair("How do I clean the rollers?", "Wipe them with a soft cloth and a little water."),
    pair("What does the red light on the left of the press mean?", "The paper tray is empty, so fill it up again."),
    pair("What does the red light on the left of the press mean?", "Another answer."),
]


def test_the_same_question_and_the_same_text_are_found_whatever_the_typing() -> None:
    test = [
        pair("how do i clean the  ROLLERS", "Another answer, which is not in the training data at all."),
        pair("How do I clean the rollers?!", "Wipe them with a soft cloth, and a little water"),
        pair("Where is the switch?", "Behind the door."),
    ]
    found = overlaps(test, TRAIN)
    assert [(row.first, row.second, row.kind) for row in found] == [(0, 0, "same question"), (1, 0, "same text")]
    assert 0 < found[0].similarity < 0.8
    assert found[1].similarity == 1


def test_near_rows_are_found_and_others_are_not() -> None:
    near = pair("What does the red light at the left of the press mean?", TRAIN[1].answer)
    same_answer = pair("Why does it stop?", TRAIN[1].answer)
    (found,) = overlaps([same_answer, near], TRAIN)
    assert (found.first, found.second, found.kind) == (1, 1, "near")
    assert overlaps([near], TRAIN, threshold=found.similarity) == [Overlap(0, 1, "near", found.similarity)]
    assert overlaps([near], TRAIN, threshold=found.similarity + 1e-6) == []


def test_a_system_prompt_that_all_rows_share_does_not_count() -> None:
    system = Message("system", "You are the helpful assistant of a printing house and answer in two sentences. " * 3)
    one = Example((system, *pair("How long?", "Two days.").messages))
    other = Example((system, *pair("How much?", "Nine euros.").messages))
    assert overlaps([one], [other]) == []


@pytest.mark.parametrize("first", [[], [pair("Anything?")]])
def test_nothing_to_compare_with(first: list[Example]) -> None:
    assert overlaps(first, []) == []
    assert overlaps([], TRAIN) == []


def _shingles(text: str) -> set[str]:
    """Written on its own: every window of 5 characters of the text in lower case with single spaces."""
    text = " ".join(text.split())
    return {text[i : i + 5] for i in range(len(text)) if i + 5 <= len(text)} or {text}


words = st.lists(
    st.sampled_from(["ink", "paper", "press", "plate", "roller", "tray", "sheet", "blue", "red"]),
    min_size=1,
    max_size=9,
)


@settings(max_examples=60)
@given(st.lists(words, max_size=6), st.lists(words, min_size=1, max_size=8), st.sampled_from([0.3, 0.5, 0.8]))
def test_found_is_what_a_comparison_of_all_pairs_finds(
    first: list[list[str]], second: list[list[str]], threshold: float
) -> None:
    one, other = [Example(text=" ".join(row)) for row in first], [Example(text=" ".join(row)) for row in second]
    found = {row.first: row for row in overlaps(one, other, threshold=threshold)}
    for index, row in enumerate(one):
        alike = [
            len(_shingles(row.text or "") & _shingles(b.text or ""))
            / len(_shingles(row.text or "") | _shingles(b.text or ""))
            for b in other
        ]
        if max(alike) < threshold:
            assert index not in found
        else:
            assert found[index].similarity == pytest.approx(max(alike))
            assert alike[found[index].second] == max(alike)
    assert overlaps(one, other, threshold=threshold) == list(found.values())  # the same each time, in order


@settings(max_examples=30)
@given(st.lists(words, min_size=1, max_size=8))
def test_every_row_is_in_its_own_set(rows: list[list[str]]) -> None:
    examples = [Example(text=" ".join(row)) for row in rows]
    assert [row.first for row in overlaps(examples, examples)] == list(range(len(rows)))
