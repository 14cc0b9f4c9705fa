"""Classification data: the label set, what is no label set, and a split that divides every label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import load_config
from tunesmith.data import Prepared, prepare
from tunesmith.data.split import SIDES, split
from tunesmith.errors import DataError
from tunesmith.types import Example, Message


def write(folder: Path, name: str, rows: list[tuple[str, str]], header: str = "text,label") -> str:
    path = folder / name
    path.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return str(path)


def read(path: str, **overrides: object) -> Prepared:
    return prepare(load_config(overrides={"data.path": path, **overrides}))


def mail(count: int, *labels: str) -> list[tuple[str, str]]:
    return [(f"This is message {number}", labels[number % len(labels)]) for number in range(count)]


def test_the_labels_are_those_of_the_training_rows(tmp_path: Path) -> None:
    prepared = read(write(tmp_path, "mail.csv", mail(60, "spam", "ham", "ham")))
    counts = Counter(example.answer for example in prepared.train)
    assert prepared.report.shape == "label"
    assert prepared.report.labels == {"ham": counts["ham"], "spam": counts["spam"]}
    assert list(prepared.report.labels) == ["ham", "spam"]
    assert prepared.report.to_json()["labels"] == prepared.report.labels
    told = f"labels   2, with training rows: ham ({counts['ham']}), spam ({counts['spam']})"
    assert told in prepared.report.to_text()


def test_labels_that_are_numbers_are_told_apart_from_their_rows(tmp_path: Path) -> None:
    text = read(write(tmp_path, "stars.csv", mail(60, "4", "3.5"))).report.to_text()
    assert "2, with training rows: 4 (24), 3.5 (24)" in text or "2, with training rows: 3.5 (24), 4 (24)" in text


def test_other_shapes_have_none(tmp_path: Path) -> None:
    path = write(tmp_path, "faq.csv", [(f"What is {n}?", f"It is number {n} of all") for n in range(30)], "Q,A")
    prepared = read(path, **{"data.columns": "{question: Q, answer: A}"})
    assert prepared.report.labels == {}
    assert "labels" not in prepared.report.to_text()


def test_many_labels_are_told_in_a_line(tmp_path: Path) -> None:
    rows = [*mail(80, *(f"c{number}" for number in range(8))), *[(f"More {n}", "c7") for n in range(10)]]
    text = read(write(tmp_path, "mail.csv", rows)).report.to_text()
    assert "labels   8, with 8 (c" in text
    assert "to 16 (c7) training rows each" in text


def test_one_label_is_nothing_to_learn(tmp_path: Path) -> None:
    path = write(tmp_path, "mail.csv", mail(30, "ham"))
    with pytest.raises(DataError, match="every training row has the same label: 'ham' in column 'label'"):
        read(path)


def test_sentences_are_no_labels(tmp_path: Path) -> None:
    rows = [(f"This is message {n}", f"Sentence {n // 2} of many") for n in range(40)]
    path = write(tmp_path, "mail.csv", [*rows, *[(f"Odd {n}", f"Other {n}") for n in range(20)]])
    with pytest.raises(DataError, match=r"column 'label' has \d+ different values in 48 training rows: too many") as e:
        read(path, **{"data.shape": "label"})
    assert "--data.shape qa --data.columns.question 'text' --data.columns.answer 'label'" in str(e.value)


def test_a_few_rows_may_have_many_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "mail.csv", mail(10, *"abcdefgh"))
    assert len(read(path, **{"data.shape": "label"}).report.labels) == 8


def test_labels_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    labels = ["Bug", "bug ", "wish", "Bug", "wish", "Wi-sh", "to do", "TO_DO"]
    rows = [(f"text {index}", labels[index % 8]) for index in range(80)]
    found = {finding.code: finding for finding in read(write(tmp_path, "mail.csv", rows)).report.findings}
    assert "'Bug' (20) and 'bug' (10); 'TO_DO' (10) and 'to do' (10)" in found["alike_labels"].message
    assert len(found["alike_labels"].rows) == 20


def test_a_label_that_no_training_row_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "mail.csv", mail(40, "spam", "ham"))
    test = write(tmp_path, "test.csv", [("A test text", "Spam"), ("Another test", "ham"), ("Third test", "other")])
    report = read(path, **{"data.test_path": test}).report
    (finding,) = [finding for finding in report.findings if finding.code == "unseen_labels_test"]
    assert finding.level == "warning"
    assert "2 rows have a label that no training row has: 'Spam' (did you mean 'spam'?), 'other'" in finding.message
    assert finding.rows == ("test.csv:2", "test.csv:4")


LABELLED = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abcde")), min_size=10, max_size=150)


def examples_of(rows: list[tuple[int, str]]) -> list[Example]:
    return [
        Example((Message("user", f"Question {group}"), Message("assistant", label)), row=row)
        for row, (group, label) in enumerate(rows)
    ]


@given(LABELLED, st.integers(0, 50))
def test_the_stratified_split_is_a_partition_by_whole_questions(rows: list[tuple[int, str]], seed: int) -> None:
    result = split(examples_of(rows), train=0.8, validation=0.1, test=0.1, seed=seed, by_answer=True)
    sides = {side: getattr(result, side) for side in SIDES}
    assert sorted(example.row for side in sides.values() for example in side) == list(range(len(rows)))
    questions = [{example.question for example in side} for side in sides.values()]
    assert sum(map(len, questions)) == len(set.union(*questions))


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=2), st.integers(0, 50))
def test_every_label_is_divided_in_the_shares_and_trained_on(sizes: dict[str, int], seed: int) -> None:
    labels = [label for label, size in sizes.items() for _ in range(size)]
    examples = examples_of(list(enumerate(labels)))
    result = split(examples, train=0.6, validation=0.2, test=0.2, seed=seed, by_answer=True)
    total = 0.0
    for side, share in zip(SIDES, (0.6, 0.2, 0.2), strict=True):
        counts = Counter(example.answer for example in getattr(result, side))
        for label, size in sizes.items():
            assert abs(counts[label] - share * size) <= 2.5
        total += abs(counts.total() - share * len(labels))
    if len(labels) >= 40 and min(sizes.values()) >= 3:
        assert total <= 4
    if len(labels) >= 3 and all(size > 1 for size in sizes.values()):
        assert {example.answer for example in result.train} == set(sizes)


def test_without_strata_a_rare_label_can_be_missing_from_training() -> None:
    """What the strata are for: some seed leaves a label of two rows out."""
    examples = examples_of(list(enumerate([*"a" * 40, *"b" * 2])))

    def missing(by_answer: bool) -> int:
        found = (split(examples, train=0.5, validation=0.25, test=0.25, seed=s, by_answer=by_answer) for s in range(60))
        return sum("b" not in {example.answer for example in result.train} for result in found)

    assert missing(by_answer=False) > 0
    assert missing(by_answer=True) == 0


@given(LABELLED, st.integers(0, 20), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[tuple[int, str]], seed: int, rng: object) -> None:
    examples = examples_of(rows)
    shuffled = list(examples)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    for side in SIDES:
        before, after = (
            {example.row for example in getattr(
                split(rows, train=0.8, validation=0.1, test=0.1, seed=seed, by_answer=True), side
            )}
            for rows in (examples, shuffled)
        )  # fmt: skip
        assert before == after
