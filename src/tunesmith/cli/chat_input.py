"""What somebody types in a chat: entries of one or several lines, and the history of earlier ones.

Knows nothing of models and of what an entry means.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tunesmith.errors import DataError

_MARK = '"""'
_COMMAND = re.compile(r"(?P<escape>/)?/\w+(\s|$)")
_FIRST, _FURTHER = "you> ", "...> "
_HISTORY_LINES = 1000


def read_entry(read_line: Callable[[str], str]) -> str:
    '''One entry: a line; lines joined by a backslash at their ends; or everything between """ and """.

    After the name of a command such as /bad a block may follow too.

    Args:
        read_line: given a prompt, the next line without its line end.

    Raises:
        EOFError: there is nothing more. An entry that the end cuts off is given as it is.
    '''
    line = read_line(_FIRST)
    command, text = "", line.lstrip()
    if text.startswith("/"):
        command, _, text = text.partition(" ")
        text = text.lstrip()
    if text.startswith(_MARK):
        return f"{command} {_block(text.removeprefix(_MARK), read_line)}".strip()
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        try:
            lines.append(read_line(_FURTHER))
        except EOFError:
            break
    return "\n".join(lines).strip()


def question_of(entry: str) -> str | None:
    """What an entry asks; None where it is a command. A path is no command, and //word asks /word.

    >>> [question_of(entry) for entry in ("/help", "/etc/hosts is what?", "//help is what?", "Why?")]
    [None, '/etc/hosts is what?', '/help is what?', 'Why?']
    """
    match = _COMMAND.match(entry)
    if match is None:
        return entry
    return entry[1:] if match["escape"] else None


def _block(line: str, read_line: Callable[[str], str]) -> str:
    lines = []
    while not line.rstrip().endswith(_MARK):
        lines.append(line)
        try:
            line = read_line(_FURTHER)
        except EOFError:
            return "\n".join(lines).strip()
    return "\n".join([*lines, line.rstrip().removesuffix(_MARK)]).strip()


def piped_entries() -> Iterator[str]:
    """The entries of standard input to its end.

    Raises:
        DataError: it is not text.
    """

    def next_line(_: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    while True:
        try:
            yield read_entry(next_line)
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise DataError(
                "standard input is not text", cause=str(error), fix=f"send it as {sys.stdin.encoding}"
            ) from error


def keyboard() -> Callable[[str], str]:
    """`input` with line editing and a history that outlives the session, its newest 1000 lines, for the owner alone.

    The history is kept in $XDG_STATE_HOME/tunesmith (without it, ~/.local/state/tunesmith); where that cannot be
    written, a session has only a history of its own.
    """
    import readline

    path = _history_file()
    if path is not None:
        try:
            readline.read_history_file(path)
        except OSError:
            path = None
    readline.set_history_length(_HISTORY_LINES)

    def read_line(prompt: str) -> str:
        before = readline.get_current_history_length()
        line = input(prompt)
        new = readline.get_current_history_length() - before
        if path is not None and new > 0:
            with suppress(OSError):  # the disk is full: the session still has a history of its own
                readline.append_history_file(new, path)  # at once, since a session may end in any way
        return line

    return read_line


def _history_file() -> Path | None:
    """The file, made if need be, readable by its owner alone; None where it cannot be made."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification wants relative paths ignored (specifications.freedesktop.org/basedir-spec, "Basics").
    folder = (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "tunesmith"
    path = folder / "chat_history"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError:
        return None
    return path
