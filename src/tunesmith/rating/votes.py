"""votes.jsonl: one line a vote, appended and synced before it is acknowledged. Does not know who wrote what was rated.

A vote names the task and a side, never a model. A rater who votes again on the same task replaces the earlier vote. A
line that a crash or a full disk left damaged stays where it is, is told and is not counted.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.runs import append_line

CHOICES = ("left", "right", "tie", "both_bad")
SCORES = range(1, 6)
_WRITING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Vote:
    """What one rater said of one task: a choice between two answers, or a score from 1 to 5 for each criterion.

    seconds: from the moment the task was shown.
    """

    task: str
    rater: str
    choice: str | None = None
    scores: dict[str, int] = field(default_factory=dict)
    comment: str = ""
    seconds: float | None = None
    time: str = ""


@dataclass(frozen=True, slots=True)
class VoteLog:
    """The votes of one rating. Several processes may append; what is on disk is the truth."""

    path: Path

    def append(self, vote: Vote) -> None:
        """Add a vote; when this returns it is on disk.

        Raises:
            ResourceError: the disk is full, read-only, over quota or closed to us; the file is as before.
        """
        line = {**asdict(vote), "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        content = {name: value for name, value in line.items() if value not in (None, "", {})}
        with _WRITING:
            append_line(self.path, json.dumps(content, ensure_ascii=False))

    def read(self) -> tuple[list[Vote], list[int]]:
        """All votes in order, and the numbers of the lines that are damaged."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [], []
        votes: list[Vote] = []
        damaged: list[int] = []
        for number, line in enumerate(lines, start=1):
            vote = _parsed(line) if line.strip() else None
            if vote is not None:
                votes.append(vote)
            elif line.strip():
                damaged.append(number)
        return votes, damaged


def newest(votes: list[Vote]) -> list[Vote]:
    """The last vote of each rater on each task, in the order of their first."""
    return list({(vote.task, vote.rater): vote for vote in votes}.values())


def _parsed(line: bytes) -> Vote | None:
    try:
        content = json.loads(line)
        vote = Vote(**content)
    except (ValueError, TypeError):
        return None
    if not isinstance(vote.task, str) or not isinstance(vote.rater, str) or not isinstance(vote.scores, dict):
        return None
    is_choice = vote.choice in CHOICES and not vote.scores
    is_scored = vote.choice is None and vote.scores and all(score in SCORES for score in vote.scores.values())
    return vote if is_choice or is_scored else None
