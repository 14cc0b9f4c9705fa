"""One rating: its questions, sides and order. All of it is drawn once and kept in session.json.

What a rater sees of a task (`shown`) has a random id, texts and nothing else; who wrote them stays in this file.
"""

from __future__ import annotations

import json
import random
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, SettingsError
from tunesmith.rating.items import Item, read_items
from tunesmith.rating.votes import VoteLog
from tunesmith.runs import atomic_write, file_sha256

FORMAT_VERSION = 1
_SESSION = "session.json"
_VOTES = "votes.jsonl"


@dataclass(frozen=True, slots=True)
class Task:
    """What one vote is about: an item, and whose answers are shown, from left to right (one when it is scored)."""

    id: str
    item: int
    contestants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A rating as it is on disk.

    criteria: what is scored from 1 to 5; empty when answers are compared in pairs.
    identical: pairs left out because both wrote the same.
    """

    folder: Path
    source: str
    sha256: str
    criteria: tuple[str, ...]
    show_reference: bool
    items: tuple[Item, ...]
    tasks: tuple[Task, ...]
    identical: tuple[tuple[str, str], ...]

    @property
    def contestants(self) -> list[str]:
        """Names of the models, in the order of the file."""
        return list(dict.fromkeys(name for item in self.items for name in item.answers))

    @property
    def votes(self) -> VoteLog:
        return VoteLog(self.folder / _VOTES)

    def task(self, task_id: str) -> Task:
        """
        Raises:
            DataError: there is no such task.
        """
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise DataError(f"there is no task {task_id[:40]!r} in this rating", fix="load the page again")

    def shown(self, task: Task) -> dict[str, Any]:
        """What a rater may know of a task."""
        item = self.items[task.item]
        view: dict[str, Any] = {
            "id": task.id,
            "question": item.question,
            "answers": [item.answers[name] for name in task.contestants],
        }
        if item.conversation:
            view["conversation"] = list(item.conversation)
        if self.show_reference and item.reference is not None:
            view["reference"] = item.reference
        return view


def is_session(folder: Path) -> bool:
    """Whether a rating was begun there."""
    return (folder / _SESSION).is_file()


def begin(
    folder: Path,
    source: Path,
    items: Sequence[Item],
    *,
    criteria: Sequence[str] = (),
    show_reference: bool = False,
    rows: int | None = None,
    draw: random.Random | None = None,
) -> Session:
    """Draw questions, sides and order, and keep them in `folder`.

    Args:
        source: the file that the items were read from.
        rows: at most so many questions, drawn at random; None: all.
        draw: where chance comes from; by default the system's.

    Raises:
        DataError: there is nothing to compare, or votes of a rating whose session.json is gone lie there.
        ResourceError: the folder cannot be written.
    """
    chance = draw or random.SystemRandom()
    chosen = list(items) if rows is None or rows >= len(items) else chance.sample(list(items), rows)
    tasks, identical = _scored(chosen) if criteria else _pairs(chosen, chance)
    if not tasks:
        _refuse(source, chosen, identical)
    chance.shuffle(tasks)
    session = Session(
        folder=folder,
        source=str(source.absolute()),
        sha256=file_sha256(source),
        criteria=tuple(criteria),
        show_reference=show_reference,
        items=tuple(chosen),
        tasks=tuple(tasks),
        identical=tuple(identical),
    )
    if session.votes.read() != ([], []):
        raise DataError(
            f"{session.votes.path} holds votes, but {folder / _SESSION} is gone",
            fix="restore it, or begin another rating with --out FOLDER",
        )
    content = {"format_version": FORMAT_VERSION, **{k: v for k, v in asdict(session).items() if k != "folder"}}
    atomic_write(session.votes.path, b"")  # its name is durable before the first vote
    atomic_write(folder / _SESSION, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return session


def open_session(folder: Path) -> Session:
    """The rating that was begun in `folder`.

    Raises:
        DataError: its session.json is damaged. SettingsError: a newer tunesmith wrote it, or there is none.
    """
    path = folder / _SESSION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise SettingsError(
                f"{path} was made by a newer tunesmith: its format is {version}, this one reads {FORMAT_VERSION}",
                fix="pip install --upgrade tunesmith",
            )
        return Session(
            folder=folder,
            source=content["source"],
            sha256=content["sha256"],
            criteria=tuple(content["criteria"]),
            show_reference=content["show_reference"],
            items=tuple(
                Item(**{**item, "conversation": tuple(item.get("conversation", ()))}) for item in content["items"]
            ),
            tasks=tuple(Task(task["id"], task["item"], tuple(task["contestants"])) for task in content["tasks"]),
            identical=tuple((first, second) for first, second in content["identical"]),
        )
    except FileNotFoundError as error:
        raise SettingsError(f"no rating was begun in {folder}", fix="tunesmith rate RUN begins one") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "restore it: without it nobody knows whose answers were voted on"
        raise DataError(f"{path} is damaged", cause=f"{type(error).__name__}: {error}", fix=fix) from error


def check_same(session: Session, *, criteria: Sequence[str], show_reference: bool, rows: int | None) -> None:
    """Refuse to go on with a rating under other rules than it was begun with; what is not asked for is not compared.

    Raises:
        SettingsError: with every difference.
    """
    problems = []
    if criteria and tuple(criteria) != session.criteria:
        was = f"scores of {', '.join(session.criteria)}" if session.criteria else "a comparison in pairs"
        problems.append(f"--scale {','.join(criteria)}: it is {was}")
    if show_reference and not session.show_reference:
        problems.append("--reference: it hides the right answers")
    if rows is not None and min(rows, _most_questions(session)) != len(session.items):
        problems.append(f"--rows {rows}: it has {len(session.items)} questions")
    if problems:
        raise SettingsError(
            f"the rating in {session.folder} was begun differently:",
            problems=tuple(problems),
            fix="leave these options out to go on with it, or begin another with --out FOLDER",
        )


def _most_questions(session: Session) -> int:
    """Questions of the file that the rating was begun with; any number where it is gone or another now."""
    source = Path(session.source)
    return sys.maxsize if not source.is_file() or has_changed(session, source) else len(read_items(source))


def has_changed(session: Session, source: Path) -> bool:
    """Whether the answers in `source` are other ones than those that are rated."""
    return source.is_file() and file_sha256(source) != session.sha256


def _pairs(items: Sequence[Item], chance: random.Random) -> tuple[list[Task], list[tuple[str, str]]]:
    tasks: list[Task] = []
    identical: list[tuple[str, str]] = []
    for number, item in enumerate(items):
        for pair in combinations(item.answers, 2):
            first, second = (item.answers[name].strip() for name in pair)
            if first == second:
                identical.append(pair)
            else:
                sides = pair if chance.random() < 0.5 else pair[::-1]
                tasks.append(Task(_new_id(), number, sides))
    return tasks, identical


def _scored(items: Sequence[Item]) -> tuple[list[Task], list[tuple[str, str]]]:
    return [Task(_new_id(), number, (name,)) for number, item in enumerate(items) for name in item.answers], []


def _new_id() -> str:
    return secrets.token_hex(8)


def _refuse(source: Path, items: Sequence[Item], identical: Sequence[tuple[str, str]]) -> None:
    if identical:
        raise DataError(
            f"there is nothing to compare in {source}: all {len(identical)} pairs of answers are identical",
            fix="rate models that differ",
        )
    names = sorted({name for item in items for name in item.answers})
    found = f"only answers of {names[0]!r}" if len(names) == 1 else "no question that two models answered"
    raise DataError(
        f"there is nothing to compare in {source}: it has {found}",
        fix="give each question the answers of two models or more, or score them one by one: --scale correct,helpful",
    )
