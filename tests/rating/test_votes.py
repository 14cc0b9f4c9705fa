"""The votes file: what is acknowledged is on disk, and damage costs no other vote."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunesmith.errors import ResourceError
from tunesmith.rating.votes import Vote, VoteLog, newest


@pytest.fixture
def log(tmp_path: Path) -> VoteLog:
    return VoteLog(tmp_path / "votes.jsonl")


def test_votes_come_back_as_they_were(log: VoteLog) -> None:
    assert log.read() == ([], [])
    log.append(Vote("t1", "Ann", "left", comment="two\nlines \u2028 ü", seconds=1.5))
    log.append(Vote("t2", "Bob", scores={"correct": 5}))
    (first, second), damaged = log.read()
    assert damaged == []
    assert (first.task, first.rater, first.choice, first.comment) == ("t1", "Ann", "left", "two\nlines \u2028 ü")
    assert first.seconds == 1.5
    assert first.time.startswith("20")
    assert (second.choice, second.scores) == (None, {"correct": 5})


def test_a_vote_is_synced_before_it_is_acknowledged(log: VoteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(log.path.read_bytes()))
    log.append(Vote("t1", "Ann", "tie"))
    assert synced == [log.path.read_bytes()] * 2  # the file, and the new name in its folder
    assert b"tie" in synced[0]


@pytest.mark.parametrize("tail", [b'{"task": "t2", "rater": "Ann", "cho', b"\xff\xfe", b'{"task": "t2"}', b"[]"])
def test_a_torn_line_is_kept_told_and_not_counted(log: VoteLog, tail: bytes) -> None:
    log.append(Vote("t1", "Ann", "left"))
    before = log.path.read_bytes()
    log.path.write_bytes(before + tail)
    assert [vote.task for vote in log.read()[0]] == ["t1"]
    assert log.read()[1] == [2]
    log.append(Vote("t3", "Ann", "right"))
    votes, damaged = log.read()
    assert [vote.task for vote in votes] == ["t1", "t3"]
    assert damaged == [2]
    assert log.path.read_bytes().startswith(before + tail + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        '{"task": "t", "rater": "A", "choice": "middle"}',
        '{"task": "t", "rater": "A"}',
        '{"task": "t", "rater": "A", "choice": "left", "scores": {"c": 3}}',
        '{"task": "t", "rater": "A", "choice": "left", "scores": []}',
        '{"task": "t", "rater": "A", "scores": {"c": 6}}',
        '{"task": "t", "rater": "A", "scores": {"c": "5"}}',
        '{"task": 1, "rater": "A", "choice": "left"}',
        '{"task": "t", "rater": "A", "choice": "left", "model": "base"}',
        '{"task": "t", "rater": "A", "choice": ["left"]}',
    ],
)
def test_a_line_that_is_no_vote_is_damaged(log: VoteLog, line: str) -> None:
    log.path.write_text(line + "\n")
    assert log.read() == ([], [1])


def test_a_full_disk_leaves_the_file_as_it_was(log: VoteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(Vote("t1", "Ann", "left"))
    before = log.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        log.append(Vote("t2", "Ann", "left"))
    assert log.path.read_bytes() == before


def test_the_last_vote_of_a_rater_counts(log: VoteLog) -> None:
    for vote in (Vote("t1", "Ann", "left"), Vote("t1", "Bob", "left"), Vote("t1", "Ann", "tie")):
        log.append(vote)
    votes = log.read()[0]
    assert len(votes) == 3
    assert [(vote.rater, vote.choice) for vote in newest(votes)] == [("Ann", "tie"), ("Bob", "left")]
