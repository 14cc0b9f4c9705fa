"""Bars of work in named parts: on a terminal, in a log, and one after another."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from tunesmith.cli import progress
from tunesmith.train import Event


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a terminal of 80 columns on standard error shows."""
    shown = io.StringIO()
    monkeypatch.setattr(progress, "live", lambda stream: True)
    monkeypatch.setattr(progress, "console", lambda stream: Console(file=shown, force_terminal=True, width=80))
    return shown


def test_a_terminal_has_a_bar_for_each_part(terminal: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.watch_work() as work:
        assert terminal.getvalue() == ""  # nothing before the first call: another bar may be there
        work("writing x.gguf", 1, 4)
        work("writing x.gguf", 4, 4)
        work("q8_0 answers", 2, 200)
    text = terminal.getvalue()
    assert "writing x.gguf" in text
    assert "4/4" in text
    assert "2/200" in text
    assert capsys.readouterr().out == ""


def test_bars_begin_anew_after_a_stop(terminal: io.StringIO) -> None:
    with progress.watch_work() as work, progress.watch_evaluation() as answers:
        work("writing", 4, 4)
        work.stop()
        answers("the base model", 1, 2)
        answers.stop()
        work("writing", 1, 9)
        work.stop()
    text = terminal.getvalue()
    assert "asking the base model" in text
    assert "1/2 answers" in text
    assert "1/9" in text


def test_a_log_has_a_line_when_a_part_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.watch_work() as work, progress.watch_evaluation() as answers:
        for done in range(1, 5):
            work("writing x.gguf", done, 4)
            answers("the base model", done, 4)
    found = capsys.readouterr()
    assert found.err.splitlines() == ["writing x.gguf", "4 answers by the base model"]
    assert found.out == ""


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE, errno.ENOSPC], ids=["terminal", "pipe", "disk"])
def test_nobody_who_reads_its_progress_does_not_end_the_training(
    number: int, is_live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "live", lambda stream: is_live)
    events = [Event("start", 0, 4, {}), *(Event("notice", step, 4, {"message": "news"}) for step in range(4))]
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", Closed(number, log))
        with progress.watch_training() as watch:
            for event in events:
                watch(event)
        log.write("what comes later")  # from a library, say
    assert (tmp_path / "log").read_text() == ""


class Closed(io.StringIO):
    """A stream that cannot be written to, with the file number of another one."""

    def __init__(self, number: int, other: TextIO) -> None:
        super().__init__()
        self.number, self.other = number, other

    def fileno(self) -> int:
        return self.other.fileno()

    def write(self, text: str) -> int:
        raise OSError(self.number, "not there")
