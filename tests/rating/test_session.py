"""Blindness of what raters see, and what is kept of a rating."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tunesmith.errors import DataError, SettingsError
from tunesmith.rating import Item, begin, check_same, has_changed, open_session

CHI_SQUARE_1_PERCENT = {1: 6.635, 9: 21.666}  # critical values by degrees of freedom


def chi_square(counts: Iterable[int]) -> float:
    counts = list(counts)
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_sides_are_even_over_ten_thousand_tasks(rating) -> None:
    session = rating(10_000)
    first = session.contestants[0]
    left = sum(task.contestants[0] == first for task in session.tasks)
    assert len(session.tasks) == 10_000
    assert chi_square([left, 10_000 - left]) < CHI_SQUARE_1_PERCENT[1]


def test_sides_do_not_follow_position_question_or_id(rating) -> None:
    """In each tenth of the order, of the file and of the ids, each model is on the left as often."""
    session = rating(10_000)
    first = session.contestants[0]
    for key, most in (  # 10 degrees of freedom; ids are drawn anew in each run of this test, hence one in a billion
        (lambda place, task: place * 10 // 10_000, 23.2),
        (lambda place, task: task.item * 10 // 10_000, 23.2),
        (lambda place, task: int(task.id[:4], 16) * 10 // 0x10000, 63.0),
        (lambda place, task: int(task.id[-4:], 16) * 10 // 0x10000, 63.0),
    ):
        left = Counter(key(place, t) for place, t in enumerate(session.tasks) if t.contestants[0] == first)
        total = Counter(key(place, t) for place, t in enumerate(session.tasks))
        statistic = sum((left[n] - total[n] / 2) ** 2 / (total[n] / 4) for n in range(10))
        assert statistic < most


def test_the_order_is_not_that_of_the_file(rating) -> None:
    session = rating(10_000)
    first_tenth = Counter(task.item // 1000 for task in session.tasks[:1000])
    assert chi_square(first_tenth[n] for n in range(10)) < CHI_SQUARE_1_PERCENT[9]


def test_ids_are_random_and_say_nothing(rating, tmp_path: Path) -> None:
    session = rating(200)
    again = begin(tmp_path / "other", Path(session.source), session.items, draw=random.Random(0))
    assert all(re.fullmatch("[0-9a-f]{16}", task.id) for task in session.tasks)
    assert len({task.id for task in (*session.tasks, *again.tasks)}) == 400  # same seed, same texts, other ids


def test_what_raters_see_names_no_model(rating) -> None:
    session = rating(20, models=3, show_reference=True)
    for task in session.tasks:
        shown = session.shown(task)
        assert set(shown) == {"id", "question", "answers", "reference"}
        assert not any(name in json.dumps(shown) for name in session.contestants)
        assert shown["answers"] == [session.items[task.item].answers[name] for name in task.contestants]


def test_the_right_answer_is_shown_only_when_asked_for(rating) -> None:
    session = rating(3)
    assert all("reference" not in session.shown(task) for task in session.tasks)


def test_a_restart_shows_the_same(rating) -> None:
    session = rating(50, models=3)
    assert open_session(session.folder) == session


TURNS = tuple({"role": role, "content": text} for role, text in (("user", "P?"), ("assistant", "A."), ("user", "Q?")))


def test_a_chat_is_shown_with_what_was_said_before(rating) -> None:
    items = [Item("Q?", None, {"a": "1", "b": "2"}, TURNS), Item("Other?", None, {"a": "1", "b": "2"})]
    session = rating(0, items=items)
    shown = {view["question"]: view.get("conversation") for view in map(session.shown, session.tasks)}
    assert shown == {"Q?": list(TURNS), "Other?": None}
    assert open_session(session.folder) == session


def test_a_session_from_before_conversations_were_kept_opens(rating) -> None:
    session = rating(2)
    path = session.folder / "session.json"
    content = json.loads(path.read_text())
    for item in content["items"]:
        del item["conversation"]
    path.write_text(json.dumps(content))
    assert open_session(session.folder) == session


def test_without_a_seed_every_rating_is_another(rating, tmp_path: Path) -> None:
    session = rating(60)
    source, asked = Path(session.source), session.items
    sides = [
        [sorted((t.item, t.contestants) for t in begin(tmp_path / f"r{n}", source, asked).tasks)] for n in range(2)
    ]
    assert sides[0] != sides[1]


def test_every_pair_of_models_meets_on_every_question(rating) -> None:
    session = rating(4, models=4)
    met = Counter(frozenset(task.contestants) for task in session.tasks)
    assert len(met) == 6
    assert set(met.values()) == {4}


def test_identical_answers_are_not_shown(rating) -> None:
    same = Item("Same?", None, {"a": "x ", "b": "x"})
    session = rating(0, items=[same, Item("Other?", None, {"a": "x", "b": "y"})])
    assert len(session.tasks) == 1
    assert session.identical == (("a", "b"),)
    with pytest.raises(DataError, match="all 1 pairs of answers are identical"):
        rating(0, items=[same])


def test_one_model_cannot_be_compared_but_scored(rating) -> None:
    with pytest.raises(DataError, match="only answers of 'zz-base-zz'") as caught:
        rating(3, models=1)
    assert "--scale" in str(caught.value.fix)
    session = rating(3, models=1, criteria=("correct",))
    assert [task.contestants for task in session.tasks] == [("zz-base-zz",)] * 3


def test_models_that_never_answered_the_same_question_cannot_be_compared(rating) -> None:
    with pytest.raises(DataError, match="no question that two models answered"):
        rating(0, items=[Item("Q?", None, {"a": "x"}), Item("R?", None, {"b": "y"})])


def test_rows_are_drawn_from_all(rating) -> None:
    session = rating(300, rows=40)
    numbers = [int(re.findall(r"\d+", item.question)[0]) for item in session.items]
    assert len(set(numbers)) == 40
    assert max(numbers) > 200


def test_it_goes_on_only_under_the_same_rules(rating) -> None:
    session = rating(3)
    check_same(session, criteria=(), show_reference=False, rows=None)
    check_same(session, criteria=(), show_reference=False, rows=3)
    with pytest.raises(SettingsError) as caught:
        check_same(session, criteria=("correct",), show_reference=True, rows=2)
    assert len(caught.value.problems) == 3


def test_more_rows_than_there_are_is_the_same_again(rating) -> None:
    """`--rows 50` of a file of 3: the same command goes on, until the file has more to draw from."""
    session = rating(3, rows=50)
    check_same(session, criteria=(), show_reference=False, rows=50)
    drawn = rating(9, rows=3)
    with pytest.raises(SettingsError, match="it has 3 questions"):
        check_same(drawn, criteria=(), show_reference=False, rows=50)
    Path(session.source).unlink()  # nobody can tell any more
    with pytest.raises(SettingsError, match="it has 3 questions"):
        check_same(session, criteria=(), show_reference=False, rows=50)


def test_other_answers_in_the_file_are_noticed(rating) -> None:
    session = rating(3)
    source = Path(session.source)
    assert not has_changed(session, source)
    source.write_text(source.read_text().replace("Text 0 of 1", "Text 9 of 1"))
    assert has_changed(session, source)


def test_a_damaged_session_is_told(rating) -> None:
    session = rating(3)
    path = session.folder / "session.json"
    whole = path.read_text()
    for broken in (whole[:-40], "[]", whole.replace('"tasks"', '"task"')):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"session\.json is damaged"):
            open_session(session.folder)
    path.write_text(whole.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(SettingsError, match="newer tunesmith"):
        open_session(session.folder)


def test_votes_without_their_session_are_not_overwritten(rating) -> None:
    session = rating(3)
    session.votes.path.write_bytes(b"torn")
    (session.folder / "session.json").unlink()
    with pytest.raises(DataError, match="holds votes, but"):
        rating(3)
    assert session.votes.path.read_bytes() == b"torn"
