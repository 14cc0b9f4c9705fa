"""From votes to results: who is preferred, how strong each model is, whether raters agree, and rows to train on.

A question is one observation, however many people voted on it: the majority decides, and an even split is a tie. Votes
of several people on one answer are no independent evidence about the models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from tunesmith.evaluate import (
    CONFIDENCE,
    Difference,
    Interval,
    Tally,
    bradley_terry,
    cohen_kappa,
    difference,
    interval,
    is_decided,
    krippendorff_alpha,
    mean_of,
    outcomes_needed,
    outcomes_to_undecide,
    wilson,
)
from tunesmith.rating.session import Session, Task
from tunesmith.rating.votes import SCORES, Vote, newest

_Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PairResult:
    """One model against another; `first` has won more questions.

    share: of `first` among the questions that have a winner.
    needed: further questions until a decision when it goes on like this; 0 when decided, None when not in sight or
        when there is nothing to ask.
    depends_on: how many of the winner's questions would have to be left out until nothing is decided.
    identical: questions on which both wrote the same; nobody was asked about them.
    """

    first: str
    second: str
    tally: Tally
    share: Interval
    preferred: str | None
    needed: int | None
    depends_on: int
    identical: int


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """Scores (1 to 5) of one criterion: the mean of each model over questions, and each model against the first."""

    criterion: str
    means: dict[str, Interval]
    differences: dict[str, Difference]


@dataclass(frozen=True, slots=True)
class Results:
    """All that the votes of a rating say.

    agreement: name of the coefficient and its value by criterion ("choice" when answers were compared); empty with
        fewer than two raters.
    left_share: how often the left answer won, among votes with a winner; far from one half, raters looked at the side.
    strengths: Bradley-Terry log-strengths; None with fewer than three models, or when they are not finite.
    damaged_lines: lines of votes.jsonl that could not be read. unknown_tasks: votes on tasks that the rating lacks.
    """

    votes: int
    raters: dict[str, int]
    tasks: int
    rated_tasks: int
    pairs: tuple[PairResult, ...]
    scales: tuple[ScaleResult, ...]
    strengths: dict[str, Interval] | None
    agreement_name: str
    agreement: dict[str, float]
    left_share: Interval
    damaged_lines: tuple[int, ...]
    unknown_tasks: int

    def to_json(self) -> dict[str, object]:
        return {"schema_version": 1, "confidence": CONFIDENCE, **asdict(self)}


def results(session: Session) -> Results:
    """Count the votes on disk."""
    written, damaged = session.votes.read()
    known = {task.id for task in session.tasks}
    votes = [vote for vote in newest(written) if vote.task in known]
    by_task = _by_task(votes)
    raters: dict[str, int] = defaultdict(int)
    for vote in votes:
        raters[vote.rater] += 1
    pairs = () if session.criteria else tuple(_pair_results(session, by_task))
    name, agreement = _agreement(session, by_task, raters)
    sided = [vote.choice for vote in votes if vote.choice in ("left", "right")]
    return Results(
        votes=len(votes),
        raters=dict(raters),
        tasks=len(session.tasks),
        rated_tasks=len(by_task),
        pairs=pairs,
        scales=tuple(_scale_results(session, by_task)),
        strengths=_strengths(session.contestants, pairs),
        agreement_name=name,
        agreement=agreement,
        left_share=wilson(sided.count("left"), len(sided)),
        damaged_lines=tuple(damaged),
        unknown_tasks=len(newest(written)) - len(votes),
    )


def progress(session: Session, rater: str) -> dict[str, Any]:
    """How far one rater is, and how far the rating is from a decision. Tells nothing of who leads.

    needed: questions until every pair of models that differ is decided; 0 when all are, None when that is not in sight,
        or when answers are scored.
    """
    votes, _ = session.votes.read()
    by_task = _by_task(newest(votes))
    asked = {frozenset(task.contestants) for task in session.tasks}
    found = () if session.criteria else _pair_results(session, by_task)
    pairs = [pair for pair in found if {pair.first, pair.second} in asked]
    waits = [pair.needed for pair in pairs]
    return {
        "done": sum(any(vote.rater == rater for vote in by_task[task.id]) for task in session.tasks),
        "total": len(session.tasks),
        "raters": len({vote.rater for vote in votes}),
        "pairs": len(pairs),
        "decided": sum(pair.needed == 0 for pair in pairs),
        "needed": sum(wait for wait in waits if wait) if pairs and None not in waits else None,
        "open": sum(not by_task[task.id] for task in session.tasks),
    }


def next_task(session: Session, rater: str) -> Task | None:
    """The first task that this rater has not voted on."""
    done = {vote.task for vote in session.votes.read()[0] if vote.rater == rater}
    return next((task for task in session.tasks if task.id not in done), None)


def vote_of(session: Session, task: Task, rater: str) -> Vote | None:
    """What this rater said of a task last."""
    votes = [vote for vote in session.votes.read()[0] if (vote.task, vote.rater) == (task.id, rater)]
    return votes[-1] if votes else None


def preferences(session: Session) -> list[dict[str, Any]]:
    """Rows to train on (prompt, chosen, rejected): the better of two answers where raters saw a difference.

    Texts; where some question is the last of a chat, lists of turns in every row.
    """
    by_task = _by_task(newest(session.votes.read()[0]))
    rows: list[dict[str, Any]] = []
    for item, winner, loser in _scored_wins(session, by_task) if session.criteria else _wins(session, by_task):
        asked = session.items[item]
        if asked.answers[winner].strip():
            texts = {"chosen": asked.answers[winner], "rejected": asked.answers[loser]}
            if not any(one.conversation for one in session.items):
                rows.append({"prompt": asked.question, **texts})
                continue
            turns = list(asked.conversation) or [{"role": "user", "content": asked.question}]
            answers = {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}
            rows.append({"prompt": turns, **answers})
    return rows


def _by_task(votes: Iterable[Vote]) -> defaultdict[str, list[Vote]]:
    found: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        found[vote.task].append(vote)
    return found


def _majority(votes: Sequence[Vote]) -> int:
    """-1: the left answer, 1: the right one, 0: neither."""
    choices = [vote.choice for vote in votes]
    balance = choices.count("right") - choices.count("left")
    return (balance > 0) - (balance < 0)


def _wins(session: Session, by_task: dict[str, list[Vote]]) -> Iterable[tuple[int, str, str]]:
    """(item, winner, loser) of each task that has a winner."""
    for task in session.tasks:
        side = _majority(by_task.get(task.id, []))
        if side:
            left, right = task.contestants
            yield (task.item, right, left) if side > 0 else (task.item, left, right)


def _pair_results(session: Session, by_task: dict[str, list[Vote]]) -> Iterable[PairResult]:
    names = session.contestants
    won: dict[_Pair, int] = defaultdict(int)
    for _, winner, loser in _wins(session, by_task):
        won[winner, loser] += 1
    drawn: dict[_Pair, int] = defaultdict(int)
    bad: dict[_Pair, int] = defaultdict(int)
    for task in session.tasks:
        votes = by_task.get(task.id, [])
        if votes and not _majority(votes):
            pair = _in_order(task.contestants, names)
            drawn[pair] += 1
            bad[pair] += 2 * sum(vote.choice == "both_bad" for vote in votes) > len(votes)
    met = {_in_order(task.contestants, names) for task in session.tasks}
    alone = [_in_order(pair, names) for pair in session.identical]
    alpha = (1 - CONFIDENCE) / max(1, len(met))  # Bonferroni: one false preference in all pairs, not in each
    for pair in combinations(names, 2):
        if pair not in met and pair not in alone:
            continue
        first, second = pair if won[pair] >= won[pair[::-1]] else pair[::-1]
        tally = Tally(won[first, second], won[second, first], drawn[pair], bad[pair])
        yield PairResult(
            first=first,
            second=second,
            tally=tally,
            share=wilson(tally.wins, tally.decisive),
            preferred=first if is_decided(tally.wins, tally.losses, alpha=alpha) else None,
            needed=outcomes_needed(tally, alpha=alpha) if pair in met else None,
            depends_on=outcomes_to_undecide(tally, alpha=alpha),
            identical=alone.count(pair),
        )


def _in_order(pair: Sequence[str], names: Sequence[str]) -> _Pair:
    first, second = sorted(pair, key=names.index)
    return first, second


def _strengths(names: Sequence[str], pairs: Sequence[PairResult]) -> dict[str, Interval] | None:
    if len(names) < 3 or not pairs:
        return None
    wins = np.zeros((len(names), len(names)))
    for pair in pairs:
        first, second = names.index(pair.first), names.index(pair.second)
        wins[first, second] = pair.tally.wins + pair.tally.ties / 2
        wins[second, first] = pair.tally.losses + pair.tally.ties / 2
    found = bradley_terry(wins)
    return None if found is None else dict(zip(names, found, strict=True))


def _agreement(
    session: Session, by_task: dict[str, list[Vote]], raters: Collection[str]
) -> tuple[str, dict[str, float]]:
    """Name of the coefficient, and its value by criterion."""
    if len(raters) < 2:
        return "", {}
    if session.criteria:
        units = {
            name: [[vote.scores[name] for vote in votes if name in vote.scores] for votes in by_task.values()]
            for name in session.criteria
        }
        return "Krippendorff's alpha (ordinal)", {
            name: krippendorff_alpha(labels, order=list(SCORES)) for name, labels in units.items()
        }
    if len(raters) > 2:
        labels = [[vote.choice for vote in votes] for votes in by_task.values()]
        return "Krippendorff's alpha (nominal)", {"choice": krippendorff_alpha(labels)}
    one, other = raters
    said = [{vote.rater: vote.choice for vote in votes} for votes in by_task.values()]
    pairs = [(choices[one], choices[other]) for choices in said if one in choices and other in choices]
    return "Cohen's kappa", {"choice": cohen_kappa(pairs)}


def _item_scores(session: Session, by_task: dict[str, list[Vote]], criterion: str) -> dict[str, dict[int, float]]:
    """Mean score of the raters by model and item."""
    scores: dict[str, dict[int, float]] = {name: {} for name in session.contestants}
    for task in session.tasks:
        given = [vote.scores[criterion] for vote in by_task.get(task.id, []) if criterion in vote.scores]
        if given:
            scores[task.contestants[0]][task.item] = fmean(given)
    return scores


def _scale_results(session: Session, by_task: dict[str, list[Vote]]) -> Iterable[ScaleResult]:
    for criterion in session.criteria:
        scores = _item_scores(session, by_task, criterion)
        means = {
            name: interval(mean_of(np.array(list(by_item.values())))) for name, by_item in scores.items() if by_item
        }
        first, *others = session.contestants
        differences = {}
        for name in others:
            shared = sorted(scores[first].keys() & scores[name].keys())
            if shared:
                before, after = (mean_of(np.array([scores[who][item] for item in shared])) for who in (first, name))
                differences[name] = difference(before, after)
        yield ScaleResult(criterion, means, differences)


def _scored_wins(session: Session, by_task: dict[str, list[Vote]]) -> Iterable[tuple[int, str, str]]:
    """(item, winner, loser) by the mean over the criteria."""
    by_criterion = [_item_scores(session, by_task, criterion) for criterion in session.criteria]
    for item, asked in enumerate(session.items):
        for first, second in combinations(asked.answers, 2):
            if all(item in scores[first] and item in scores[second] for scores in by_criterion):
                gain = sum(scores[second][item] - scores[first][item] for scores in by_criterion)
                if abs(gain) > 1e-9:
                    yield (item, second, first) if gain > 0 else (item, first, second)
