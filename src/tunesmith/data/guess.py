"""Which column is which part when names do not tell: question marks, lengths, distinct values, what else is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.data.facts import ColumnFacts
from tunesmith.data.names import BESIDE, DETAILS, HEADINGS, has_other_word, name_weight, normalise_name

QUESTION_SHARE = 0.3  # of cells that end with a question mark, from which on a column holds questions
_ASKING_SHARE = 0.6  # from which on a column holds little else: the text beside it answers, and nothing is to classify
_RAW_WORDS = frozenset({"user", "raw", "original", "text"})  # in the name of the text as it came from people
# names of columns that say who wrote a text; an author may be its class
_SPEAKING = frozenset({"from", "sender", "absender", "username", "nickname", "role", "rolle", "speaker"})
_BESIDE = ("context", "system")  # parts that stand beside a question, and never answer it
_BRACKET_SHARE = 0.1  # of cells with [marks], from which on a text counts as annotated


@dataclass(frozen=True, slots=True)
class Guess:
    """A column for a part, how sure that is (a name would be 1), and the clause that says why."""

    column: str
    strength: float
    why: str


def guess_parts(missing: Sequence[str], facts: Mapping[str, ColumnFacts], known: Mapping[str, str]) -> dict[str, Guess]:
    """A guess for each missing part that has one. `known` parts are settled; their columns are not taken again."""
    guesses: dict[str, Guess] = {}
    for part in missing:
        taken = {**known, **{name: guess.column for name, guess in guesses.items()}}
        free = {name: fact for name, fact in facts.items() if name not in taken.values()}
        guess = _GUESSES[part](free, facts, taken)
        if guess is not None:
            guesses[part] = guess
    return guesses


def side_by_side(facts: Mapping[str, ColumnFacts], weight: float) -> dict[tuple[str, str], float]:
    """(part, column) -> this weight, of columns of texts that are prompt and completion beside each other only."""
    texts = [fact.name for fact in facts.values() if fact.kind == "text" and not fact.is_code and not fact.is_class]
    by_name = {normalise_name(name): name for name in texts}
    return {
        (part, by_name[name]): weight
        for pair in BESIDE
        if set(pair) <= by_name.keys()
        for part, name in zip(("prompt", "completion"), pair, strict=True)
    }


Facts = Mapping[str, ColumnFacts]
Guesser = Callable[[Facts, Facts, Mapping[str, str]], Guess | None]  # free columns, all columns, part -> taken column


def _asking(free: Facts, facts: Facts, taken: Mapping[str, str]) -> Guess | None:
    """The column with question marks; else the only one left; else the one before the answer."""
    prose = _prose(free)
    if not prose:
        return None
    asking = max(prose, key=lambda fact: fact.question_share)
    if asking.question_share >= QUESTION_SHARE and len(free) >= (1 if taken else 2):
        return Guess(asking.name, 0.6, f"{asking.question_share:.0%} of its cells end with a question mark")
    if taken:
        if len(prose) == 1:
            return Guess(prose[0].name, 0.5, "the only other column of text")
        order = list(facts)
        end = min(order.index(column) for column in taken.values())
        before = [fact for fact in prose if order.index(fact.name) < end]
        return Guess(before[-1].name, 0.3, "the column before") if before else None
    return Guess(prose[0].name, 0.4, "the first of two columns of text") if len(prose) == 2 else None


def _answering(free: Facts, facts: Facts, taken: Mapping[str, str]) -> Guess | None:
    """The only column of text left, else the longest. Without a question there is no answer, nor in a context."""
    if not taken:
        return None
    free = {name: fact for name, fact in free.items() if not any(name_weight(name, part) == 1 for part in _BESIDE)}
    prose = _prose(free) or [
        fact for fact in free.values() if fact.is_class and not fact.is_code and not has_other_word(fact.name)
    ]
    if not prose:
        return None
    if normalise_name(taken.get("question", "")) in HEADINGS:  # the text below it asks too: "Subject", "Description"
        others = [fact for fact in prose if normalise_name(fact.name) not in DETAILS]
        if len(others) < len(prose):
            names = [fact.name for fact in sorted(others, key=lambda fact: -fact.median_length)]
            return Guess(names[0], 0.4, "the longest column of text beside the description") if names else None
    if len(prose) == 1:
        return Guess(prose[0].name, 0.5, "the only other column of text")
    longest = max(prose, key=lambda fact: fact.median_length)
    return Guess(longest.name, 0.4, "the longest other column of text")


def _text(free: Facts, facts: Facts, taken: Mapping[str, str]) -> Guess | None:
    """The only column of text; beside a known label the one that people wrote: not annotated, by name, the longest."""
    prose = _prose(free)
    if not prose or (len(prose) > 1 and not taken):
        return None
    best = max(prose, key=lambda fact: (fact.bracket_share < _BRACKET_SHARE, _is_raw(fact.name), fact.median_length))
    answering = [fact for fact in prose if name_weight(fact.name, "answer") > 0]
    is_answered = bool(answering) and len(answering) < len(prose)
    if len(prose) > 1 and (is_answered or any(fact.question_share >= _ASKING_SHARE for fact in prose)):
        return Guess(best.name, 0.2, "one of several columns of text, though one asks and another may answer")
    others = sum(fact.kind == "text" and not fact.is_code and not fact.is_class for fact in free.values())
    why = "the only column of text" if others == 1 else f"of {others} columns of text the one most as people write"
    return Guess(best.name, 0.5, why)


def _label(free: Facts, facts: Facts, taken: Mapping[str, str]) -> Guess | None:
    """A column with few values that come again, beside one of text; who speaks or asks is no class."""
    speaking = [name for name in free if name_weight(name, "question") or normalise_name(name) in _SPEAKING]
    classes = [fact for fact in free.values() if fact.is_class and fact.name not in speaking]
    if not classes or not (taken or _prose(free)):
        return None
    strength = 0.65 if len(classes) == 1 else 0.4
    return Guess(classes[0].name, strength, f"{classes[0].distinct} short values that come again and again")


def _chat(kind: str) -> Guesser:
    def guess(free: Facts, facts: Facts, taken: Mapping[str, str]) -> Guess | None:
        chats = [fact for fact in free.values() if fact.kind == kind]
        return Guess(chats[0].name, 0.9, "its cells are lists of turns") if len(chats) == 1 else None

    return guess


_GUESSES: Mapping[str, Guesser] = {
    "question": _asking,
    "instruction": _asking,
    "prompt": _asking,
    "answer": _answering,
    "output": _answering,
    "completion": _answering,
    "text": _text,
    "label": _label,
    "messages": _chat("messages"),
    "conversations": _chat("conversations"),
}


def _prose(facts: Mapping[str, ColumnFacts]) -> list[ColumnFacts]:
    return [fact for fact in facts.values() if fact.is_prose]


def _is_raw(name: str) -> bool:
    return bool(_RAW_WORDS & set(normalise_name(name).split()))
