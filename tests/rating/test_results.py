"""Votes add up to the right results: identities joined, raters' majorities, agreement, rows to train on."""

from __future__ import annotations

import json
import math

import pytest

from tunesmith.evaluate import bradley_terry
from tunesmith.rating import Item, Session, preferences, results
from tunesmith.rating.results import next_task, progress, vote_of
from tunesmith.rating.votes import Vote


def prefer(session: Session, rater: str, winners: dict[int, str]) -> None:
    """A vote on each item named: for the model, or "tie", or "both_bad"."""
    for task in session.tasks:
        choice = winners.get(task.item)
        if choice in task.contestants:
            choice = "left" if task.contestants[0] == choice else "right"
        if choice in ("left", "right", "tie", "both_bad"):
            session.votes.append(Vote(task.id, rater, choice))


BASE, TUNED, THIRD = "zz-base-zz", "zz-tuned-zz", "zz-third-zz"


def test_votes_are_counted_for_the_model_behind_the_side(rating) -> None:
    session = rating(10)
    prefer(session, "Ann", {**dict.fromkeys(range(6), TUNED), 6: BASE, 7: "tie", 8: "both_bad"})
    found = results(session)
    (pair,) = found.pairs
    assert (pair.first, pair.second) == (TUNED, BASE)
    assert (pair.tally.wins, pair.tally.losses, pair.tally.ties, pair.tally.both_bad) == (6, 1, 2, 1)
    assert pair.share.value == pytest.approx(6 / 7)
    assert (found.votes, found.rated_tasks, found.tasks, found.raters) == (9, 9, 10, {"Ann": 9})
    assert found.agreement == {}
    assert pair.preferred is None
    assert pair.needed


def test_a_clear_preference_is_decided(rating) -> None:
    session = rating(30)
    prefer(session, "Ann", {**dict.fromkeys(range(25), BASE), **dict.fromkeys(range(25, 30), TUNED)})
    (pair,) = results(session).pairs
    assert (pair.preferred, pair.needed) == (BASE, 0)
    assert pair.depends_on > 0


def test_two_models_that_never_differ_keep_nobody_waiting(rating) -> None:
    items = [Item(f"Q{n}?", None, {BASE: "x", TUNED: f"y {n}", THIRD: "x"}) for n in range(30)]
    session = rating(30, items=items)
    for task in session.tasks:
        session.votes.append(Vote(task.id, "Ann", "left" if task.contestants[0] == TUNED else "right"))
    of_pairs = {frozenset((pair.first, pair.second)): pair for pair in results(session).pairs}
    same = of_pairs[frozenset((BASE, THIRD))]
    assert (same.identical, same.tally.total, same.needed) == (30, 0, None)
    told = progress(session, "Ann")
    assert (told["pairs"], told["decided"], told["needed"]) == (2, 2, 0)


def test_a_question_counts_once_however_many_rate_it(rating) -> None:
    session = rating(4)
    for rater in ("Ann", "Bob", "Cem"):
        prefer(session, rater, {0: TUNED, 1: TUNED, 2: TUNED if rater == "Ann" else "tie"})
    prefer(session, "Ann", {3: TUNED})
    prefer(session, "Bob", {3: BASE})
    (pair,) = results(session).pairs
    assert (pair.tally.wins, pair.tally.losses, pair.tally.ties) == (3, 0, 1)


def test_both_bad_needs_most_of_the_raters(rating) -> None:
    session = rating(2)
    prefer(session, "Ann", {0: "both_bad", 1: "both_bad"})
    prefer(session, "Bob", {0: "both_bad", 1: "tie"})
    (pair,) = results(session).pairs
    assert (pair.tally.ties, pair.tally.both_bad) == (2, 1)


def test_two_raters_agree_by_kappa_and_three_by_alpha(rating) -> None:
    session = rating(8)
    prefer(session, "Ann", {**dict.fromkeys(range(4), TUNED), **dict.fromkeys(range(4, 8), BASE)})
    prefer(session, "Bob", {**dict.fromkeys(range(4), TUNED), **dict.fromkeys(range(4, 7), BASE)})
    found = results(session)
    assert found.agreement_name == "Cohen's kappa"
    assert found.agreement["choice"] == pytest.approx(1.0)
    prefer(session, "Cem", dict.fromkeys(range(8), "tie"))
    found = results(session)
    assert found.agreement_name == "Krippendorff's alpha (nominal)"
    assert found.agreement["choice"] < 0.4


def test_raters_who_always_take_one_side_are_seen(rating) -> None:
    session = rating(40)
    for task in session.tasks:
        session.votes.append(Vote(task.id, "Ann", "left"))
    assert results(session).left_share.low > 0.5


def test_three_models_get_strengths(rating) -> None:
    session = rating(12, models=3)
    prefer(session, "Ann", {**dict.fromkeys(range(8), TUNED), **dict.fromkeys(range(8, 11), BASE), 11: THIRD})
    found = results(session)
    assert {(pair.first, pair.second) for pair in found.pairs} == {(TUNED, BASE), (TUNED, THIRD), (BASE, THIRD)}
    counts = {(pair.first, pair.second): (pair.tally.wins, pair.tally.losses) for pair in found.pairs}
    assert counts == {(TUNED, BASE): (8, 3), (TUNED, THIRD): (8, 1), (BASE, THIRD): (3, 1)}
    assert found.strengths
    expected = bradley_terry([[0, 3, 3], [8, 0, 8], [1, 1, 0]])
    assert expected
    assert [found.strengths[name] for name in (BASE, TUNED, THIRD)] == expected


def test_three_models_share_one_error_probability(rating) -> None:
    """What is decided between two models alone may not be among three pairs."""
    winners = {**dict.fromkeys(range(19), TUNED), **dict.fromkeys(range(19, 23), BASE)}
    alone = rating(23)
    prefer(alone, "Ann", winners)
    assert results(alone).pairs[0].preferred == TUNED
    (alone.folder / "session.json").unlink()
    alone.votes.path.unlink()
    among = rating(23, models=3)
    prefer(among, "Ann", winners)
    pair = next(pair for pair in results(among).pairs if {pair.first, pair.second} == {BASE, TUNED})
    assert (pair.tally.wins, pair.tally.losses) == (19, 4)
    assert pair.preferred is None


def test_identical_answers_are_reported_beside_the_votes(rating) -> None:
    asked = [Item("Same?", None, {"a": "x", "b": "x"}), Item("Other?", None, {"a": "x", "b": "y"})]
    session = rating(0, items=asked)
    prefer(session, "Ann", {1: "b"})
    (pair,) = results(session).pairs
    assert (pair.first, pair.tally.wins, pair.tally.ties, pair.identical) == ("b", 1, 0, 1)


def test_damaged_and_foreign_votes_are_told_and_not_counted(rating) -> None:
    session = rating(3)
    prefer(session, "Ann", {0: TUNED})
    session.votes.append(Vote("0123456789abcdef", "Ann", "left"))
    with session.votes.path.open("ab") as file:
        file.write(b'{"task"')
    found = results(session)
    assert (found.votes, found.unknown_tasks, found.damaged_lines) == (1, 1, (3,))


def test_without_votes_nothing_is_claimed(rating) -> None:
    found = results(rating(3, models=3))
    assert (found.votes, found.strengths, found.agreement) == (0, None, {})
    assert all(pair.preferred is None and math.isnan(pair.share.value) for pair in found.pairs)


def test_progress_and_the_next_task(rating) -> None:
    session = rating(3)
    assert progress(session, "Ann")["needed"] == 90
    first = next_task(session, "Ann")
    assert first == session.tasks[0]
    session.votes.append(Vote(first.id, "Ann", "left", comment="why"))
    assert next_task(session, "Ann") == session.tasks[1]
    assert next_task(session, "Bob") == session.tasks[0]
    mine, other = progress(session, "Ann"), progress(session, "Bob")
    assert (mine["done"], mine["total"], mine["raters"], mine["open"]) == (1, 3, 1, 2)
    assert other["done"] == 0
    said = vote_of(session, first, "Ann")
    assert said
    assert (said.choice, said.comment) == ("left", "why")
    assert vote_of(session, first, "Bob") is None
    prefer(session, "Ann", dict.fromkeys(range(3), TUNED))
    assert next_task(session, "Ann") is None


def test_progress_knows_a_decision_but_not_for_whom(rating) -> None:
    session = rating(20)
    prefer(session, "Ann", dict.fromkeys(range(20), TUNED))
    told = progress(session, "Ann")
    assert (told["decided"], told["pairs"], told["needed"]) == (1, 1, 0)
    assert not any(name in json.dumps(told) for name in session.contestants)


def score(session: Session, rater: str, scores: dict[str, list[int]]) -> None:
    """scores[model][item]: the same for each criterion."""
    for task in session.tasks:
        value = scores[task.contestants[0]][task.item]
        session.votes.append(Vote(task.id, rater, scores=dict.fromkeys(session.criteria, value)))


def test_scores_give_means_and_a_paired_difference(rating) -> None:
    session = rating(12, criteria=("correct", "clear"))
    low, high = [1, 2, 3] * 4, [4, 4, 5] * 4
    score(session, "Ann", {BASE: low, TUNED: high})
    found = results(session)
    assert found.pairs == ()
    assert [scale.criterion for scale in found.scales] == ["correct", "clear"]
    scale = found.scales[0]
    assert scale.means[BASE].value == pytest.approx(2)
    assert scale.means[TUNED].value == pytest.approx(13 / 3)
    change = scale.differences[TUNED]
    assert (change.change, change.verdict) == (pytest.approx(7 / 3), "better")
    assert change.low <= change.change <= change.high


def test_scores_of_raters_agree_in_order(rating) -> None:
    session = rating(6, criteria=("correct",))
    one = {BASE: [1, 2, 3, 1, 2, 3], TUNED: [4, 5, 4, 5, 4, 5]}
    score(session, "Ann", one)
    score(session, "Bob", one)
    found = results(session)
    assert found.agreement_name == "Krippendorff's alpha (ordinal)"
    assert found.agreement == {"correct": pytest.approx(1.0)}


def test_preferences_are_rows_to_train_on(rating) -> None:
    session = rating(4)
    prefer(session, "Ann", {0: TUNED, 1: BASE, 2: "tie", 3: "both_bad"})
    rows = {row["prompt"]: row for row in preferences(session)}
    assert rows == {
        "Question 0?": {"prompt": "Question 0?", "chosen": "Text 1 of 0.", "rejected": "Text 0 of 0."},
        "Question 1?": {"prompt": "Question 1?", "chosen": "Text 0 of 1.", "rejected": "Text 1 of 1."},
    }


def test_preferences_of_chats_are_turns_in_every_row(rating) -> None:
    turns = tuple({"role": role, "content": text} for role, text in (("user", "P"), ("assistant", "A"), ("user", "Q")))
    items = [Item("Q", None, {"a": "bad", "b": "good"}, turns), Item("Alone", None, {"a": "bad", "b": "good"})]
    session = rating(0, items=items)
    prefer(session, "Ann", {0: "b", 1: "b"})
    given = {
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    rows = sorted(preferences(session), key=lambda row: len(row["prompt"]))
    assert rows == [{"prompt": [{"role": "user", "content": "Alone"}], **given}, {"prompt": list(turns), **given}]


def test_preferences_of_scores(rating) -> None:
    session = rating(3, criteria=("correct",))
    score(session, "Ann", {BASE: [1, 3, 5], TUNED: [4, 3, 2]})
    rows = {row["prompt"]: row["chosen"] for row in preferences(session)}
    assert rows == {"Question 0?": "Text 1 of 0.", "Question 2?": "Text 0 of 2."}


def test_an_empty_answer_is_never_what_to_learn(rating) -> None:
    session = rating(0, items=[Item("Q?", None, {"a": "", "b": "bad"})])
    prefer(session, "Ann", {0: "a"})
    assert preferences(session) == []
